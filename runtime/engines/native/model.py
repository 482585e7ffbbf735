"""`Model`: one forward pass of a decoder over the rows of many branches.

Legend for shapes: N rows, C hidden size, H query heads, K key/value heads, D head size, V vocabulary.

The model knows rows, not branches: a row is one token at one position whose keys and values go to one slot of the
pool, and an `AttentionPlan` says what each row sees. What surrounds attention is done by `LayerOps`: plain torch here
(`TorchOps`, the reference), compiled kernels in ops.py (`KernelOps`). Where the kernels of attention serve too, one
call does it all (stack.py).
"""

from __future__ import annotations

from ctypes import c_int32
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ....attention import AttentionPlan, Impl, rope_and_store, span_attention
from .config import ModelConfig
from .pool import KVPool


class Linear(NamedTuple):
    """A projection as a checkpoint stores it."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None = None
    """(out,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """The tensors of one decoder layer."""

    attention_norm: Tensor
    q: Linear
    k: Linear
    v: Linear
    q_norm: Tensor | None
    """(D,), Qwen3 only, as is `k_norm`."""
    k_norm: Tensor | None
    o: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All tensors of a decoder; `lm_head` is `embedding` itself where the two are tied."""

    embedding: Tensor
    """(V, C)."""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    lm_head: Tensor
    """(V, C)."""


class LayerOps(Protocol):
    """Everything in a forward pass but head norms, rotation, KV storage and attention.

    Calls come in the order of a forward pass, so x is always the latest result; returned tensors but for those of
    `head` may be views of memory that later calls reuse.
    """

    def embed(self, tokens: Tensor) -> Tensor:
        """(N,) int64 -> (N, C)."""
        ...

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and projected: q (N, H, D), k (N, K, D), v (N, K, D), each with a contiguous last dimension."""
        ...

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention (N, H, D): output projection, MLP and both residuals; (N, C)."""
        ...

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the last layer's output -> float32 logits (N, V) and final hidden states (N, C)."""
        ...


class Stack(Protocol):
    """A whole forward pass in one go."""

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        logit_rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Model.forward`."""
        ...

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        steps: int,
        stop_start: Tensor,
        stop_ids: Tensor,
        interrupt: c_int32,
    ) -> Tensor:
        """See `Model.decode`."""
        ...


class Model:
    """A decoder with its weights. Not reentrant: one forward at a time."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        ops: LayerOps,
        *,
        stack: Stack | None = None,
        impl: Impl,
        num_threads: int,
    ) -> None:
        """loader.py builds models. `ops` may hold the weights in a form of its own, and `stack` run all of them at
        once; `impl` "torch" goes for attention too, else attention uses its kernels where they can serve."""
        self.config = config
        self.ops = ops
        self.dtype = weights.embedding.dtype
        """Of the weights, and the natural one for a `KVPool`."""
        self.device = weights.embedding.device
        self.inv_freq = config.rope.inv_freq(config.head_dim).to(self.device)
        """(D / 2,) float32, radians per position."""
        self.stack = stack
        """What `decode` needs."""
        self._head_norms = [(layer.q_norm, layer.k_norm) for layer in weights.layers]
        self._impl: Impl = "torch" if impl == "torch" else "auto"
        self._num_threads = num_threads

    @torch.inference_mode()
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        logit_rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all rows through the decoder and write their keys and values to the pool.

        tokens (N,) int64; positions (N,), any number type; slots (N,) int64, `block * block_size + offset`;
        `logit_rows` (M,) int64 picks the rows that need logits (None: all).

        Returns float32 logits (M, V) and the hidden states (M, C) they were computed from (after the final norm). In
        each layer the keys and values of *all* rows are stored before any row attends, so a plan may let rows of the
        same step see each other.
        """
        if self.stack is not None:
            return self.stack.forward(tokens, positions, slots, plan, pool, logit_rows)
        config = self.config
        angles = positions.to(torch.float32)[:, None] * self.inv_freq
        cos, sin = angles.cos(), angles.sin()
        x = self.ops.embed(tokens)
        for layer in range(config.num_layers):
            q, k, v = self.ops.qkv(layer, x)
            k_pool, v_pool = pool.k[layer], pool.v[layer]
            q_norm, k_norm = self._head_norms[layer]
            rope_and_store(
                q, k, v, cos, sin, slots, k_pool, v_pool,
                q_norm=q_norm, k_norm=k_norm, eps=config.rms_norm_eps, impl=self._impl, threads=self._num_threads,
            )  # fmt: skip
            attended = span_attention(
                q, k_pool, v_pool, plan,
                scale=config.head_dim**-0.5, inv_freq=self.inv_freq, impl=self._impl, threads=self._num_threads,
            )  # fmt: skip
            x = self.ops.finish(layer, x, attended)
        return self.ops.head(x if logit_rows is None else x[logit_rows])

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        *,
        steps: int,
        stops: tuple[Tensor, Tensor],
        interrupt: c_int32,
    ) -> Tensor:
        """Up to `steps` greedy steps of rows that each decode behind their own run: `stack` has to be there.

        The first four are those of the first step as `forward` takes them, with float32 positions and one causal entry
        per row; they are moved on in place and are those of the last step in the end. The runs have the blocks of all
        steps. Stops after a step in which row r samples one of `ids[start[r] : start[r + 1]]`, where `stops` is `start,
        ids` (N + 1,) and (I,) int64, or by the end of which `interrupt` is not 0.

        Returns the sampled tokens (S, N) int64 of the S steps that were run.
        """
        assert self.stack is not None
        return self.stack.decode(tokens, positions, slots, plan, pool, steps, *stops, interrupt)


class TorchOps:
    """The reference: plain torch on any device, activations in the weights' type."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._eps = config.rms_norm_eps
        self._head_dim = config.head_dim
        self._weights = weights

    def embed(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self._weights.embedding)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self._weights.layers[layer]
        x = self._norm(x, weights.attention_norm)
        size = self._head_dim
        q, k, v = (functional.linear(x, *part).view(len(x), -1, size) for part in (weights.q, weights.k, weights.v))
        return q, k, v

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        weights = self._weights.layers[layer]
        x = x + functional.linear(attended.flatten(1), *weights.o)
        h = self._norm(x, weights.mlp_norm)
        h = functional.silu(functional.linear(h, *weights.gate)) * functional.linear(h, *weights.up)
        return x + functional.linear(h, *weights.down)

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._norm(x, self._weights.norm)
        return functional.linear(hidden, self._weights.lm_head).float(), hidden

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self._eps)
        return weight * h.to(x.dtype)
