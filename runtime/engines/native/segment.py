"""`Segment` and `Span`: what a context is made of.

segment   an append-only run of tokens written under one fixed view of earlier segments
span      how a view sees a segment: tokens start .. end - 1 (or live), moved by `shift`, in a group
view      an ordered tuple of spans; a branch's own segment comes last
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ....attention.plan import Group

ROOT = b"root"
"""Lineage of an empty view at position 0."""
GROWING = sys.maxsize
"""How far a view reaches into a segment that it appends to or watches: as far as that ever gets."""


@dataclass(slots=True)
class Share:
    """What the views of one job refer to of a segment."""

    ends: dict[int, int] = field(default_factory=dict)
    """As `Segment.ends`, of these views."""
    blocks: int = 0
    """Of those in the pool, how many they refer to."""


class Segment:
    """An append-only run of tokens; see store.py for its life. Mutated only by `KVStore` and its owner branch."""

    __slots__ = (
        "_num_blocks",
        "_table",
        "computed",
        "due",
        "ends",
        "held",
        "is_joined",
        "is_loading",
        "is_packed",
        "jobs",
        "keys",
        "lineage",
        "name",
        "num_held",
        "num_swapped",
        "refs",
        "seen",
        "start",
        "tokens",
        "version",
        "view",
    )

    def __init__(self, start: int) -> None:
        self.start = start
        """Position of the first token."""
        self.view: tuple[Span, ...] = ()
        """What every token of this segment sees besides the segment's own earlier tokens."""
        self.is_packed = False
        """Are the spans of `view` read one behind another, ending where this segment begins, wherever they were
        written? Then their own shifts do not matter."""
        self.is_joined = False
        """As `Span.is_joined`: does it go on the last span of `view`?"""
        self.is_loading = False
        """Is it looked for on disk? Then nothing of it is computed meanwhile."""
        self.tokens: list[int] = []
        self.computed = 0
        """Tokens whose keys and values are in the pool; the rest are pending."""
        self.due = 0
        """Tokens of it that are computed before anybody goes on who looks on."""
        self.refs = 0
        """Views that hold this segment."""
        self.ends: dict[int, int] = {}
        """How many of them reach how far into it: to a token, or, `GROWING`, as far as it grows."""
        self.held = False
        """Frozen with pending tokens: it keeps the fixed spans of `view` alive until they are computed."""
        self.version = 0
        """Grows when tokens are dropped, so that a forward pass in flight knows its result is stale."""
        self.lineage: bytes | None = ROOT
        """Key of what comes before the first token; None: not reusable (a live view)."""
        self.name: bytes | None = None
        """Key of the whole segment, if it is a context; see `KVStore.named`."""
        self.keys: list[bytes] = []
        """Keys of the full, computed blocks."""
        self.seen: list[tuple[int, tuple[int, ...]]] = []
        """For live views: (first token index, ends of the live spans of `view` in order) of each forward pass."""
        self.num_swapped = 0
        """Blocks of it that are in the swap space, behind those in the pool."""
        self.num_held = 0
        """Blocks it really has."""
        self.jobs: dict[str, Share] = {}
        """Jobs whose views hold it."""
        self._table = np.empty(4, dtype=np.int32)
        self._num_blocks = 0

    @property
    def blocks(self) -> NDArray[np.int32]:
        """(number of blocks,) pool block ids; -1 for blocks a cached segment has given back."""
        return self._table[: self._num_blocks]

    @property
    def is_watched(self) -> bool:
        """Does a view besides its owner's look on while it grows? Who found a part of it in the store does not."""
        return self.ends.get(GROWING, 0) > 1

    @property
    def pins(self) -> int:
        """Those of `refs` that rely on a fixed range, which must then never be overwritten."""
        return self.refs - self.ends.get(GROWING, 0)

    @property
    def reach(self) -> int:
        """Tokens of it that somebody refers to."""
        return max(self.ends, default=0)

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    def append_blocks(self, blocks: Sequence[int]) -> None:
        need = self._num_blocks + len(blocks)
        if need > len(self._table):
            grown = np.empty(max(need, 2 * len(self._table)), dtype=np.int32)
            grown[: self._num_blocks] = self.blocks
            self._table = grown
        self._table[self._num_blocks : need] = blocks
        self._num_blocks = need
        self.num_held += sum(block >= 0 for block in blocks)

    def pop_blocks(self, keep: int) -> list[int]:
        dropped: list[int] = self._table[keep : self._num_blocks].tolist()
        self._num_blocks = min(keep, self._num_blocks)
        held = [block for block in dropped if block >= 0]
        self.num_held -= len(held)
        return held

    def move_blocks(self, keep: int, other: Segment) -> None:
        """Let an empty segment have the blocks behind the first `keep`."""
        other.append_blocks(self._table[keep : self._num_blocks].tolist())
        self.pop_blocks(keep)

    def drop_block(self, i: int) -> int:
        """Give back one block in the middle."""
        block = int(self._table[i])
        self._table[i] = -1
        self.num_held -= 1
        return block


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """How a view sees a segment."""

    segment: Segment
    start: int = 0
    end: int | None = None
    """None: live, as far as the segment's owner has written, this very step included."""
    shift: int = 0
    group: Group | None = None
    """None: ordinary attention. Spans that share one `Group` object form one group."""
    is_joined: bool = False
    """Would it be one segment with the span in front of it, whose end is a block's, had nothing of that been found in
    the store? Attention reads both as one run, so that it adds up alike whatever was found."""

    @property
    def is_live(self) -> bool:
        return self.end is None

    @property
    def wanted(self) -> int:
        """Tokens of the segment that are computed before anybody goes on who sees this; a watched one whose last holder
        is gone has nothing to show."""
        if self.end is None:
            return self.segment.due if self.segment.refs else 0
        return self.end

    @property
    def reach(self) -> int:
        """As in `Segment.ends`."""
        return GROWING if self.end is None else self.end

    @property
    def is_text(self) -> bool:
        """Do the span's tokens count as tokens of the view, rather than being looked at from the side?"""
        return self.end is not None and self.group is None

    def __len__(self) -> int:
        return (len(self.segment.tokens) if self.end is None else self.end) - self.start

    def upto(self, length: int) -> Span:
        """Its first `length` tokens."""
        return replace(self, end=self.start + length)


def text_of(spans: Sequence[Span]) -> list[int]:
    """Tokens of the spans that are text."""
    return [token for span in spans if span.is_text for token in span.segment.tokens[span.start : span.end]]


def locate(spans: Sequence[Span], length: int) -> tuple[int, int]:
    """The span that holds the text's token number `length`, and how many of the span's tokens come before it."""
    for i, span in enumerate(spans):
        if span.is_text:
            if length < len(span):
                return i, length
            length -= len(span)
    raise AssertionError("the view is shorter")


def packed_shifts(spans: Sequence[Span], ends: Sequence[int], position: int) -> tuple[list[int], int]:
    """Shifts that put spans, seen up to `ends`, one behind another so that they end in front of `position`; and where
    the first begins. The spans of one group keep their places to each other: they count as one."""
    shifts = [0] * len(spans)
    at = len(spans)
    while at:
        first = at - 1
        while first and spans[at - 1].group is not None and spans[first - 1].group is spans[at - 1].group:
            first -= 1
        begin = min(span.segment.start + span.start for span in spans[first:at])
        position -= max(spans[i].segment.start + ends[i] for i in range(first, at)) - begin
        shifts[first:at] = [position - begin] * (at - first)
        at = first
    return shifts, position
