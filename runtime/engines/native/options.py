"""`NativeOptions`: how the native engine runs; in Python, or as configurations and commands give it: JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import torch

from ....attention import Impl
from ...errors import InvalidInput
from .context_files import DEFAULT_BYTES
from .integers import WEIGHT_TYPES, WeightType
from .tokenizer import check_template_kwargs

KVType = Literal["int8"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST = {
    "num_threads": 1024, "tensor_parallel": 1024, "kv_tokens": 2**32, "swap_tokens": 2**32, "block_size": 2**16,
    "max_rows": 2**24, "draft_rows": 2**24, "prefill_chunk": 2**24, "slice_rows": 2**24, "context_limit": 2**40,
    "context_bytes": 2**60,
}  # fmt: skip
"""Whole numbers, and what is beyond any machine."""
_OPTIONAL = ("kv_tokens", "swap_tokens", "block_size", "slice_rows", "draft_rows", "context_limit")
_FLAGS = ("batch_invariant", "headless", "keep_logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOptions:
    """How a `NativeEngine` runs."""

    device: str = "cpu"
    dtype: torch.dtype | Literal["auto"] = "auto"
    """Of weights and KV; "auto": float32 for small models on the CPU, else the checkpoint's."""
    weights: WeightType | None = None
    """Round the weights of linear layers as they are loaded, for the compiled kernels: to 8 bits ("int8"), to 4 with
    embedding and head in 8 ("int4"), or, of a GGUF file or what AWQ or GPTQ packed, each to those that keep what is
    stored ("stored"): 4 for grids of 16 values (Q4_0, Q4_1, Q4_K, AWQ, GPTQ), 8 for others, embedding and head.
    `dtype` is then the type of the KV alone. None: as they are."""
    kv_dtype: KVType | None = None
    """Round keys and values to 8 bits as they are stored, "int8", with a scale for each token and head: half the memory
    of bfloat16, on the CPU. None: as `dtype`."""
    impl: Impl = "auto"
    """"cpu": the compiled kernels; "triton": those of a GPU; "torch"; "auto": what is there. As in `attention`."""
    num_threads: int | None = None
    """OpenMP threads of the compiled kernels; None: one for small models and with `tensor_parallel`, else as many as
    pay, by a measurement when the model is loaded, up to OMP_NUM_THREADS (threads.py). Tokens do not depend on it."""
    tensor_parallel: int = 1
    """Processes among which each layer is split, with as many devices: `cuda:0`, `cuda:1`, ..., or those from `device`
    on; on the CPU all share it. They divide the model's key/value heads. With more than one there is no swap space:
    what does not fit into the KV store ends for lack of memory (`memory`)."""
    kv_tokens: int | None = None
    """Tokens the KV store holds; None: a quarter of the free memory, but no more than 64 branches at the end of their
    context hold (memory.py). On the CPU it is taken as it is needed, not at once."""
    swap_tokens: int | None = None
    """Tokens whose keys and values may be in host memory while others need the KV store more; None: what a quarter of
    the free memory holds; 0: none. The compiled kernels of the CPU compute again what finds no room there, elsewhere
    generations end for lack of memory (`memory`)."""
    block_size: int | None = None
    """Tokens per KV block; a multiple of 16, on a GPU one that divides 64. None: 16, or 64 on a GPU, where the kernels
    copy blocks as a whole."""
    batch_invariant: bool = True
    """On a GPU: the bits of a branch's results do not depend on what else runs. Without, long contexts that many
    branches share are faster. The compiled kernels of the CPU are always so, plain torch is never quite."""
    max_rows: int = 1024
    """Tokens per forward pass at most."""
    prefill_chunk: int = 512
    """Of those, tokens of prompts at most."""
    draft_rows: int | None = None
    """Rows of a step in which a few branches verify what they may write next (drafting.py), for the compiled kernels of
    the CPU; it changes nothing but the speed. 0: none. None: 16 for models that no cache holds."""
    context_limit: int | None = None
    """Positions one branch may span; None: what the model was made for. Beyond that only where the model's RoPE can be
    stretched: "longrope" and "dynamic", with other results for short texts too (rope.py)."""
    headless: bool = False
    """Load classifiers too, for their hidden states (`SamplingParams.hidden_state`)."""
    slice_rows: int | None = None
    """Of those, how many one job gets while others run: a large job is dealt out in slices, lest each token of a small
    one wait for all of it. None: so many that of n jobs the smallest takes n times as long as it would alone, by what
    steps have taken so far (pace.py); and alone no more than it takes to lose but a tenth of its time, so that
    whoever comes waits for a short step."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template beyond the messages, as in transformers' `apply_chat_template`:
    `{"enable_thinking": False}` for Qwen3."""
    contexts: str | Path | None = None
    """Folder in which encoded contexts are kept, for other processes too; None: in memory alone."""
    context_bytes: int = DEFAULT_BYTES
    """Size of that folder at most; what was used least recently goes."""
    keep_logits: bool = False
    """Keep every branch's last logits in `NativeBranch.logits`, for tests and analysis."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> NativeOptions:
        """As configurations and commands give them. Raises `InvalidInput`, for names that there are not too."""
        known = [one.name for one in fields(cls)]
        if odd := [name for name in options if name not in known]:
            raise InvalidInput(f"the native engine has no option {odd[0]!r}; known: {', '.join(known)}")
        return cls(**read_options(options))

    def __post_init__(self) -> None:
        if self.block_size is not None and (self.block_size < 16 or self.block_size % 16):
            raise InvalidInput(f"block_size must be a multiple of 16, not {self.block_size}")
        for name in ("num_threads", "tensor_parallel", "max_rows", "prefill_chunk", "slice_rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.weights is not None and self.weights not in WEIGHT_TYPES:
            raise InvalidInput(f"unknown weights {self.weights!r}; known: {', '.join(WEIGHT_TYPES)}")
        if self.tensor_parallel > 1 and self.weights is not None:
            raise InvalidInput(f"weights={self.weights!r} needs one process; leave weights or tensor_parallel out")
        if self.kv_dtype is not None:
            self._check_kv_dtype()
        if self.tensor_parallel > 1 and self.impl == "cpu":
            raise InvalidInput("impl='cpu': the compiled kernels run in one process; leave impl or tensor_parallel out")
        if self.tensor_parallel > 1 and self.contexts is not None:
            raise InvalidInput("contexts are kept on disk by one process only; leave contexts or tensor_parallel out")
        if self.tensor_parallel > 1 and self.swap_tokens:
            raise InvalidInput(
                "keys and values are swapped by one process only; leave swap_tokens or tensor_parallel out"
            )
        for name in ("swap_tokens", "draft_rows", "context_bytes"):
            if (getattr(self, name) or 0) < 0:
                raise InvalidInput(f"{name} must not be negative, is {getattr(self, name)}")

    def _check_kv_dtype(self) -> None:
        if self.kv_dtype not in get_args(KVType):
            raise InvalidInput(f"unknown kv_dtype {self.kv_dtype!r}; known: {', '.join(get_args(KVType))}")
        if self.tensor_parallel > 1:
            raise InvalidInput(f"kv_dtype={self.kv_dtype!r} needs one process; leave kv_dtype or tensor_parallel out")
        if self.impl == "triton" or torch.device(self.device).type != "cpu":
            raise InvalidInput(f"kv_dtype={self.kv_dtype!r} is for the CPU; leave kv_dtype out, or device and impl")


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a dtype that was given by name. Raises `InvalidInput` for values of a wrong type, unknown dtypes
    and devices, and devices that are not here."""
    found = dict(options)
    for name, most in _MOST.items():
        value = found.get(name, 1)
        if value is None and name in _OPTIONAL:
            continue
        if type(value) is not int:
            raise InvalidInput(f"{name} must be a whole number, not {value!r}")
        if not -most <= value <= most:
            raise InvalidInput(f"{name} must be at most {most}, not {value}")
    for name in _FLAGS:
        if not isinstance(value := found.get(name, False), bool):
            raise InvalidInput(f"{name} must be true or false, not {value!r}")
    check_template_kwargs(found.get("chat_template_kwargs", {}))
    if not isinstance(found.get("contexts"), (str, Path, NoneType)):
        raise InvalidInput(f"contexts must be a folder's name, not {found['contexts']!r}")
    if (limit := found.get("context_limit")) is not None and limit < 1:
        raise InvalidInput(f"context_limit must be at least 1, not {limit}")
    if str(found.get("impl", "auto")) not in get_args(Impl):
        raise InvalidInput(f"unknown impl {found['impl']!r}; known: {', '.join(get_args(Impl))}")
    dtype = found.get("dtype", "auto")
    if dtype != "auto" and dtype not in DTYPES.values():
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise InvalidInput(f"unknown dtype {dtype!r}; known: auto, {', '.join(DTYPES)}")
        found["dtype"] = DTYPES[dtype]
    if "device" in found:
        _check_device(found["device"])
    return found


def _check_device(name: object) -> None:
    try:
        if not isinstance(name, (str, torch.device)):
            raise TypeError("a device is named by a text")
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("nothing is computed on it")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InvalidInput(f"device {str(name)!r} cannot be used here: {reason}") from None
