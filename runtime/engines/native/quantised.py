"""Weights that AWQ and GPTQ packed into int32, turned back into ordinary numbers when they are read.

A linear layer of C inputs and O outputs holds `qweight`, and per group of inputs `qzeros` and `scales`, (groups, O);
its weight is `scale * (q - zero)`. The layouts are those of AutoAWQ's `gemm` (arXiv 2306.00978) and AutoGPTQ
(arXiv 2210.17323) with their successors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import InvalidInput, UnsupportedModel
from .integers import Bits

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in an int32 of AWQ's the i-th output stands: it packs outputs 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a folder's linear layers are packed."""

    method: Literal["awq", "gptq"]
    bits: int
    zero_offset: int = 0
    """What is added to a stored zero point: 1 in GPTQ's first format."""
    is_even: bool = True
    """Are 32 neighbouring inputs always of one group?"""

    @classmethod
    def from_hf(cls, data: Mapping[str, Any]) -> Quantisation:
        """From `quantization_config` of a config.json. Raises `UnsupportedModel` that names what is not supported."""
        method = data.get("quant_method", "unknown")
        if data.get("dynamic"):
            raise UnsupportedModel(f"{method} with settings of their own for some layers (dynamic) is not supported")
        bits = data.get("bits", data.get("w_bit"))
        form = str(data.get("checkpoint_format") or data.get("version") or ("gemm" if method == "awq" else "gptq"))
        size = data.get("group_size", data.get("q_group_size", -1))
        is_even = not data.get("desc_act") and (size == -1 or (isinstance(size, int) and size % 32 == 0))
        if method == "awq" and type(bits) is int and bits == 4 and form.lower() == "gemm":
            return cls(method="awq", bits=4, is_even=is_even)
        if method == "gptq" and type(bits) is int and bits in (2, 3, 4, 8) and form in ("gptq", "gptq_v2"):
            return cls(method="gptq", bits=bits, zero_offset=1 if form == "gptq" else 0, is_even=is_even)
        if method in ("awq", "gptq"):
            raise UnsupportedModel(
                f"{method} with {bits!r} bits in the format {form!r} is not supported; "
                "supported: awq (gemm, 4 bits), gptq (2, 3, 4 and 8 bits)"
            )
        raise UnsupportedModel(
            f"quantised weights ({method}) are not supported; supported: awq, gptq, GGUF files, bf16 and fp32"
        )

    @property
    def nearest_bits(self) -> Bits:
        """Of `integers.Blocks`, for a weight that was packed."""
        return 4 if self.bits <= 4 and self.is_even else 8

    def weight(self, name: str, read: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
        """The weight (O, C) of the layer `name`; `read` gives stored tensors. Raises `KeyError` for a layer that is not
        packed, and `InvalidInput` for parts that are missing or of another kind, or do not fit each other."""
        packed = _checked(f"{name}.qweight", read, 2)
        try:
            scales = _checked(f"{name}.scales", read, 2, is_integer=False).float()
            zeros = _checked(f"{name}.qzeros", read, 2)
        except KeyError as missing:
            raise InvalidInput(f"{name} has a qweight, but lacks the tensor {missing.args[0]}") from None
        if self.method == "awq":
            values, zeros = _unpack_awq(packed), _unpack_awq(zeros)
        else:
            largest = (1 << self.bits) - 1
            values, zeros = _unpack(packed.T, self.bits).T, _unpack(zeros, self.bits) + self.zero_offset & largest
        groups = self._groups(name, read, len(values), len(scales))
        inputs, outputs = values.shape
        if scales.shape[1] != outputs or zeros.shape != scales.shape or groups.shape != (inputs,):
            raise InvalidInput(
                f"{name}: packed weights {tuple(values.shape)}, scales {tuple(scales.shape)} and zero points "
                f"{tuple(zeros.shape)} do not fit each other"
            )
        if inputs and not 0 <= int(groups.min()) <= int(groups.max()) < len(scales):
            raise InvalidInput(f"{name}.g_idx names groups beyond the {len(scales)} that have scales")
        weight = torch.empty(outputs, inputs, dtype=dtype)
        for begin in range(0, inputs, 256):  # so that not all of it is ever in float32
            rows = slice(begin, begin + 256)
            weight[:, rows] = ((values[rows] - zeros[groups[rows]]) * scales[groups[rows]]).T
        return weight

    def _groups(self, name: str, read: Callable[[str], Tensor], inputs: int, count: int) -> Tensor:
        """Which group each input belongs to, (C,)."""
        if self.method == "gptq":
            try:
                return _checked(f"{name}.g_idx", read, 1).long()
            except KeyError:
                pass
        if not count or inputs % count:
            raise InvalidInput(f"{name}: {inputs} inputs do not divide into {count} groups")
        return torch.arange(inputs) // (inputs // count)


def _checked(name: str, read: Callable[[str], Tensor], ndim: int, *, is_integer: bool = True) -> Tensor:
    """The stored tensor. Raises `InvalidInput` where it is of another kind."""
    tensor = read(name)
    fits = tensor.dtype in (torch.int32, torch.int64) if is_integer else tensor.dtype.is_floating_point
    if tensor.ndim != ndim or not fits:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InvalidInput(
            f"{name} must hold {'int32' if is_integer else 'floating-point numbers'} in {ndim} dimensions, "
            f"not {kind} in the shape {tuple(tensor.shape)}"
        )
    return tensor


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Numbers of so many bits out of (rows, int32s), lowest bits first; one may reach into the next int32 (3 bits)."""
    words = packed.to(torch.int64) & 0xFFFFFFFF
    starts = torch.arange(words.shape[1] * 32 // bits) * bits
    low = words[:, starts // 32] >> (starts % 32)
    spill = (words[:, ((starts + bits - 1) // 32)] << 32) >> (starts % 32)
    return ((low | spill) & ((1 << bits) - 1)).to(torch.int32)


def _unpack_awq(packed: Tensor) -> Tensor:
    values = _unpack(packed, 4)
    return values.view(*packed.shape, 8)[:, :, list(_AWQ_ORDER)].flatten(1)
