"""`NativeBlock`: a handle on a segment, for views that are put together from blocks."""

from __future__ import annotations

from contextlib import AbstractContextManager

from .segment import Segment
from .store import KVStore


class NativeBlock:
    """See `runtime.engine.Block`: one reference to a segment."""

    def __init__(
        self, store: KVStore, segment: Segment, lock: AbstractContextManager[object], *, is_sealed: bool = False
    ) -> None:
        self.store = store
        self.segment = segment
        self.is_sealed = is_sealed
        """Was it complete when the handle was made? A view then has a fixed span of it."""
        self._lock = lock
        self._is_closed = False
        store.acquire(segment, pin=False)

    @property
    def tokens(self) -> list[int]:
        return list(self.segment.tokens)

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self.store.release(self.segment, pin=False)
