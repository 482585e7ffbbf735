"""The tensors of a decoder, as a checkpoint stores them.

Legend for shapes: C hidden size, H query heads, K key/value heads, D head size, V vocabulary, X experts, I an expert's
hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from .integers import Bits


class Linear(NamedTuple):
    """A projection."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None = None
    """(out,)."""
    bits: Bits | None = None
    """Which the weight takes where it comes from, as far as anybody needs to know."""

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def emptied(self) -> Linear:
        """Without a matrix."""
        return self._replace(weight=_emptied(self.weight))


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """A gated MLP."""

    gate: Linear
    up: Linear
    down: Linear

    def emptied(self) -> MLP:
        return MLP(gate=self.gate.emptied(), up=self.up.emptied(), down=self.down.emptied())


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Many small gated MLPs, of which a router chooses some for each token."""

    router: Tensor
    """(X, C)."""
    gate_up: Tensor
    """(X, 2 I, C): gates, then ups."""
    down: Tensor
    """(X, C, I)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """The tensors of one decoder layer. Norms that the family has not are None."""

    attention_norm: Tensor | None
    q: Linear
    k: Linear
    v: Linear
    q_norm: Tensor | None = None
    """(D,), or (H * D,) where the norm is over all heads, as `k_norm` is (D,) or (K * D,)."""
    k_norm: Tensor | None = None
    o: Linear
    attention_out_norm: Tensor | None = None
    mlp_norm: Tensor | None
    mlp: MLP | Experts
    mlp_out_norm: Tensor | None = None
    key_variance: Tensor | None = None
    """See `variance_of_keys`, where the matrices are kept elsewhere."""

    def variance_of_keys(self, norm_offset: float) -> Tensor:
        """(K * D,) float32: of keys without bias and norm, were a layer's inputs independent and of mean square 1."""
        if self.key_variance is not None:
            return self.key_variance
        weight = self.k.weight.detach().float()
        if self.attention_norm is not None:
            weight = weight * (self.attention_norm.detach().float() + norm_offset)
        return weight.square().sum(1)

    def emptied(self) -> LayerWeights:
        """Its norms and biases, the matrices of the compiled kernels being kept elsewhere."""
        assert isinstance(self.mlp, MLP)
        parts = {name: getattr(self, name).emptied() for name in ("q", "k", "v", "o", "mlp")}
        return replace(self, **parts, key_variance=self.variance_of_keys(0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """What P lanes have besides the weights that they share."""

    prefix_k: tuple[Tensor, ...]
    """Of each layer (P, K, T, D): keys that are met as if they had been rotated."""
    prefix_v: tuple[Tensor, ...]
    inner: Linear
    """(C, C P): from the lanes' hidden states, of which the lane varies fastest."""
    outer: Linear
    """(P, C): to the lanes' weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All tensors of a decoder; `lm_head` is `embedding` itself where the two are tied."""

    embedding: Tensor
    """(V, C)."""
    layers: Sequence[LayerWeights]
    """They may be read from the disk whenever one is asked for: see `kept`."""
    norm: Tensor
    lm_head: Tensor
    """(V, C)."""
    lanes: Lanes | None = None

    def kept(self) -> Weights:
        """All in memory."""
        return replace(self, layers=tuple(self.layers))

    def emptied(self, layers: Sequence[LayerWeights]) -> Weights:
        """With these layers, and tables without rows."""
        embedding = _emptied(self.embedding)
        return replace(self, layers=tuple(layers), embedding=embedding, lm_head=embedding)


def _emptied(matrix: Tensor) -> Tensor:
    """One without rows, that takes no memory, of the same type and device."""
    return matrix.new_empty(0, *matrix.shape[1:])
