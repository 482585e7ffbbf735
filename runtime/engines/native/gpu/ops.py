"""`GpuOps`: what surrounds attention on a GPU: cuBLAS, and Triton kernels for all that is not a matrix product."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor
from torch.nn import functional

from ..config import ModelConfig
from ..weights import MLP, LayerWeights, Linear, Weights
from . import kernels

SLICE, PREFILL_SLICE = 64, 256
"""Rows of a matrix product, where the bits of a row must not depend on how many there are: cuBLAS chooses its kernel by
their number. Of rows that decode, as many as cost hardly more than one; of those of a prefill, as many as keep the
processors busy."""


class GpuOps:
    """`LayerOps` for families without `ops.gap`. Numbers are rounded where `TorchOps` rounds them."""

    def __init__(self, config: ModelConfig, weights: Weights, *, is_invariant: bool = True) -> None:
        """`weights`: as `pack` lays them out. `is_invariant`: a row's bits do not depend on the other rows."""
        self.config = config
        self.weights = weights
        self.is_invariant = is_invariant
        self._qkv = [_joined(layer.q) for layer in weights.layers]
        self._gate_up = [_joined(_mlp(layer).gate) for layer in weights.layers]
        self.num_decoding: int | None = None
        """The first so many rows decode, the others are of prefills; None: all decode."""
        self._added: Tensor | None = None
        """What the next norm is to add first."""

    def refresh(self, weights: Weights) -> None:
        """Take over weights that changed, in the memory of the old ones: a CUDA graph reads there."""
        for kept, layer in zip(self.weights.layers, weights.layers, strict=True):
            pairs = zip(_inputs(kept), _inputs(layer), strict=True)
            for old, new in pairs:
                old.weight.copy_(new.weight.detach())
                if old.bias is not None and new.bias is not None:
                    old.bias.copy_(new.bias.detach())

    def embed(self, tokens: Tensor) -> Tensor:
        self._added = None
        return functional.embedding(tokens, self.weights.embedding)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        out = self.linear(self._norm(x, self.weights.layers[layer].attention_norm), self._qkv[layer])
        out = out.view(len(x), -1, config.head_dim)
        q, k, v = out.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        return q, k, v

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        weights = self.weights.layers[layer]
        self._added = self.linear(attended.flatten(1), weights.o)
        gate_up = self.linear(self._norm(x, weights.mlp_norm), self._gate_up[layer])
        size = self.config.intermediate_size
        inner = torch.empty(len(x), size, dtype=x.dtype, device=x.device)
        if len(x):
            kernels.gate[(len(x), triton.cdiv(size, 1024))](gate_up, inner, SIZE=size, BLOCK=1024, num_warps=4)
        self._added = self.linear(inner, _mlp(weights).down)
        if layer + 1 < self.config.num_layers:
            return x
        added, self._added = self._added, None
        return x + added

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._norm(x, self.weights.norm)
        return self.linear(hidden, Linear(self.weights.lm_head)).float(), hidden

    def linear(self, x: Tensor, weights: Linear) -> Tensor:
        """(N, in) -> (N, out)."""
        if not self.is_invariant or len(x) == SLICE:
            return functional.linear(x, *weights)
        if not len(x):
            return x.new_empty(0, len(weights.weight))
        count = len(x) if self.num_decoding is None else self.num_decoding
        parts = [
            functional.linear(_padded(part, size), *weights)[: len(part)]
            for rows, size in ((x[:count], SLICE), (x[count:], PREFILL_SLICE))
            if len(rows)
            for part in rows.split(size)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        out = torch.empty_like(x)
        added, self._added = self._added, None
        size = x.shape[1]
        padded = triton.next_power_of_2(size)
        if len(x):
            kernels.norm[(len(x),)](
                x, x if added is None else added, weight, out, self.config.rms_norm_eps,
                SIZE=size, PADDED=padded, ADDS=added is not None, num_warps=min(max(padded // 512, 1), 8),
            )  # fmt: skip
        return out


def _padded(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else functional.pad(x, (0, 0, 0, rows - len(x)))


def pack(weights: Weights) -> Weights:
    """The same weights, with queries, keys and values, and gates and ups, copied into one matrix for each layer: one
    product for what has one input."""
    return replace(weights, layers=tuple(_packed(layer) for layer in weights.layers))


def _packed(layer: LayerWeights) -> LayerWeights:
    mlp = _mlp(layer)
    q, k, v = _side_by_side(layer.q, layer.k, layer.v)
    gate, up = _side_by_side(mlp.gate, mlp.up)
    return replace(layer, q=q, k=k, v=v, mlp=replace(mlp, gate=gate, up=up))


def _inputs(layer: LayerWeights) -> tuple[Linear, ...]:
    """What `pack` copies."""
    return layer.q, layer.k, layer.v, _mlp(layer).gate, _mlp(layer).up


def _mlp(layer: LayerWeights) -> MLP:
    assert isinstance(layer.mlp, MLP)
    return layer.mlp


def _side_by_side(*parts: Linear) -> list[Linear]:
    """Views of one matrix."""
    sizes = [len(part.weight) for part in parts]
    weight = torch.cat([part.weight.detach() for part in parts])
    biases = [part.bias for part in parts if part.bias is not None]
    if not biases:
        return [Linear(view) for view in weight.split(sizes)]
    bias = torch.cat([b.detach() for b in biases])
    return [Linear(*views) for views in zip(weight.split(sizes), bias.split(sizes), strict=True)]


def _joined(first: Linear) -> Linear:
    """The matrix that `first` is the first view of."""
    weight, bias = first.weight._base, None if first.bias is None else first.bias._base
    assert weight is not None, "the weights are not packed"
    return Linear(weight, bias)
