"""`SegmentWriter`: keeps one branch's segments and view in the trace, in step with what its engine branch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..engine import Block
from .record import Piece, SegmentRecord, SpanRecord
from .trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class TracedBlock:
    """A `Block`, and the spans that say in the trace what it holds; closed with its job at the latest."""

    block: Block
    spans: tuple[SpanRecord, ...]
    open_blocks: set[TracedBlock]
    """Those of its job: it is one of them until it is closed."""

    def __post_init__(self) -> None:
        self.open_blocks.add(self)

    @property
    def tokens(self) -> list[int]:
        return self.block.tokens

    def close(self) -> None:
        """Let go; idempotent."""
        self.block.close()
        self.open_blocks.discard(self)


def note_sights(segment: SegmentRecord, block: Block) -> None:
    """Say of the computed tokens how much of live spans they saw; `block` ends with the engine's form of `segment`."""
    passes, views = block.seen, [(0, segment.view), *segment.views]
    if not passes:
        return
    for (begin, ends), end in zip(passes, [*(begin for begin, _ in passes[1:]), block.computed], strict=True):
        view = next(view for first, view in reversed(views) if first <= begin)
        live = [span.segment for span in view if span.length is None]
        for other, seen in zip(live, ends, strict=True):
            column = segment.seen.setdefault(other, [])
            column += [0] * (begin - len(column))
            column[begin:end] = [seen] * (end - begin)


class SegmentWriter:
    """The trace-side twin of a branch's view: spans in front, and an own segment that opens with the first token."""

    def __init__(
        self, trace: Trace, branch: str, view: tuple[SpanRecord, ...] = (), packed_at: int | None = None
    ) -> None:
        self._trace = trace
        self._branch = branch
        self._front = view
        self._inherited = len(view)
        """Leading spans that came with the fork or with `arrange`."""
        self._sealed = len(view)
        """Leading spans that are in no block of this branch to come."""
        self._packed_at = packed_at
        """In an arranged view: the position of the next segment, counted from the branch's first own token."""
        self._own: SegmentRecord | None = None

    @property
    def packed_at(self) -> int | None:
        """Where a fork goes on, if the view was arranged."""
        if self._packed_at is None or self._own is None:
            return self._packed_at
        return self._own.position + len(self._own)

    @property
    def is_live(self) -> bool:
        """Does what is written now see something that is being written?"""
        return any(span.length is None for span in self._front)

    def view(self) -> tuple[SpanRecord, ...]:
        """What a segment opened now would see."""
        own = self._own
        if own is None or not len(own):
            return self._front
        return (*self._front, SpanRecord(segment=own.id, length=len(own)))

    def own(self, position: int) -> SegmentRecord:
        """The open segment; a new one begins at `position`."""
        start = position if self._packed_at is None else self._packed_at
        is_packed = self._packed_at is not None
        if self._own is None:
            self._own = self._trace.new_segment(self._branch, start, self._front, is_packed=is_packed)
        elif not len(self._own):  # opened when others began to watch it
            self._own.position, self._own.view, self._own.is_packed = start, self._front, is_packed
        return self._own

    def write(self, piece: Piece, position: int) -> SegmentRecord:
        """Append a piece whose first token stands at `position`."""
        segment = self.own(position)
        segment.pieces.append(piece)
        return segment

    def see(self, spans: Sequence[SpanRecord]) -> None:
        """Put spans behind everything seen so far."""
        self._packed_at, self._front = self.packed_at, (*self.view(), *spans)
        if self._own is not None and len(self._own):
            self._own = None

    def freeze(self) -> None:
        """End what is being written, which others are about to take over: the next token opens a new segment."""
        self.see([])

    def block(self, position: int) -> tuple[SpanRecord, ...]:
        """What `Branch.block` covers."""
        own = self.own(position)
        return (*self._unsealed(), SpanRecord(segment=own.id, length=None))

    def seal(self) -> tuple[SpanRecord, ...]:
        """What `Branch.seal` covers; the next token opens a new segment."""
        self.freeze()
        self._own = None
        spans = self._unsealed()
        self._sealed = len(self._front)
        return spans

    def arrange(self, spans: Sequence[SpanRecord], computed: int) -> None:
        """Replace the view. The open segment goes on; its tokens from number `computed` on see the new view."""
        own = self._own if self._own is not None and len(self._own) else None
        kept = self._unsealed() if self._packed_at is not None else ()
        if self._packed_at is None or (own is None and not kept):
            self._packed_at = 0
        self._front = (*spans, *kept)
        self._inherited = self._sealed = len(spans)
        if own is not None and computed:
            own.views = [(first, view) for first, view in own.views if first < computed]
            own.views.append((computed, self._front))
        elif own is not None:
            own.view = self._front

    @property
    def open_segment(self) -> SegmentRecord | None:
        """What is being written; None before its first token."""
        return self._own if self._own is not None and len(self._own) else None

    def written(self) -> list[SpanRecord]:
        """The text that came into the view since the fork."""
        return [span for span in self.view()[self._inherited :] if span.is_text]

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens, and the live and attached spans up to the first token that goes."""
        kept: list[SpanRecord] = []
        left = length
        for span in self.view():
            if span.length is None or span.group is not None:
                kept.append(span)
            elif span.length <= left:
                kept.append(span)
                left -= span.length
            else:
                if left:
                    kept.append(replace(span, length=left))
                break
        if self._packed_at is not None and self._own is not None:
            self._packed_at = self._own.position + left
        self._front, self._own = tuple(kept), None
        self._inherited = min(self._inherited, len(kept))
        self._sealed = min(self._sealed, len(kept))

    def _unsealed(self) -> tuple[SpanRecord, ...]:
        return tuple(span for span in self._front[self._sealed :] if span.length is not None)
