"""`NativeBlock`: a handle on what a branch wrote, for views that are put together from blocks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from ...engine import Block
from ...errors import InvalidInput
from .segment import Span
from .store import KVStore


class NativeBlock:
    """See `runtime.engine.Block`: references to the segments of a piece of text, the last one live unless sealed."""

    def __init__(self, store: KVStore, spans: Iterable[Span], lock: AbstractContextManager[object]) -> None:
        self.store = store
        self.spans = tuple(spans)
        self._lock = lock
        self._is_closed = False
        store.hold(self.spans)

    @property
    def tokens(self) -> list[int]:
        return [token for s in self.spans if s.group is None for token in s.segment.tokens[s.start : s.end]]

    @property
    def computed(self) -> int:
        return self.spans[-1].segment.computed if self.spans else 0

    @property
    def seen(self) -> list[tuple[int, tuple[int, ...]]]:
        return list(self.spans[-1].segment.seen) if self.spans else []

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self.store.drop(self.spans)


def spans_of(blocks: Iterable[Block], store: KVStore) -> list[Span]:
    """What a view shows that is put together from these blocks."""
    spans: list[Span] = []
    for block in blocks:
        if not isinstance(block, NativeBlock) or block.store is not store:
            raise InvalidInput("blocks of another engine cannot be arranged")
        spans += block.spans
    return spans
