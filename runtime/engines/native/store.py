"""The KV store: who owns which block.

A block is B token slots in every layer's pool; it belongs to exactly one segment, or is free. Blocks change hands only
here, and `free + cached + used == total` holds after every call (`check_integrity`).

Life of a segment: *open* (some branch appends to it) -> *frozen* (forked, merged: nobody appends any more) -> *cached*
(no view refers to it, but the prefix index does; evicted least recently used first) -> freed. What lies behind all that
views refer to of a frozen one becomes a segment of its own, which is cached: so what is held is what somebody needs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...engine import BlockUsage
from .cached import Cached
from .integrity import check_alive, check_index, check_whole
from .job_blocks import JobBlocks
from .prefix_index import PrefixIndex
from .segment import GROWING, Segment, Span
from .swap import SwapSpace

logger = logging.getLogger(__name__)


class KVStore:
    """Owns every KV block of one model. Not thread-safe: callers hold the engine's lock."""

    def __init__(self, num_blocks: int, block_size: int, swap: SwapSpace | None = None) -> None:
        """`swap`: where segments may be moved to; None: nowhere."""
        self.swap = swap
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._index = PrefixIndex(block_size)
        self.named: dict[bytes, Segment] = {}
        """Contexts, encoded or being encoded, by `Segment.name`. Encoded ones are cached as wholes."""
        self.finished: list[Segment] = []
        """Contexts whose last token was computed since somebody last took them from here."""
        self._cached = Cached()
        self._alive: dict[Segment, None] = {}
        """Segments that are referred to, in the order in which they began to be."""
        self.num_swapped = 0
        """Of those, how many are in the swap space."""
        self.by_job = JobBlocks(block_size)

    # -- segments and references -------------------------------------------------------------------------------

    def acquire(self, segment: Segment, end: int = GROWING, *, job: str | None = None) -> None:
        """One more view, of a job, holds the segment; `end`: if it relies on so many tokens, which stay as they are."""
        if job is not None:
            self.by_job.acquire(segment, end, job)
        self._cached.remove(segment)
        self._alive[segment] = None
        segment.refs += 1
        segment.ends[end] = segment.ends.get(end, 0) + 1

    def release(self, segment: Segment, end: int = GROWING, *, job: str | None = None) -> None:
        """A view lets go. What nobody refers to any more stays cached where it is indexed; other blocks are free."""
        if job is not None:
            self.by_job.release(segment, end, job)
        segment.refs -= 1
        segment.ends[end] -= 1
        if not segment.ends[end]:
            del segment.ends[end]
        if segment.refs:
            self._trim(segment)
            return
        del self._alive[segment]
        self._let_go_of_view(segment)
        segment.view = ()
        if segment.name is not None and (segment.pending or segment.num_swapped):
            self._forget_name(segment)
        if segment.num_swapped:
            self._index.remove(segment, len(segment.blocks))
            del segment.keys[len(segment.blocks) :]
            self._cut_swapped(segment, 0)
        segment.version += 1
        self._cache(segment)

    def _cache(self, segment: Segment) -> None:
        """Keep what can be found of a segment that no view refers to."""
        # It can only be found through the index, so what the index does not name is freed.
        if segment.name is None:
            self._free.extend(segment.pop_blocks(len(segment.keys)))
            for i in range(len(segment.keys)):
                # It may have lost the block when it was cached before.
                if segment.blocks[i] >= 0 and not self._index.names(segment, i):
                    self._free.append(segment.drop_block(i))
        if segment.num_held:
            self._cached.add(segment)

    def _trim(self, segment: Segment) -> None:
        """Part with the blocks behind all that views refer to, which would be held for nobody."""
        keep = -(-segment.reach // self.block_size)
        length = keep * self.block_size
        if len(segment.blocks) + segment.num_swapped <= keep and len(segment.tokens) <= length:
            return
        if segment.name is not None:
            self._forget_name(segment)
        rest = Segment(segment.start + length)
        if len(segment.keys) > keep and not segment.num_swapped:
            rest.lineage = segment.keys[keep - 1] if keep else segment.lineage
            rest.tokens = segment.tokens[length:]
            rest.keys = segment.keys[keep:]
            rest.computed = len(rest.keys) * self.block_size
            self._index.move(segment, keep, rest)
            segment.move_blocks(keep, rest)
        self._cut(segment, length)
        self._cache(rest)
        if segment.held and not segment.pending:
            self._let_go_of_view(segment)

    def hold(self, spans: Sequence[Span], job: str | None = None) -> None:
        for span in spans:
            self.acquire(span.segment, span.reach, job=job)
        for span in spans:
            self._trim(span.segment)

    def drop(self, spans: Sequence[Span], job: str | None = None) -> None:
        """What comes later is of no use without what comes first, which therefore stays cached the longest."""
        for span in reversed(spans):
            self.release(span.segment, span.reach, job=job)

    def freeze(self, segment: Segment) -> None:
        """Nobody appends any more. Pending tokens will be computed for whoever reads them first, under `view`.

        Live spans are not kept alive: two segments that watch each other would keep each other for ever.
        """
        if segment.pending and not segment.held:
            segment.held = True
            self.hold([span for span in segment.view if not span.is_live])

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
        return len(self._free) + self._cached.num_blocks

    def reserve(self, segment: Segment, length: int) -> bool:
        """Give the segment blocks for its first `length` tokens, evicting cached segments; False: not enough."""
        assert not segment.num_swapped
        return self._reserve(segment, length)

    def _reserve(self, segment: Segment, length: int) -> bool:
        missing = self.blocks_missing(segment, length)
        if missing > self.available:
            return False
        while missing > len(self._free):
            self._evict()
        if missing:
            taken = self._free[-missing:]
            del self._free[-missing:]
            segment.append_blocks(taken)
            self.by_job.note(segment)
        return True

    def truncate(self, segment: Segment, length: int) -> None:
        """Drop the tokens after the first `length`; nobody else may rely on them (`pins` of others is 0)."""
        segment.version += 1
        self._cut(segment, length)

    def _cut(self, segment: Segment, length: int) -> None:
        segment.tokens = segment.tokens[:length]  # the list itself may be in use elsewhere
        segment.computed = min(segment.computed, length)
        segment.due = min(segment.due, length)
        self._index.remove(segment, length // self.block_size)
        del segment.keys[length // self.block_size :]
        while segment.seen and segment.seen[-1][0] >= length:
            segment.seen.pop()
        keep = -(-length // self.block_size)
        if segment.num_swapped:
            self._cut_swapped(segment, max(0, keep - len(segment.blocks)))
        self._take_back(segment, keep)

    def _take_back(self, segment: Segment, keep: int) -> int:
        """Free the blocks behind the first `keep`; how many."""
        freed = segment.pop_blocks(keep)
        self._free.extend(freed)
        self.by_job.note(segment)
        return len(freed)

    def _evict(self) -> None:
        segment = self._cached.pop()
        if segment.name is not None:
            self._forget_name(segment)
        self._index.remove(segment)
        self._free.extend(segment.pop_blocks(0))

    def _forget_name(self, segment: Segment) -> None:
        assert segment.name is not None
        del self.named[segment.name]
        segment.name = None

    # -- swapping ----------------------------------------------------------------------------------------------

    @property
    def can_swap(self) -> bool:
        """Is there a swap space with room?"""
        return self.swap is not None and self.swap.room > 0

    def holders(self) -> list[Segment]:
        """Segments with blocks that could be moved out, the latest first."""
        return [s for s in reversed(self._alive) if len(s.blocks) and not s.is_loading]

    def num_idle(self, segment: Segment, reach: int) -> int:
        """Blocks of it in the pool of which nobody needs anything who needs its first `reach` tokens."""
        return max(0, len(segment.blocks) - -(-reach // self.block_size))

    def swap_out(self, segment: Segment, reach: int = 0) -> int:
        """Move what is computed of it out of the pool, but for the blocks of its first `reach` tokens; how many blocks
        that frees. Where there is no room for all, the last go."""
        assert self.swap is not None
        # A segment that was cached, and is used again, has lost what lay behind its full blocks.
        end = min(-(-segment.computed // self.block_size), len(segment.blocks))
        keep = max(-(-reach // self.block_size), end - self.swap.room)
        count = end - keep
        if count > 0:
            try:
                self.swap.save(segment, keep, end)
            except Exception as error:
                logger.warning("no memory for %d KV blocks in the swap space: %s", count, error)
                return 0
            self.num_swapped += not segment.num_swapped
            segment.num_swapped += count
        return self._take_back(segment, keep)

    def bring_back(self, segment: Segment, reach: int = GROWING) -> bool:
        """Undo `swap_out` for the blocks of its first `reach` tokens; False, or an error: they are where they were, for
        lack of blocks or what else failed."""
        assert self.swap is not None
        begin, away = len(segment.blocks), segment.num_swapped
        end = min(-(-reach // self.block_size), begin + away)
        if end <= begin:
            return True
        is_back = False
        try:
            if self._reserve(segment, end * self.block_size):
                self.swap.load(segment, begin, end)
                is_back = True
        finally:
            if not is_back:
                self._take_back(segment, begin)
        if is_back:
            segment.num_swapped = begin + away - end
            self.num_swapped -= not segment.num_swapped
        return is_back

    def _cut_swapped(self, segment: Segment, count: int) -> None:
        """Of what is in the swap space, keep `count` blocks at most."""
        assert self.swap is not None
        if count < segment.num_swapped:
            self.swap.cut(segment, count)
            segment.num_swapped = count
            self.num_swapped -= not count

    def evict_all(self) -> None:
        """Forget every cached segment."""
        while self._cached:
            self._evict()

    # -- what is computed --------------------------------------------------------------------------------------

    def advance(self, segment: Segment, computed: int) -> None:
        """Note that the KV of the first `computed` tokens is written, and index the blocks that became full."""
        # Of what a pass computed the segment may have parted with some meanwhile.
        segment.computed = min(computed, len(segment.tokens))
        if segment.held and not segment.pending:
            self._let_go_of_view(segment)
            if segment.name is not None:
                self.finished.append(segment)
        self._index.add(segment)

    def distrust(self, segment: Segment) -> None:
        """Let nobody find what was computed here: what some of it saw was not finite."""
        self._index.remove(segment)

    def match(self, lineage: bytes | None, tokens: Sequence[int]) -> list[Span]:
        """See `PrefixIndex.match`. What is found stays cached the longest."""
        spans = self._index.match(lineage, tokens)
        for span in reversed(spans):
            self._cached.touch(span.segment)
        return spans

    def finds(self, key: bytes) -> bool:
        """Is there a full block of this key?"""
        return self._index.has(key)

    # -- introspection -----------------------------------------------------------------------------------------

    def usage(self, job: str | None = None) -> BlockUsage:
        """Block counts; with `job`, `used` counts the blocks that its views hold."""
        free, cached = len(self._free), self._cached.num_blocks
        used = self.num_blocks - free - cached if job is None else self.by_job[job]
        return BlockUsage(total=self.num_blocks, free=free, cached=cached, used=used, block_size=self.block_size)

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a block is lost, shared, held for nobody or counted twice, or a key leads nowhere."""
        everything = {*self._alive, *self._cached}
        check_whole(self.num_blocks, self._free, everything)
        check_index(self._index.blocks, everything)
        check_alive(self._alive, self.block_size)
        if not self.by_job.is_right(self._alive):
            raise RuntimeError("the blocks of a job are counted wrong")
        counts = sum(s.num_held for s in self._cached), sum(s.num_swapped > 0 for s in self._alive)
        if (self._cached.num_blocks, self.num_swapped) != counts:
            raise RuntimeError("what is cached or in the swap space is counted wrong")
        for segment in self.named.values():
            if segment not in self._alive and (segment not in self._cached or segment.pending):
                raise RuntimeError("a context is named that is not whole in the store")
