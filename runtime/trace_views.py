"""What every token of a trace saw, live views and views that changed included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .trace import SegmentRecord, SpanRecord, Trace


@dataclass(frozen=True, slots=True)
class Sight:
    """The first `end` tokens of a segment, moved by `shift`, as one token saw them."""

    segment: int
    end: int
    shift: int
    group: tuple[float, float] | None = None


def sights(trace: Trace, segment: SegmentRecord) -> Iterator[list[Sight]]:
    """What each token of `segment` saw before the segment itself, token after token.

    Ends early where the trace does not say how much of a live span was seen: such tokens were never computed.
    """
    changes = dict(segment.views)
    view = segment.view
    for index in range(len(segment)):
        view = changes.get(index, view)
        seen: list[tuple[SpanRecord, int]] = []
        for span in view:
            end = span.length
            if end is None:
                column = segment.seen.get(span.segment, [])
                if index >= len(column):
                    return
                end = column[index]
            seen.append((span, end))
        yield _placed(trace, segment, seen)


def _placed(trace: Trace, segment: SegmentRecord, seen: list[tuple[SpanRecord, int]]) -> list[Sight]:
    if not segment.is_packed:
        return [Sight(span.segment, end, span.shift, span.group) for span, end in seen]
    at = segment.position
    found = []
    for span, end in reversed(seen):
        at -= end
        found.append(Sight(span.segment, end, at - trace.segments[span.segment].position, span.group))
    return found[::-1]
