"""Finds and loads the compiled model kernels (csrc), and mirrors their structures."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import warnings
from pathlib import Path

_ABI = 11
"""Of the functions and structures below; csrc/ops.cpp has the same number."""

_POINTER, _INT64, _FLOAT, _INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32

FLOAT32, BFLOAT16, FLOAT32_HALVED, QUANTISED, BFLOAT16_TILES = range(5)
"""Types of weights and inputs, and how they are multiplied."""
BAD_TOKEN, BAD_SLOT, INTERRUPTED = -1, -2, -3
"""Results."""


class LinearArguments(ctypes.Structure):
    """`Linear` of csrc/ops.cpp, as the classes below are those of their names there and in csrc/sampling.h."""

    _fields_ = (("panels", _POINTER), ("bias", _POINTER), ("inputs", _INT64), ("outputs", _INT64), ("bits", _INT64))


class LayerArguments(ctypes.Structure):
    _fields_ = (
        *((name, LinearArguments) for name in ("qkv", "output", "gate_up", "down")),
        *((name, _POINTER) for name in ("attention_norm", "mlp_norm")),
    )


BUFFERS = ("x", "qkv", "gate_up", "input", "attended", "middle", "integers")


class WorkArguments(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in BUFFERS),
        *((f"{name}_stride", _INT64) for name in BUFFERS),
        ("hidden_size", _INT64),
        ("eps", _FLOAT),
        *((name, _INT32) for name in ("type", "threads")),
    )


class StackArguments(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("embedding", "head", "layers", "norm")),
        *((name, _INT64) for name in ("num_layers", "vocabulary")),
        *((name, _POINTER) for name in ("rope_and_store", "prepare", "attend")),
        *((name, _POINTER) for name in ("store_arguments", "attend_arguments", "inv_freq")),
        ("rotary", _INT64),
        ("attention_factor", _FLOAT),
        *((name, _POINTER) for name in ("cosine", "sine", "slots", "attended_heads")),
    )


class StepArguments(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("tokens", "positions", "slots", "logit_rows")),
        *((name, _INT64) for name in ("rows", "num_logits")),
        *((name, _POINTER) for name in ("attention_plan", "hidden")),
        ("hidden_stride", _INT64),
        *((name, _POINTER) for name in ("logits", "interrupt")),
    )


class BurstArguments(ctypes.Structure):
    _fields_ = (
        ("steps", _INT64),
        *((name, _POINTER) for name in ("sampled", "stop_start", "stop_ids")),
        *((name, _POINTER) for name in ("plan_arguments", "entries", "run_blocks", "run_start")),
        *((name, _INT64) for name in ("num_entries", "block_size")),
        ("draws", _POINTER),
    )


class SampleArguments(ctypes.Structure):
    _fields_ = (
        ("logits", _POINTER),
        *((name, _INT64) for name in ("stride", "rows", "vocabulary")),
        *((name, _POINTER) for name in ("temperature", "top_p", "min_p", "uniform", "top_k", "forced", "scored")),
        *((name, _POINTER) for name in ("tokens", "sums", "logprobs", "certainties")),
    )


def open_library(path: str | Path) -> ctypes.CDLL:
    """Load one built library; raises `OSError` if it does not load or was built from other sources."""
    library = ctypes.CDLL(str(path))
    if getattr(library, "plait_ops_abi", int)() != _ABI:
        raise OSError(f"{path} does not belong to this version of plait")
    library.plait_embed.argtypes = (_POINTER, _POINTER, _POINTER, _INT64, _INT64)
    library.plait_qkv.argtypes = (_POINTER, _POINTER, _INT64)
    library.plait_finish.argtypes = (_POINTER, _POINTER, _POINTER, _INT64)
    library.plait_head.argtypes = (
        *(_POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64, _POINTER, _POINTER, _INT64, _POINTER),
    )
    library.plait_forward.argtypes = (_POINTER, _POINTER, _POINTER)
    library.plait_decode.argtypes = (_POINTER, _POINTER, _POINTER, _POINTER)
    library.plait_decode.restype = _INT64
    library.plait_angles.argtypes = (_POINTER, _POINTER, _INT64, _INT64, _POINTER, _POINTER)
    library.plait_sample.argtypes = (_POINTER,)
    return library


@functools.cache
def kernel_library() -> ctypes.CDLL | None:
    """The library that setup.py built; None, after one warning, where there is none that fits."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            with contextlib.suppress(OSError):
                return open_library(path)
    warnings.warn(
        "plait's compiled model kernels are missing, so plain torch serves (slower). "
        "To build them, install a C++ compiler and reinstall plait.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
