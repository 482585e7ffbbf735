"""Finds and loads the compiled kernels (attention/csrc, a plain C ABI), if the install could build them."""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path

import torch

ABI = 3
"""Must equal `plait_attention_abi()`, so that a library left from an older checkout is not called."""

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""`Type` of csrc/vectors.h."""

_FOLDER = Path(__file__).parent

_POINTER, _INT32, _INT64, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class PlanArguments(ctypes.Structure):
    """`PlanArguments` of csrc/span_attention.cpp."""

    _fields_ = [
        *((name, _POINTER) for name in "run_blocks run_start entries groups".split()),
        *((name, _INT32) for name in "num_rows num_runs num_run_blocks num_entries num_groups num_blocks".split()),
        *((name, _INT32) for name in "heads kv_heads size block_size threads".split()),
    ]


class CallArguments(ctypes.Structure):
    """`CallArguments` of csrc/span_attention.cpp."""

    _fields_ = [
        *((name, _POINTER) for name in "q k_pool v_pool out lse".split()),
        *((name, _INT64) for name in "q_row q_head k_block k_head v_block v_head".split()),
        ("scale", _FLOAT),
        *((name, _INT32) for name in "q_type pool_type threads is_unturned".split()),
    ]


class StoreArguments(ctypes.Structure):
    """`StoreArguments` of csrc/span_attention.cpp."""

    _fields_ = [
        *((name, _POINTER) for name in "q k v cosine sine slots q_norm k_norm k_range k_pool v_pool".split()),
        *((name, _INT64) for name in "q_row q_head k_row k_head v_row v_head".split()),
        *((name, _INT64) for name in "kp_block kp_head vp_block vp_head".split()),
        *((name, _INT32) for name in "rows heads kv_heads size rotary block_size num_blocks".split()),
        *((name, _INT32) for name in "row_type pool_type threads".split()),
        ("eps", _FLOAT),
    ]


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None if it was not built or is of another version."""
    for path in sorted(_FOLDER.glob("_kernels*.so")):
        library = ctypes.CDLL(str(path))
        if getattr(library, "plait_attention_abi", int)() != ABI:
            continue
        library.plait_attention_new.restype = _POINTER
        library.plait_attention_free.argtypes = [_POINTER]
        library.plait_attention_prepare.argtypes = [_POINTER, _POINTER]
        library.plait_attention_rotary.argtypes = [_POINTER, _POINTER, _INT32]
        library.plait_attention_rotary.restype = None
        library.plait_attention_run.argtypes = [_POINTER, _POINTER]
        library.plait_attention_run.restype = None
        library.plait_rope_and_store.argtypes = [_POINTER]
        return library
    return None


@functools.cache
def warn_missing() -> None:
    """Say once per process that attention on the CPU runs without its kernels."""
    warnings.warn(
        "plait's compiled attention kernels are missing, so plain torch serves (slower). "
        "To build them, install a C++ compiler and reinstall plait.",
        RuntimeWarning,
        stacklevel=4,
    )
