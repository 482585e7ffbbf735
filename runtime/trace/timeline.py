"""When everything in a trace happened: on the critical path, counted in tokens, and by the clock."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Piece, SegmentRecord, StateRecord, ToolRecord
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Moment:
    """A point on both time axes."""

    step: int
    seconds: float | None
    """None: not recorded."""


class Timeline:
    """Moments of a trace's pieces and branches.

    Steps that were not recorded (format 1) follow from the views: a segment begins behind everything it sees, which is
    exact but for branches that other branches spawned while they went on writing themselves.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.segments: dict[str, list[SegmentRecord]] = {name: [] for name in trace.branches}
        """Of each branch, in the order in which they were written."""
        self._steps: dict[int, list[int]] = {}
        """Segment -> first step of each of its pieces."""
        self._starts: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        for segment in trace.segments:
            self.segments[segment.branch].append(segment)
            self._place(segment)

    def begin(self, branch: str) -> Moment:
        """When the branch was opened."""
        record = self._trace.branches[branch]
        step = record.step
        if step is None:
            step = self._starts.get(branch, self._ends.get(record.parent or "", 0))
        return Moment(step, record.opened)

    def end(self, branch: str) -> Moment:
        """When the branch was closed; on the steps, when it had written its last token."""
        record = self._trace.branches[branch]
        return Moment(self._ends.get(branch, self.begin(branch).step), record.closed)

    def step(self, segment: int, piece: int) -> int:
        """First step of a piece, by its number in the segment."""
        return self._steps[segment][piece]

    def at(self, segment: SegmentRecord, token: int) -> Moment:
        """When the segment's token of that number was begun; its length: when the last one was complete."""
        for number, piece in enumerate(segment.pieces):
            count = len(piece.token_ids)
            if token < count or number == len(segment.pieces) - 1:
                step = self._steps[segment.id][number] + (token if _takes_steps(piece) else 0)
                if piece.began is None or piece.ended is None:
                    return Moment(step, None)
                return Moment(step, piece.began + (piece.ended - piece.began) * token / max(count, 1))
            token -= count
        return self.begin(segment.branch)

    def note(self, record: ToolRecord | StateRecord) -> Moment:
        """When the tool was started, or the state entered."""
        step = record.step if record.step is not None else self.begin(record.branch).step
        return Moment(step, record.began if isinstance(record, ToolRecord) else record.time)

    def tool_end(self, tool: ToolRecord) -> float:
        """Seconds at which the tool was done. One that was interrupted was so at the latest when its branch went on
        writing or was closed, or when the record ends."""
        if tool.ended is not None:
            return tool.ended
        pieces = (piece.began for segment in self.segments[tool.branch] for piece in segment.pieces)
        limits = [*pieces, self._trace.branches[tool.branch].closed, self._last_second()]
        return min((limit for limit in limits if limit is not None and limit >= tool.began), default=tool.began)

    def _last_second(self) -> float:
        trace = self._trace
        times = [piece.ended for segment in trace.segments for piece in segment.pieces]
        times += [record.closed for record in trace.branches.values()]
        times += [tool.ended for tool in trace.tools] + [state.time for state in trace.states]
        return max((time for time in times if time is not None), default=0.0)

    def _place(self, segment: SegmentRecord) -> None:
        now = max([self._ends.get(segment.branch, self._spawned(segment.branch)), *self._seen(segment)])
        steps = []
        for piece in segment.pieces:
            if piece.kind == "injected":
                now = max([now, *self._joined(segment.id)])
            now = now if piece.step is None else piece.step
            steps.append(now)
            now += len(piece.token_ids) if _takes_steps(piece) else 0
        self._steps[segment.id] = steps
        self._starts.setdefault(segment.branch, steps[0] if steps else now)
        self._ends[segment.branch] = now

    def _spawned(self, branch: str) -> int:
        return self._ends.get(self._trace.branches[branch].parent or "", 0)

    def _seen(self, segment: SegmentRecord) -> list[int]:
        return [
            self.at(self._trace.segments[span.segment], span.length).step
            for span in segment.view
            if span.length is not None and span.segment in self._steps
        ]

    def _joined(self, segment: int) -> list[int]:
        joins = [join for join in self._trace.joins if join.segment == segment]
        return [self._ends[child] for join in joins for child in join.children if child in self._ends]


def _takes_steps(piece: Piece) -> bool:
    return piece.kind != "prompt"
