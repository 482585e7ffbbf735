"""`Cached`: segments of a `KVStore` that no view refers to, but the prefix index does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .segment import Segment


class Cached:
    """In the order in which they were used last."""

    def __init__(self) -> None:
        self.num_blocks = 0
        """Of all."""
        self._segments: OrderedDict[Segment, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __contains__(self, segment: object) -> bool:
        return segment in self._segments

    def add(self, segment: Segment) -> None:
        """Its blocks stay what they are as long as it is here."""
        self._segments[segment] = None
        self.num_blocks += segment.num_held

    def remove(self, segment: Segment) -> None:
        """If it is here."""
        if segment in self._segments:
            del self._segments[segment]
            self.num_blocks -= segment.num_held

    def touch(self, segment: Segment) -> None:
        """It is used, if it is here."""
        if segment in self._segments:
            self._segments.move_to_end(segment)

    def pop(self) -> Segment:
        """The one that was not used the longest, which is here no more."""
        segment, _ = self._segments.popitem(last=False)
        self.num_blocks -= segment.num_held
        return segment
