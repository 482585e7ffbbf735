"""`ShardedOps`: what surrounds attention on one rank of several, with what the ranks have to work out together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_ops import TorchOps
from ..weights import LayerWeights, Weights
from .collectives import Collectives
from .sharding import Shard


class ShardedOps(TorchOps):
    """Activations (N, C) are whole, and bitwise the same, on every rank; what is inside attention and MLP is not."""

    def __init__(self, shard: Shard, weights: Weights, collectives: Collectives) -> None:
        super().__init__(shard.local, weights)
        self._shard = shard
        self._collectives = collectives

    def _lookup(self, tokens: Tensor) -> Tensor:
        table = self.weights.embedding
        rows = tokens - self._shard.part(self._shard.config.vocab_size).start
        is_elsewhere = (rows < 0) | (rows >= len(table))
        found = functional.embedding(rows.clamp(0, len(table) - 1), table)
        return self._sum(found.masked_fill(is_elsewhere[:, None], 0.0))

    def _sum(self, partial: Tensor) -> Tensor:
        return self._collectives.sum(partial)

    def _norm_projections(self, q: Tensor, k: Tensor, weights: LayerWeights) -> tuple[Tensor, Tensor]:
        squares = torch.stack([x.float().square().sum(-1, keepdim=True) for x in (q, k)])
        means = self._sum(squares) / self._shard.size
        return (
            self._norm(q, weights.q_norm, mean_square=means[0] / q.shape[1]),
            self._norm(k, weights.k_norm, mean_square=means[1] / k.shape[1]),
        )

    def _project(self, hidden: Tensor) -> Tensor:
        shard, total = self._shard, self._shard.config.vocab_size
        widths = [shard.width(total, rank) for rank in range(shard.size)]
        logits = super()._project(hidden)
        parts = self._collectives.gather(functional.pad(logits, (0, max(widths) - logits.shape[1])))
        return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)
