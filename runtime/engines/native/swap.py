"""`SwapSpace`: where the keys and values of segments are while their blocks serve others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .pool import KVPool
from .segment import Segment


class SwapSpace:
    """Host memory beside one `KVPool`. What comes back has the bits that went. Callers hold the engine's lock."""

    def __init__(self, pool: KVPool, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.used = 0
        """Blocks kept now."""
        self.moved_out = 0
        self.moved_in = 0
        """Blocks moved since the start."""
        self._pool = pool
        self._kept: dict[Segment, tuple[list[Tensor], list[Tensor]]] = {}

    def has_room(self, count: int) -> bool:
        return self.used + count <= self.max_blocks

    def save(self, segment: Segment, count: int) -> None:
        """Keep the segment's first `count` blocks."""
        index = self._index(segment, count)
        self._kept[segment] = [k[index].cpu() for k in self._pool.k], [v[index].cpu() for v in self._pool.v]
        self.used += count
        self.moved_out += count

    def load(self, segment: Segment, count: int) -> None:
        """Write what was kept into the segment's blocks, which are `count` now, and forget it."""
        index = self._index(segment, count)
        for pool, kept in zip((self._pool.k, self._pool.v), self._kept[segment], strict=True):
            for layer, tensor in zip(pool, kept, strict=True):
                layer[index] = tensor[:count].to(layer.device)
        self.moved_in += count
        self.drop(segment)

    def drop(self, segment: Segment) -> None:
        """Forget what was kept."""
        keys, _ = self._kept.pop(segment)
        self.used -= len(keys[0])

    def _index(self, segment: Segment, count: int) -> Tensor:
        # Blocks that a cached segment has given back (-1) come back as any other: nobody reads what is in them.
        return torch.from_numpy(np.maximum(segment.blocks[:count], 0).astype("int64")).to(self._pool.k[0].device)
