"""Options of the native engine as configurations and commands give them: JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch

from ....attention import Impl
from ...errors import InvalidInput

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_COUNTS = ("num_threads", "kv_tokens", "block_size", "max_rows", "prefill_chunk", "context_limit", "context_bytes")


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a dtype that was given by name. Raises `InvalidInput` for values of a wrong type, unknown dtypes
    and devices, and devices that are not here."""
    found = dict(options)
    for name in _COUNTS:
        value = found.get(name)
        if value is not None and type(value) is not int:
            raise InvalidInput(f"{name} must be a whole number, not {value!r}")
    if (limit := found.get("context_limit")) is not None and limit < 1:
        raise InvalidInput(f"context_limit must be at least 1, not {limit}")
    if found.get("impl", "auto") not in get_args(Impl):
        raise InvalidInput(f"unknown impl {found['impl']!r}; known: {', '.join(get_args(Impl))}")
    dtype = found.get("dtype")
    if isinstance(dtype, str) and dtype != "auto":
        if dtype not in DTYPES:
            raise InvalidInput(f"unknown dtype {dtype!r}; known: auto, {', '.join(DTYPES)}")
        found["dtype"] = DTYPES[dtype]
    if "device" in found:
        _check_device(found["device"])
    return found


def _check_device(name: object) -> None:
    try:
        device = torch.device(name)  # type: ignore[call-overload]
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInput(f"device {str(name)!r} cannot be used here: {reason}") from None
