"""The KV store: who owns which block, and the prefix index over lineage.

A block is B token slots in every layer's pool; it belongs to exactly one segment, or is free. Blocks change hands only
here, and `free + cached + used == total` holds after every call (`check_integrity`).

Life of a segment: *open* (some branch appends to it) -> *frozen* (forked, merged: nobody appends any more) -> *cached*
(no view refers to it, but the prefix index does; evicted least recently used first) -> freed.

A key of the prefix index stands for tokens **and** positions **and** visibility: it is a chain of hashes that starts
from what the segment's view could see (`lineage_of`), never from token ids alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from ....attention.plan import Group
from ...engine import BlockUsage
from .segment import ROOT, Segment, Span


def _digest(*parts: bytes) -> bytes:
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(4, "little"))
        h.update(part)
    return h.digest()


def _token_bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int64).tobytes()


def _int_bytes(*numbers: float) -> bytes:
    return repr(numbers).encode()


class KVStore:
    """Owns every KV block of one model. Not thread-safe: callers hold the engine's lock."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._index: dict[bytes, tuple[Segment, int]] = {}
        self.named: dict[bytes, Segment] = {}
        """Contexts, encoded or being encoded, by `Segment.name`. Encoded ones are cached as wholes."""
        self.finished: list[Segment] = []
        """Contexts whose last token was computed since somebody last took them from here."""
        self._cached: OrderedDict[Segment, None] = OrderedDict()
        self._num_cached = 0
        self._alive: set[Segment] = set()

    # -- segments and references -------------------------------------------------------------------------------

    def acquire(self, segment: Segment, *, pin: bool) -> None:
        """One more view holds the segment; `pin` if it relies on a fixed range."""
        if segment in self._cached:
            del self._cached[segment]
            self._num_cached -= segment.num_held
        self._alive.add(segment)
        segment.refs += 1
        segment.pins += pin

    def release(self, segment: Segment, *, pin: bool) -> None:
        """A view lets go. The last one leaves the segment's indexed blocks cached and frees the others."""
        segment.refs -= 1
        segment.pins -= pin
        assert segment.refs >= segment.pins >= 0
        if segment.refs:
            return
        self._alive.discard(segment)
        self._let_go_of_view(segment)
        segment.view = ()
        if segment.name is not None and segment.pending:
            self._forget_name(segment)
        # A cached segment can only be found through the index, so what the index does not name is freed.
        if segment.name is None:
            self._free.extend(segment.pop_blocks(len(segment.keys)))
            for i, key in enumerate(segment.keys):
                if self._index.get(key) != (segment, i):
                    self._free.append(int(segment.blocks[i]))
                    segment.blocks[i] = -1
        segment.version += 1
        if held := segment.num_held:
            self._cached[segment] = None
            self._num_cached += held

    def hold(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self.acquire(span.segment, pin=not span.is_live)

    def drop(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self.release(span.segment, pin=not span.is_live)

    def freeze(self, segment: Segment) -> None:
        """Nobody appends any more. Pending tokens will be computed for whoever reads them first, under `view`.

        Live spans are not kept alive: two segments that watch each other would keep each other for ever.
        """
        if segment.pending and not segment.held:
            segment.held = True
            self.hold(span for span in segment.view if not span.is_live)

    def _let_go_of_view(self, segment: Segment) -> None:
        if segment.held:
            segment.held = False
            self.drop([span for span in segment.view if not span.is_live])

    # -- blocks ------------------------------------------------------------------------------------------------

    def blocks_missing(self, segment: Segment, length: int) -> int:
        """Blocks that `reserve(segment, length)` would have to take."""
        return max(0, -(-length // self.block_size) - len(segment.blocks))

    @property
    def available(self) -> int:
        """Blocks that can be had now, evicting what is cached."""
        return len(self._free) + self._num_cached

    def reserve(self, segment: Segment, length: int) -> bool:
        """Give the segment blocks for its first `length` tokens, evicting cached segments; False: not enough."""
        missing = self.blocks_missing(segment, length)
        if missing > self.available:
            return False
        while missing > len(self._free):
            self._evict()
        if missing:
            taken = self._free[-missing:]
            del self._free[-missing:]
            segment.append_blocks(taken)
        return True

    def truncate(self, segment: Segment, length: int) -> None:
        """Drop the tokens after the first `length`; nobody else may rely on them (`pins` of others is 0)."""
        del segment.tokens[length:]
        segment.computed = min(segment.computed, length)
        segment.version += 1
        self._unindex(segment, length // self.block_size)
        del segment.keys[length // self.block_size :]
        while segment.seen and segment.seen[-1][0] >= length:
            segment.seen.pop()
        self._free.extend(segment.pop_blocks(-(-length // self.block_size)))

    def _evict(self) -> None:
        segment, _ = self._cached.popitem(last=False)
        self._num_cached -= segment.num_held
        if segment.name is not None:
            self._forget_name(segment)
        self._unindex(segment)
        self._free.extend(segment.pop_blocks(0))

    def _forget_name(self, segment: Segment) -> None:
        assert segment.name is not None
        del self.named[segment.name]
        segment.name = None

    def evict_all(self) -> None:
        """Forget every cached segment."""
        while self._cached:
            self._evict()

    # -- prefix index ------------------------------------------------------------------------------------------

    def advance(self, segment: Segment, computed: int) -> None:
        """Note that the KV of the first `computed` tokens is written, and index the blocks that became full."""
        segment.computed = computed
        if segment.held and not segment.pending:
            self._let_go_of_view(segment)
            if segment.name is not None:
                self.finished.append(segment)
        size = self.block_size
        if segment.lineage is None or computed // size <= len(segment.keys):
            return
        for i in range(len(segment.keys), computed // size):
            before = segment.keys[i - 1] if i else segment.lineage
            key = _digest(before, _token_bytes(segment.tokens[i * size : (i + 1) * size]))
            segment.keys.append(key)
            self._index.setdefault(key, (segment, i))

    def distrust(self, segment: Segment) -> None:
        """Let nobody find what was computed here: what some of it saw was not finite."""
        self._unindex(segment)

    def _unindex(self, segment: Segment, first: int = 0) -> None:
        for i, key in enumerate(segment.keys[first:], first):
            if self._index.get(key) == (segment, i):
                del self._index[key]

    def match(self, lineage: bytes | None, tokens: Sequence[int]) -> list[Span]:
        """The longest run of full blocks of `tokens`, seen after `lineage`, whose KV is in the store.

        Leaves at least the last token out, since its logits are wanted. Does not acquire the spans.
        """
        spans: list[Span] = []
        size = self.block_size
        key = lineage
        for at in range(0, len(tokens) - size, size):
            if key is None:
                break
            key = _digest(key, _token_bytes(tokens[at : at + size]))
            found = self._index.get(key)
            if found is None:
                break
            segment, i = found
            if segment in self._cached:
                self._cached.move_to_end(segment)
            last = spans[-1] if spans else None
            if last is not None and last.segment is segment and last.end == i * size:
                spans[-1] = Span(segment, last.start, (i + 1) * size)
            else:
                spans.append(Span(segment, i * size, (i + 1) * size))
        return spans

    def key_at(self, segment: Segment, index: int) -> bytes | None:
        """Key of everything up to token `index` of the segment, its lineage included."""
        if segment.lineage is None:
            return None
        size = self.block_size
        key = segment.lineage
        for at in range(0, index - index % size, size):
            if at // size < len(segment.keys):
                key = segment.keys[at // size]
            else:
                key = _digest(key, _token_bytes(segment.tokens[at : at + size]))
        if index % size:
            key = _digest(key, b"tail", _token_bytes(segment.tokens[index - index % size : index]))
        return key

    def lineage_of(self, view: Sequence[Span], position: int) -> bytes | None:
        """Key of an empty segment at `position` under `view`; None if it sees something live.

        A span that merely continues what stands before it, as a prefix does, continues its chain of keys, so that one
        text has one key however it was cut into segments (at block boundaries).
        """
        state = ROOT
        expected = 0
        groups: dict[int, int] = {}
        for span in view:
            if span.end is None:
                return None
            before = self.key_at(span.segment, span.start)
            after = self.key_at(span.segment, span.end)
            if before is None or after is None:
                return None
            first = span.segment.start + span.start + span.shift
            if before == state and first == expected and span.shift == 0 and span.group is None:
                state = after
            else:
                group = span.group
                tag = (-1,) if group is None else (groups.setdefault(id(group), len(groups)), *_params(group))
                state = _digest(state, after, before, _int_bytes(span.shift, *tag))
            expected = first + len(span)
        return state if position == expected else _digest(state, b"position", _int_bytes(position))

    # -- introspection -----------------------------------------------------------------------------------------

    def usage(self, segments: Iterable[Segment] | None = None) -> BlockUsage:
        """Block counts; with `segments`, `used` counts the blocks of those (unique) segments only."""
        free = len(self._free)
        used = self.num_blocks - free - self._num_cached
        if segments is not None:
            used = sum(segment.num_held for segment in set(segments))
        return BlockUsage(
            total=self.num_blocks, free=free, cached=self._num_cached, used=used, block_size=self.block_size
        )

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a block is lost, shared or counted twice, or a key points nowhere."""
        held = [int(b) for s in (*self._alive, *self._cached) for b in s.blocks if b >= 0]
        everything = sorted(held + self._free)
        if everything != list(range(self.num_blocks)):
            raise RuntimeError(f"{len(held)} held + {len(self._free)} free blocks are not all {self.num_blocks}")
        if self._num_cached != sum(s.num_held for s in self._cached):
            raise RuntimeError(f"cached block count {self._num_cached} is wrong")
        for segment, i in self._index.values():
            if i >= len(segment.blocks) or segment.blocks[i] < 0:
                raise RuntimeError("the prefix index names a freed block")
            if segment not in self._alive and segment not in self._cached:
                raise RuntimeError("the prefix index names a freed segment")
        for segment in self._alive:
            if segment.refs < 1:
                raise RuntimeError("an unreferenced segment counts as alive")
        for segment in self.named.values():
            if segment not in self._alive and (segment not in self._cached or segment.pending):
                raise RuntimeError("a context is named that is not whole in the store")


def context_name(lineage: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a text encoded on its own behind what `lineage` stands for."""
    return _digest(lineage, b"context", _token_bytes(tokens))


def _params(group: Group) -> tuple[float, float, float]:
    return group.temperature, group.factor, group.bias
