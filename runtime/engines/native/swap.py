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

    @property
    def room(self) -> int:
        """Blocks that it can take."""
        return self.max_blocks - self.used

    def save(self, segment: Segment, begin: int, end: int) -> None:
        """Keep blocks `begin` .. `end` - 1 of the segment, of which those that follow are kept already."""
        index = self._index(segment, begin, end)
        keys, values = ([layer[index].cpu() for layer in pool] for pool in (self._pool.k, self._pool.v))
        if segment in self._kept:
            behind = self._kept[segment]
            keys, values = (
                [torch.cat(pair) for pair in zip(new, old, strict=True)]
                for new, old in zip((keys, values), behind, strict=True)
            )
        self._kept[segment] = keys, values
        self.used += end - begin
        self.moved_out += end - begin

    def load(self, segment: Segment, begin: int, end: int) -> None:
        """Write what was kept first into blocks `begin` .. `end` - 1 of the segment, and forget that."""
        index, count = self._index(segment, begin, end), end - begin
        for pool, kept in zip((self._pool.k, self._pool.v), self._kept[segment], strict=True):
            for layer, tensor in zip(pool, kept, strict=True):
                layer[index] = tensor[:count].to(layer.device)
        self.moved_in += count
        self._keep(segment, count, None)

    def cut(self, segment: Segment, count: int) -> None:
        """Forget what was kept behind the first `count` blocks."""
        self._keep(segment, 0, count)

    def _keep(self, segment: Segment, begin: int, end: int | None) -> None:
        keys, values = self._kept.pop(segment)
        before, after = len(keys[0]), len(keys[0][begin:end])
        if after:
            # A part of a tensor would hold all of its memory.
            self._kept[segment] = [k[begin:end].clone() for k in keys], [v[begin:end].clone() for v in values]
        self.used -= before - after

    def _index(self, segment: Segment, begin: int, end: int) -> Tensor:
        # Blocks that a cached segment has given back (-1) come back as any other: nobody reads what is in them.
        return torch.from_numpy(np.maximum(segment.blocks[begin:end], 0).astype("int64")).to(self._pool.k[0].device)
