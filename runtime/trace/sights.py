"""What every token of a trace saw, live views and views that changed included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from .record import GroupRecord, SegmentRecord, SpanRecord
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Sight:
    """The first `end` tokens of a segment, moved by `shift`, as one token saw them."""

    segment: int
    end: int
    shift: int
    group: GroupRecord | None = None


def sights(trace: Trace, segment: SegmentRecord) -> Iterator[list[Sight]]:
    """What each token of `segment` saw before the segment itself, token after token.

    Ends early where the trace does not say how much of a live span was seen: such tokens were never computed, or are a
    context's.
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
    found: list[Sight] = []
    at = segment.position
    # The spans of one group keep their places to each other.
    for _, unit in groupby(enumerate(reversed(seen)), key=lambda item: item[1][0].group or item[0]):
        spans = [(span, end, trace.segments[span.segment].position) for _, (span, end) in unit]
        begin = min(position for _, _, position in spans)
        at -= max(position + end for _, end, position in spans) - begin
        found += [Sight(span.segment, end, at - begin, span.group) for span, end, _ in spans]
    return found[::-1]
