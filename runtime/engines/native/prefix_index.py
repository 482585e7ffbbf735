"""`PrefixIndex`: where the store has the keys and values of a text, block by block, by what stood before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .lineage import block_key
from .segment import Segment, Span


class PrefixIndex:
    """Of a `KVStore`, which says when a block is computed, and when it is gone."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._found: dict[bytes, tuple[Segment, int]] = {}

    @property
    def blocks(self) -> Iterable[tuple[Segment, int]]:
        """Segments and numbers of their blocks, of all that is named."""
        return self._found.values()

    def names(self, segment: Segment, i: int) -> bool:
        """Does its key lead to block number `i` of the segment? Another one may have had the same text first."""
        return self._found.get(segment.keys[i]) == (segment, i)

    def has(self, key: bytes) -> bool:
        """Would a text that goes on with this block match it?"""
        found = self._found.get(key)
        return found is not None and not found[0].is_watched

    def add(self, segment: Segment) -> None:
        """Name the blocks of the segment that became full."""
        size = self.block_size
        if segment.lineage is None:
            return
        for i in range(len(segment.keys), segment.computed // size):
            before = segment.keys[i - 1] if i else segment.lineage
            key = block_key(before, segment.tokens[i * size : (i + 1) * size])
            segment.keys.append(key)
            self._found.setdefault(key, (segment, i))

    def remove(self, segment: Segment, first: int = 0) -> None:
        """Name no block of the segment from number `first` on."""
        for i in range(first, len(segment.keys)):
            if self.names(segment, i):
                del self._found[segment.keys[i]]

    def move(self, segment: Segment, first: int, other: Segment) -> None:
        """What it names from block number `first` of the segment on is in another one now, which begins there."""
        for i in range(first, len(segment.keys)):
            if self.names(segment, i):
                self._found[segment.keys[i]] = other, i - first

    def match(self, lineage: bytes | None, tokens: Sequence[int]) -> list[Span]:
        """The longest run of full blocks of `tokens`, seen after `lineage`, whose KV is in the store.

        Leaves at least the last token out, since its logits are wanted. Does not acquire the spans. What somebody
        watches is left out: it may be rewound, and who watches sees that, so nobody may rely on it.
        """
        spans: list[Span] = []
        size = self.block_size
        key = lineage
        for at in range(0, len(tokens) - size, size):
            if key is None:
                break
            key = block_key(key, tokens[at : at + size])
            if not self.has(key):
                break
            segment, i = self._found[key]
            last = spans[-1] if spans else None
            if last is not None and last.segment is segment and last.end == i * size:
                spans[-1] = last.upto((i + 1) * size - last.start)
            else:
                spans.append(Span(segment, i * size, (i + 1) * size, is_joined=last is not None))
        return spans
