"""`SegmentWriter`: keeps one branch's segments and view in the trace, in step with what its engine branch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .trace import Piece, SegmentRecord, SpanRecord, Trace


class SegmentWriter:
    """The trace-side twin of a branch's view: spans in front, and an own segment that opens with the first token."""

    def __init__(self, trace: Trace, branch: str, view: tuple[SpanRecord, ...] = ()) -> None:
        self._trace = trace
        self._branch = branch
        self._front = view
        self._inherited = len(view)
        """Leading spans that came with the fork."""
        self._own: SegmentRecord | None = None

    def view(self) -> tuple[SpanRecord, ...]:
        """What a segment opened now would see."""
        own = self._own
        if own is None or not len(own):
            return self._front
        return (*self._front, SpanRecord(segment=own.id, length=len(own)))

    def own(self, position: int) -> SegmentRecord:
        """The open segment; a new one begins at `position`."""
        if self._own is None:
            self._own = self._trace.new_segment(self._branch, position, self._front)
        return self._own

    def write(self, piece: Piece, position: int) -> SegmentRecord:
        """Append a piece whose first token stands at `position`."""
        segment = self.own(position)
        segment.pieces.append(piece)
        return segment

    def see(self, spans: Sequence[SpanRecord]) -> None:
        """Put spans behind everything seen so far."""
        self._front, self._own = (*self.view(), *spans), None

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
        self._front, self._own = tuple(kept), None
        self._inherited = min(self._inherited, len(kept))
