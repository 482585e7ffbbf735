"""`TreeMask`: which of L tokens see which, and where; what a forward pass over the whole of a trace needs.

It holds a few numbers per token and a small table, never an L x L mask, until `dense` or `block_mask` makes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeMask:
    """Which of L tokens see which: a token sees its own segment up to itself, and of every other segment so many
    tokens as its row of `reach` says. There is one row per segment (live views: one per forward pass)."""

    token_ids: list[int]
    positions: Ints
    """(L,) position ids."""
    segment: Ints
    """(L,) column of `reach` that a token is counted in."""
    offset: Ints
    """(L,) place within its segment."""
    row: Ints
    """(L,) row of `reach` that holds for a token."""
    reach: Ints
    """(rows, segments): first tokens of each segment that are seen; 0 for the own one."""
    shift: Ints
    """(rows, segments): what is added to the positions of a segment's tokens, as they are seen; see `frames`."""
    is_sampled: NDArray[np.bool_]
    """(L,) written by the model: what a loss is taken of."""
    logprobs: NDArray[np.float32]
    """(L,) natural log-probabilities of sampled tokens as they were recorded; NaN where none was."""
    source: Ints
    """(L,) which token's logits a token was sampled from; -1: none among these."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_moving(self) -> bool:
        """Are tokens seen elsewhere than at their positions? Then a forward pass needs `frames`."""
        return bool(self.shift.any())

    def allows(self, query: int, key: int) -> bool:
        """Does token `query` see token `key`?"""
        if self.segment[query] == self.segment[key]:
            return bool(self.offset[key] <= self.offset[query])
        return bool(self.offset[key] < self.reach[self.row[query], self.segment[key]])

    def position_ids(self) -> Tensor:
        """(1, L) int64."""
        return torch.from_numpy(self.positions.astype(np.int64))[None]

    def input_ids(self) -> Tensor:
        """(1, L) int64."""
        return torch.tensor([self.token_ids])

    def dense(self) -> Tensor:
        """(1, 1, L, L) bool, True where attention is allowed: the `attention_mask` for SDPA. On the CPU the only form
        that trains, since FlexAttention has no backward there."""
        segment, offset = torch.from_numpy(self.segment), torch.from_numpy(self.offset)
        mask = torch.empty(len(self), len(self), dtype=torch.bool)
        for row, reach in enumerate(torch.from_numpy(self.reach)):
            own = torch.from_numpy(np.flatnonzero(self.row == row))
            mask[own] = offset < reach[segment.long()]
        for index in range(self.reach.shape[1]):
            own = torch.from_numpy(np.flatnonzero(self.segment == index))
            mask[own[:, None], own[None, :]] = offset[own][:, None] >= offset[own][None, :]
        return mask[None, None]

    def predicate(self, device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """`mask_mod(batch, head, query, key)` of FlexAttention, over the metadata on `device`."""
        segment, offset, row, reach = (
            torch.from_numpy(a).to(device) for a in (self.segment, self.offset, self.row, self.reach)
        )

        def mask_mod(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_own = segment[query] == segment[key]
            limit = torch.where(is_own, offset[query] + 1, reach[row[query], segment[key]])
            return offset[key] < limit

        return mask_mod

    def block_mask(self, device: torch.device | str = "cuda", block_size: int = 128) -> BlockMask:
        """For FlexAttention; building it takes L x L booleans on the device for a moment."""
        from torch.nn.attention.flex_attention import create_block_mask

        make: Any = create_block_mask
        made: BlockMask = make(
            self.predicate(device), None, None, len(self), len(self), device=device, BLOCK_SIZE=block_size
        )
        return made
