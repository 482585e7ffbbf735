"""Prompts that begin alike and come at the same time are computed once: attempts at one problem, jobs with the same
instructions. Of those that go on alike a step computes one; before the next the others take what it wrote from the
store. So what is only being computed is shared as RadixAttention (arXiv 2312.07104) shares what has been.
"""

from __future__ import annotations

from .generation import NativeGeneration
from .lineage import block_key, key_at
from .segment import Segment
from .step import Chunk
from .store import KVStore

_WORTH_WAITING = 64
"""Tokens in common; a step without a short prompt costs it more than these."""


class Alike:
    """The prompts of a step."""

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self._next: dict[bytes, Segment] = {}
        """By the key of the block that the step is to go on with."""

    def awaits(self, g: NativeGeneration, planned: dict[Segment, Chunk]) -> bool:
        """Is it better for the generation to wait for what the step, as `planned`, computes? Before that it takes from
        the store whatever others have computed of its prompt meanwhile."""
        view, size = g.branch.view, self.store.block_size
        if g.sampled or g.branch.gang is not None or not view.can_let_go:
            return False
        while (own := view.own) is not None and own.pending > size:
            at = own.computed - own.computed % size
            before = key_at(own, at, size)
            assert before is not None  # it can let go
            key = block_key(before, own.tokens[at : at + size])
            if self.store.finds(key):
                found = view.find_more()
                g.note_found(found)
                if found > 0:
                    continue
            other = self._next.get(key)
            if other is not None and other in planned:
                return self._is_worth_waiting(own, at, other)
            self._next[key] = own
            return False
        return False

    def _is_worth_waiting(self, own: Segment, at: int, other: Segment) -> bool:
        """Do both go on alike for long enough, in whole blocks?"""
        size = self.store.block_size
        there, count = other.computed - other.computed % size, -(-_WORTH_WAITING // size) * size
        common = own.tokens[at : at + count]
        return len(common) == count and common == other.tokens[there : there + count]
