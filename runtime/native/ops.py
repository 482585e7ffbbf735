"""The compiled CPU kernels (csrc/ops.cpp): packing of weights, workspaces, and the calls, one per half layer."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...attention import Impl
from ..errors import InvalidInput
from .config import ModelConfig
from .model import LayerOps, LayerWeights, Linear, TorchOps, Weights
from .pool import zeros

_ABI = 1
"""Of the functions and structures below; csrc/ops.cpp has the same number."""


class _Linear(ctypes.Structure):
    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
    )


_BUFFERS = ("x", "qkv", "gate_up", "input", "attended", "middle")


class _Work(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _BUFFERS),
        *((f"{name}_stride", ctypes.c_int64) for name in _BUFFERS),
        ("hidden_size", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def open_library(path: str | Path) -> ctypes.CDLL:
    """Load one built library; raises `OSError` if it does not load or was built from other sources."""
    library = ctypes.CDLL(str(path))
    if getattr(library, "plait_ops_abi", int)() != _ABI:
        raise OSError(f"{path} does not belong to this version of plait")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.plait_embed.argtypes = (pointer, pointer, pointer, number, number)
    library.plait_qkv.argtypes = (pointer, pointer, number)
    library.plait_finish.argtypes = (pointer, pointer, pointer, number)
    library.plait_head.argtypes = (pointer, pointer, pointer, pointer, number, number, pointer, number, pointer)
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


def choose_ops(config: ModelConfig, weights: Weights, impl: Impl, num_threads: int) -> LayerOps:
    """Compiled kernels ("cpu"), plain torch ("torch"), or ("auto") kernels where they can serve.

    Raises `InvalidInput` for "cpu" where they cannot: weights on another device, neither float32 nor bfloat16, or no
    library.
    """
    embedding = weights.embedding
    fits = embedding.device.type == "cpu" and embedding.dtype in (torch.float32, torch.bfloat16)
    if impl in ("auto", "cpu") and fits and (library := kernel_library()) is not None:
        return KernelOps(library, config, weights, num_threads)
    if impl == "cpu":
        raise InvalidInput(
            f"impl='cpu' needs the compiled kernels and float32 or bfloat16 weights on the CPU, "
            f"not {embedding.dtype} on {embedding.device}"
        )
    return TorchOps(config, weights)


class KernelOps:
    """`LayerOps` by compiled kernels, with weights in packed form and float32 activations.

    Inputs of linear layers are rounded to the weights' type, sums are float32. Each row's result is bitwise the same
    whatever other rows there are.
    """

    def __init__(self, library: ctypes.CDLL, config: ModelConfig, weights: Weights, num_threads: int) -> None:
        self._library = library
        self._config = config
        self._dtype = weights.embedding.dtype
        self._panel: int = library.plait_panel()
        self._kept: list[Tensor] = []
        """What the structures point to."""
        self._layers = [self._layer(layer) for layer in weights.layers]
        self._layer_at = [ctypes.addressof(layer) for layer in self._layers]
        self._norm = self._vector(weights.norm)
        self._embedding = self._linear([Linear(weights.embedding)])
        tied = weights.lm_head is weights.embedding
        self._head = self._embedding if tied else self._linear([Linear(weights.lm_head)])
        self._work = _Work(
            hidden_size=config.hidden_size,
            eps=config.rms_norm_eps,
            is_bfloat16=self._dtype == torch.bfloat16,
            threads=num_threads,
        )
        self._work_at = ctypes.addressof(self._work)
        self._buffers: dict[str, Tensor] = {}
        self._capacity = 0
        self._rows = -1
        self._x = torch.empty(0)
        self._qkv = (self._x, self._x, self._x)

    def embed(self, tokens: Tensor) -> Tensor:
        assert tokens.dtype == torch.int64 and tokens.is_contiguous()
        rows = tokens.shape[0]
        if rows != self._rows:
            self._resize(rows)
        if self._library.plait_embed(
            ctypes.addressof(self._embedding), self._work_at, tokens.data_ptr(), rows, self._config.vocab_size
        ):
            raise InvalidInput(f"a token id is outside the model's vocabulary of {self._config.vocab_size}")
        return self._x

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._library.plait_qkv(self._layer_at[layer], self._work_at, self._rows)
        return self._qkv

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        assert attended.dtype == torch.float32 and attended.is_contiguous()
        self._library.plait_finish(self._layer_at[layer], self._work_at, attended.data_ptr(), self._rows)
        return self._x

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, vocab = x.shape[0], self._config.vocab_size
        hidden = torch.empty(rows, self._padded(self._config.hidden_size))
        logits = torch.empty(rows, self._head.outputs)
        self._library.plait_head(
            ctypes.addressof(self._head), self._norm, self._work_at,
            x.data_ptr(), x.stride(0), rows, hidden.data_ptr(), hidden.stride(0), logits.data_ptr(),
        )  # fmt: skip
        return logits[:, :vocab], hidden[:, : self._config.hidden_size]

    def _resize(self, rows: int) -> None:
        """Make room for a step of `rows` rows, and views of it."""
        config = self._config
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        if rows > self._capacity:
            self._capacity = max(rows, 2 * self._capacity)
            widths = (
                config.hidden_size,
                queries + 2 * keys,
                2 * self._padded(config.intermediate_size),
                config.hidden_size,
                queries,
                config.intermediate_size,
            )
            for name, width in zip(_BUFFERS, widths, strict=True):
                # A stride that is no power of two: rows must not compete for the same cache sets.
                stride = self._padded(width) + 16
                buffer = self._buffers[name] = torch.zeros(self._capacity, stride)
                setattr(self._work, name, buffer.data_ptr())
                setattr(self._work, f"{name}_stride", stride)
        self._rows = rows
        self._x = self._buffers["x"][:rows, : config.hidden_size]
        qkv = self._buffers["qkv"][:rows]
        self._qkv = (
            qkv[:, :queries].view(rows, config.num_heads, -1),
            qkv[:, queries : queries + keys].view(rows, config.num_kv_heads, -1),
            qkv[:, queries + keys : queries + 2 * keys].view(rows, config.num_kv_heads, -1),
        )

    def _layer(self, weights: LayerWeights) -> _Layer:
        return _Layer(
            qkv=self._linear([weights.q, weights.k, weights.v]),
            output=self._linear([weights.o]),
            gate_up=self._linear([weights.gate, weights.up], pad_each=True),
            down=self._linear([weights.down]),
            attention_norm=self._vector(weights.attention_norm),
            mlp_norm=self._vector(weights.mlp_norm),
        )

    def _padded(self, n: int) -> int:
        return -(-n // self._panel) * self._panel

    def _linear(self, parts: Sequence[Linear], *, pad_each: bool = False) -> _Linear:
        """One packed matrix of all parts' outputs, each padded to whole panels or only the last one."""
        starts, end = [], 0
        for part in parts:
            starts.append(end)
            end += self._padded(len(part.weight)) if pad_each else len(part.weight)
        outputs, inputs = self._padded(end), parts[0].weight.shape[1]
        rows = torch.zeros(outputs, inputs + inputs % 2, dtype=self._dtype)
        bias = torch.zeros(outputs)
        for part, start in zip(parts, starts, strict=True):
            rows[start : start + len(part.weight), :inputs] = part.weight.detach()
            if part.bias is not None:
                bias[start : start + len(part.weight)] = part.bias.detach()
        units = rows[:, :inputs] if self._dtype == torch.float32 else rows
        units = units.contiguous().view(torch.int32)
        panels = zeros((outputs // self._panel, units.shape[1], self._panel), torch.int32)
        panels.copy_(units.view(outputs // self._panel, self._panel, -1).transpose(1, 2))
        self._kept += [panels, bias]
        has_bias = any(part.bias is not None for part in parts)
        return _Linear(
            panels=panels.data_ptr(), bias=bias.data_ptr() if has_bias else None, inputs=inputs, outputs=outputs
        )

    def _vector(self, weight: Tensor) -> int:
        """Address of a norm's weights, float32 and padded."""
        padded = torch.zeros(self._padded(len(weight)))
        padded[: len(weight)] = weight.detach()
        self._kept.append(padded)
        return padded.data_ptr()
