"""A trace in Chrome's Trace Event Format, which Perfetto and chrome://tracing open.

One thread per branch: a complete event for its life, inside it one per piece and use of a tool; further threads for
tools that ran beside those; flow events for forks, spawns, joins and merges; instant events for states and prunings.
Where the trace has no times, one step on the critical path is drawn as one millisecond.
"""

from __future__ import annotations

import math
from typing import Any

from .record import Piece, SegmentRecord, ToolRecord
from .timeline import Moment, Timeline
from .trace import Trace

PROCESS = 1
MICROSECONDS = 1_000_000
MICROSECONDS_PER_STEP = 1000


def perfetto(trace: Trace) -> dict[str, Any]:
    """The JSON object; times in microseconds since the job started."""
    return _Writer(trace).write()


class _Writer:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.timeline = Timeline(trace)
        self.threads = {name: number for number, name in enumerate(trace.branches, start=1)}
        records = trace.branches.values()
        pieces = [piece for segment in trace.segments for piece in segment.pieces]
        self.has_times = all(record.opened is not None for record in records) and all(
            piece.began is not None and piece.ended is not None for piece in pieces
        )
        self.lives = {name: self._life(name) for name in trace.branches}
        self.events: list[dict[str, Any]] = []
        self._busy: dict[int, list[tuple[float, float]]] = {number: [] for number in self.threads.values()}
        """Of each thread: when pieces and tools have it."""
        self._further: dict[str, list[int]] = {name: [] for name in trace.branches}
        """Threads for a branch's tools beside its own."""
        self._flows = 0

    def write(self) -> dict[str, Any]:
        header, end = self.trace.header, self.trace.end or {}
        method = (header["method"] or {}).get("method")
        self._meta("process_name", name=f"{method} on {header['model']}")
        for name in self.trace.branches:
            self._branch(name)
        for segment in self.trace.segments:
            for number, piece in enumerate(segment.pieces):
                self._piece(segment, number, piece)
        for tool in self.trace.tools:
            self._tool(tool)
        for state in self.trace.states:
            at = self._time(self.timeline.note(state))
            self._add("i", self.threads[state.branch], at, name=state.state, cat="state", s="t")
        self._links()
        return {
            "traceEvents": self.events,
            "displayTimeUnit": "ms",
            "otherData": {
                "plait": header["plait"],
                "seed": header["seed"],
                "finish": end.get("finish", "unfinished"),
                "answer": end.get("answer"),
                "time": "seconds" if self.has_times else f"{MICROSECONDS_PER_STEP} us per critical-path token",
            },
        }

    def _time(self, moment: Moment) -> float:
        if self.has_times and moment.seconds is not None:
            return round(moment.seconds * MICROSECONDS, 3)
        return moment.step * MICROSECONDS_PER_STEP

    def _life(self, name: str) -> tuple[float, float]:
        """From opening to closing; a branch that was never closed lives as long as it wrote."""
        begin, end = self.timeline.begin(name), self.timeline.end(name)
        times = [self._time(self.timeline.at(s, len(s))) for s in self.timeline.segments[name]]
        if not self.has_times or end.seconds is not None:
            times.append(self._time(end))
        times += [self._span(tool)[1] for tool in self.trace.tools if tool.branch == name]
        return self._time(begin), max([self._time(begin), *times])

    def _branch(self, name: str) -> None:
        record, thread = self.trace.branches[name], self.threads[name]
        label = f"{record.label} ({name})" if record.label else name
        self._name(thread, label, thread)
        begin, end = self.lives[name]
        args = {"finish": record.finish, "error": record.error, "pruned": record.pruned, "scores": record.scores}
        if record.model is not None:
            args["model"] = record.model
        self._add("X", thread, begin, name=label, cat="branch", dur=round(end - begin, 3), args=args)
        if record.pruned is not None:
            self._add("i", thread, end, name="pruned", cat="branch", s="t", args={"reason": record.pruned})

    def _piece(self, segment: SegmentRecord, number: int, piece: Piece) -> None:
        first = sum(len(before.token_ids) for before in segment.pieces[:number])
        begin = self._time(self.timeline.at(segment, first))
        if self.has_times:
            assert piece.ended is not None
            end = round(piece.ended * MICROSECONDS, 3)
        else:
            end = begin + (len(piece.token_ids) if piece.kind != "prompt" else 0) * MICROSECONDS_PER_STEP
        args: dict[str, Any] = {"tokens": len(piece.token_ids), "text": piece.text, "segment": segment.id}
        if piece.logprobs:
            known = [logprob for logprob in piece.logprobs if math.isfinite(logprob)]
            args["mean logprob"] = round(sum(known) / len(known), 4) if known else None
        thread = self.threads[segment.branch]
        self._busy[thread].append((begin, end))
        self._add("X", thread, begin, name=piece.kind, cat="piece", dur=round(end - begin, 3), args=args)

    def _tool(self, tool: ToolRecord) -> None:
        begin, end = self._span(tool)
        thread = self._free_thread(tool.branch, begin, end)
        self._busy[thread].append((begin, end))
        args = {"outcome": tool.outcome, "arguments": tool.arguments, "output": tool.output}
        self._add("X", thread, begin, name=tool.tool, cat="tool", dur=round(end - begin, 3), args=args)

    def _span(self, tool: ToolRecord) -> tuple[float, float]:
        begin = self.timeline.note(tool)
        return self._time(begin), self._time(Moment(begin.step, self.timeline.tool_end(tool)))

    def _free_thread(self, branch: str, begin: float, end: float) -> int:
        """Slices of one thread may not overlap: a branch's tools that ran at once go onto threads below its own."""
        own, further = self.threads[branch], self._further[branch]
        for thread in (own, *further):
            if all(after >= end or before <= begin for after, before in self._busy[thread]):
                return thread
        thread = len(self._busy) + 1
        self._busy[thread] = []
        further.append(thread)
        self._name(thread, f"{self.trace.branches[branch].label or branch}: tools", own)
        return thread

    def _links(self) -> None:
        for name, record in self.trace.branches.items():
            if record.parent is not None:
                begin = self.lives[name][0]
                self._flow("fork" if record.origin == "fork" else "spawn", record.parent, begin, name, begin)
        for join in self.trace.joins:
            step = self._join_step(join.branch, join.step, join.children)
            at = self._time(Moment(step, join.time))
            for child in join.found:
                self._flow("merge" if join.segment is None else "join", child, self.lives[child][1], join.branch, at)

    def _join_step(self, branch: str, step: int | None, children: tuple[str, ...]) -> int:
        return step if step is not None else max(self.timeline.end(name).step for name in (*children, branch))

    def _flow(self, kind: str, source: str, leaves: float, target: str, arrives: float) -> None:
        """An arrow. Its ends have to lie on slices, so they are moved into the lives of both branches."""
        self._flows += 1
        ends = []
        for name, time in ((source, leaves), (target, arrives)):
            begin, end = self.lives[name]
            ends.append(min(max(time, begin), end))
        leaves, arrives = min(ends), ends[1]
        self._add("s", self.threads[source], leaves, name=kind, cat="link", id=self._flows)
        self._add("f", self.threads[target], arrives, name=kind, cat="link", id=self._flows, bp="e")

    def _name(self, thread: int, name: str, place: int) -> None:
        self._meta("thread_name", thread, name=name)
        self._meta("thread_sort_index", thread, sort_index=place)

    def _meta(self, kind: str, thread: int = 0, **args: Any) -> None:
        self.events.append({"ph": "M", "pid": PROCESS, "tid": thread, "name": kind, "args": args})

    def _add(self, phase: str, thread: int, time: float, **values: Any) -> None:
        self.events.append({"ph": phase, "pid": PROCESS, "tid": thread, "ts": time, **values})
