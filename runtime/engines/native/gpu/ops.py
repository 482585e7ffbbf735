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
    """`LayerOps` for families in which `choose_ops` finds no gap. Numbers are rounded where `TorchOps` rounds them."""

    arithmetic = "triton"

    def __init__(self, config: ModelConfig, weights: Weights, *, is_invariant: bool = True) -> None:
        """Matrices of one input are laid side by side, for one product; other weights are used where they are.
        `is_invariant`: a row's bits do not depend on the other rows."""
        self.config = config
        self.is_invariant = is_invariant
        packed = [_packed(layer) for layer in weights.layers]
        self.weights = replace(weights, layers=tuple(layer for layer, _, _ in packed))
        self._qkv = [qkv for _, qkv, _ in packed]
        self._gate_up = [gate_up for _, _, gate_up in packed]
        self.num_decoding: int | None = None
        """The first so many rows decode, the others are of prefills; None: all decode."""
        self._added: Tensor | None = None
        """What the next norm is to add first."""

    @torch.no_grad()
    def refresh(self, weights: Weights) -> None:
        """Take over what was copied of weights that changed in place."""
        for ours, theirs in zip(self.weights.layers, weights.layers, strict=True):
            for kept, changed in zip(_inputs(ours), _inputs(theirs), strict=True):
                kept.weight.copy_(changed.weight)
                if kept.bias is not None and changed.bias is not None:
                    kept.bias.copy_(changed.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        self._added = None
        return functional.embedding(tokens, self.weights.embedding)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        out = self.linear(self._norm(x, self.weights.layers[layer].attention_norm), self._qkv[layer])
        out = out.view(len(x), -1, config.head_dim)
        q, k, v = torch.split(out, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
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
            return weights(x)
        if not len(x):
            return x.new_empty(0, len(weights.weight))
        count = len(x) if self.num_decoding is None else self.num_decoding
        parts = [
            weights(_padded(part, size))[: len(part)]
            for rows, size in ((x[:count], SLICE), (x[count:], PREFILL_SLICE))
            if len(rows)
            for part in torch.split(rows, size)
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


def _packed(layer: LayerWeights) -> tuple[LayerWeights, Linear, Linear]:
    """The layer, and the matrices that its queries, keys and values and its gates and ups are parts of."""
    mlp = _mlp(layer)
    qkv, gate_up = _joined(layer.q, layer.k, layer.v), _joined(mlp.gate, mlp.up)
    q, k, v = _split(qkv, layer.q, layer.k, layer.v)
    gate, up = _split(gate_up, mlp.gate, mlp.up)
    return replace(layer, q=q, k=k, v=v, mlp=replace(mlp, gate=gate, up=up)), qkv, gate_up


def _mlp(layer: LayerWeights) -> MLP:
    assert isinstance(layer.mlp, MLP)
    return layer.mlp


def _inputs(layer: LayerWeights) -> list[Linear]:
    """What `_packed` lays side by side."""
    return [layer.q, layer.k, layer.v, _mlp(layer).gate, _mlp(layer).up]


def _joined(*parts: Linear) -> Linear:
    biases = [part.bias for part in parts if part.bias is not None]
    return Linear(_one([part.weight for part in parts]), _one(biases) if biases else None)


def _one(parts: list[Tensor]) -> Tensor:
    """One tensor, part behind part; without a copy where they lie so already."""
    parts = [part.detach() for part in parts]
    first, at = parts[0], parts[0].storage_offset()
    memory = first.untyped_storage().data_ptr()
    for part in parts:
        is_next = part.untyped_storage().data_ptr() == memory and part.storage_offset() == at
        if not (is_next and part.is_contiguous()):
            return torch.cat(parts)
        at += part.numel()
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def _split(whole: Linear, *parts: Linear) -> list[Linear]:
    """The whole's views in place of its parts."""
    sizes = [len(part.weight) for part in parts]
    biases = [None] * len(parts) if whole.bias is None else torch.split(whole.bias, sizes)
    return [Linear(*views) for views in zip(torch.split(whole.weight, sizes), biases, strict=True)]
