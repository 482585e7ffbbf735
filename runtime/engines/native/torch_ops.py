"""`TorchOps`: what surrounds attention, in plain torch, for every family; the reference for the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .config import ModelConfig
from .lanes import reduce
from .weights import MLP, Experts, LayerWeights, Weights


class TorchOps:
    """Plain torch on any device, activations in the weights' type.

    What is not the same with a part of the weights is in methods of its own (parallel/ops.py): `_lookup`, `_sum`,
    `_norm_projections` and `_project`.
    """

    arithmetic = "torch"

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config = config
        self.weights = weights

    def embed(self, tokens: Tensor) -> Tensor:
        x = self._lookup(tokens)
        scale = self._config.embedding_scale
        # Rounded to the type of the weights first, as the models were trained.
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype, device=x.device)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weights.layers[layer]
        h = self._norm(x, weights.attention_norm)
        q, k, v = (part(h) for part in (weights.q, weights.k, weights.v))
        if self._config.family.qk_norm == "projection":
            q, k = self._norm_projections(q, k, weights)
        size = self._config.head_dim
        return q.view(len(x), -1, size), k.view(len(x), -1, size), v.view(len(x), -1, size)

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        weights = self.weights.layers[layer]
        x = x + self._norm(self._sum(weights.o(attended.flatten(1))), weights.attention_out_norm)
        h = self._norm(x, weights.mlp_norm)
        h = self._mlp(weights.mlp, h) if isinstance(weights.mlp, MLP) else self._experts(weights.mlp, h)
        return x + self._norm(self._sum(h), weights.mlp_out_norm)

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._norm(x, self.weights.norm)
        lanes = self._config.lanes
        if lanes is not None and self.weights.lanes is not None:
            hidden = reduce(hidden.view(-1, lanes.count, hidden.shape[1]), self.weights.lanes, lanes.smoothing)
        logits = self._project(hidden).float()
        cap = self._config.logit_cap
        return (logits if cap is None else cap * torch.tanh(logits / cap)), hidden

    def _lookup(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.weights.embedding)

    def _sum(self, partial: Tensor) -> Tensor:
        """Of all ranks' results of a projection whose inputs are split."""
        return partial

    def _norm_projections(self, q: Tensor, k: Tensor, weights: LayerWeights) -> tuple[Tensor, Tensor]:
        """The norms over all heads."""
        return self._norm(q, weights.q_norm), self._norm(k, weights.k_norm)

    def _project(self, hidden: Tensor) -> Tensor:
        """(N, C) -> logits (N, V)."""
        return functional.linear(hidden, self.weights.lm_head)

    def _mlp(self, weights: MLP, x: Tensor) -> Tensor:
        inner = self._activate(weights.gate(x)) * weights.up(x)
        return weights.down(inner)

    def _experts(self, weights: Experts, x: Tensor) -> Tensor:
        """The chosen experts' results, weighted by the router's probabilities."""
        experts = self._config.experts
        assert experts is not None
        weight, chosen = functional.linear(x, weights.router).softmax(-1, dtype=torch.float32).topk(experts.chosen)
        if experts.is_normalized:
            weight = weight / weight.sum(-1, keepdim=True)
        weight = weight.to(x.dtype)
        out = torch.zeros_like(x)
        for index in sorted(set(chosen.flatten().tolist())):
            row, nth = (chosen == index).nonzero(as_tuple=True)
            gate, up = functional.linear(x[row], weights.gate_up[index]).chunk(2, dim=-1)
            result = functional.linear(self._activate(gate) * up, weights.down[index])
            out.index_add_(0, row, result * weight[row, nth, None])
        return out

    def _activate(self, x: Tensor) -> Tensor:
        return functional.silu(x) if self._config.activation == "silu" else functional.gelu(x, approximate="tanh")

    def _norm(self, x: Tensor, weight: Tensor | None, *, mean_square: Tensor | None = None) -> Tensor:
        """RMS norm; nothing where the family has none. `mean_square`: (N, 1), where x is a part of what is normed."""
        if weight is None:
            return x
        h = x.float()
        mean_square = h.square().mean(-1, keepdim=True) if mean_square is None else mean_square
        h = h * torch.rsqrt(mean_square + self._config.rms_norm_eps)
        offset = self._config.family.norm_offset
        if offset:
            return (h * (weight.float() + offset)).to(x.dtype)
        return weight * h.to(x.dtype)
