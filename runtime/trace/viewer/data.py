"""A trace as the compact JSON value that the viewer's script draws."""

from __future__ import annotations

import json
import math
from itertools import accumulate, pairwise
from typing import Any

from ..record import BranchRecord, JoinRecord, Piece, SegmentRecord, SpanRecord, StateRecord, ToolRecord
from ..timeline import Moment, Timeline
from ..trace import Trace

KINDS = ("prompt", "injected", "sampled")
UNKNOWN = -1
"""Stands for a log-probability that is not known."""
MOST_SURPRISE = 99.0
"""Nats; stands for all that are less probable."""


def trace_data(trace: Trace) -> dict[str, Any]:
    """What `mountTrace(element, data)` takes; about 15 bytes of JSON per token.

    - `job`: what was asked for and how it ended.
    - `branches`: objects in the order in which they were opened; `parent` is an index into the list. `model`: null but
      for branches on another model than the job's.
    - `pieces`: columns with one entry per piece, the pieces of a branch in order. `kept`: how many of a piece's tokens
      the branch had not forgotten in the end.
    - `tokens`: columns with one entry per token, piece after piece. `surprise`: -logprob in hundredths of a nat;
      `chars`: UTF-16 units of the piece's text that the token completed, all 0 where that is not known.
    - `joins`: results of branches that came into another one, as text or (`merge`) as KV.
    - `watches`: stretches during which a branch saw another one live.
    - `tools`: uses of tools. `arguments`: pairs of name and value, values that are no text as JSON; `outcome`: "ok",
      "failed" or "interrupted"; `begin` and `end`: a tool takes seconds but no steps.
    - `states`: what branches went over into, and when; each lasts until the branch's next.

    Times are in seconds or null, steps in tokens on the critical path.
    """
    trace.spell()
    timeline = Timeline(trace)
    index = {name: number for number, name in enumerate(trace.branches)}
    return {
        "version": 1,
        "job": _job(trace),
        "branches": [_branch(record, index, timeline) for record in trace.branches.values()],
        **_pieces(trace, index, timeline),
        "joins": [_join(join, index, timeline) for join in trace.joins],
        "watches": [watch for name in index for watch in _watches(trace, name, index, timeline)],
        "tools": [_tool(tool, index, timeline) for tool in sorted(trace.tools, key=lambda tool: tool.began)],
        "states": [_state(state, index, timeline) for state in trace.states],
    }


def _job(trace: Trace) -> dict[str, Any]:
    method = dict(trace.header["method"] or {})
    end = trace.end or {"finish": "unfinished", "answer": None}
    return {
        "method": method.pop("method", None),
        "parameters": method,
        "model": trace.header["model"],
        "seed": trace.header["seed"],
        "plait": trace.header["plait"],
        "settings": trace.header["settings"],
        **{name: end.get(name) for name in ("finish", "answer", "error", "usage", "details")},
    }


def _branch(record: BranchRecord, index: dict[str, int], timeline: Timeline) -> dict[str, Any]:
    return {
        "id": record.id,
        "parent": None if record.parent is None else index[record.parent],
        "origin": record.origin,
        "label": record.label,
        "level": record.level,
        "model": record.model,
        "finish": record.finish,
        "error": record.error,
        "scores": record.scores,
        "pruned": record.pruned,
        "begin": _moment(timeline.begin(record.id)),
        "end": _moment(timeline.end(record.id)),
    }


def _moment(moment: Moment) -> list[float | None]:
    return [moment.step, moment.seconds]


def _pieces(trace: Trace, index: dict[str, int], timeline: Timeline) -> dict[str, Any]:
    pieces: dict[str, list[Any]] = {
        name: []
        for name in (
            "branch",
            "kind",
            "segment",
            "position",
            "count",
            "kept",
            "step",
            "began",
            "ended",
            "finish",
            "text",
        )
    }
    tokens: dict[str, list[int]] = {"id": [], "surprise": [], "chars": []}
    kept = {name: _kept(trace, segments) for name, segments in timeline.segments.items()}
    for segment in (segment for segments in timeline.segments.values() for segment in segments):
        offset = 0
        for number, piece in enumerate(segment.pieces):
            count = len(piece.token_ids)
            row = {
                "branch": index[segment.branch],
                "kind": KINDS.index(piece.kind),
                "segment": segment.id,
                "position": segment.position + offset,
                "count": count,
                "kept": min(max(kept[segment.branch].get(segment.id, 0) - offset, 0), count),
                "step": timeline.step(segment.id, number),
                "began": piece.began,
                "ended": piece.ended,
                "finish": piece.finish,
                "text": piece.text,
            }
            for name, value in row.items():
                pieces[name].append(value)
            tokens["id"] += piece.token_ids
            tokens["surprise"] += _surprise(piece)
            tokens["chars"] += _chars(piece)
            offset += count
    return {"pieces": pieces, "tokens": tokens}


def _surprise(piece: Piece) -> list[int]:
    if piece.logprobs is None:
        return [UNKNOWN] * len(piece.token_ids)
    known = [UNKNOWN if math.isnan(logprob) else min(max(-logprob, 0), MOST_SURPRISE) for logprob in piece.logprobs]
    return [round(100 * value) if value >= 0 else UNKNOWN for value in known]


def _chars(piece: Piece) -> list[int]:
    """In UTF-16 code units, as JavaScript counts."""
    if piece.chars is None:
        return [0] * len(piece.token_ids)
    if piece.text.isascii():
        return piece.chars
    ends = [0, *accumulate(piece.chars)]
    return [len(piece.text[a:b].encode("utf-16-le", "surrogatepass")) // 2 for a, b in pairwise(ends)]


def _kept(trace: Trace, segments: list[SegmentRecord]) -> dict[int, int]:
    """Segment -> how many of its tokens the last of a branch's segments saw; that one sees itself whole."""
    if not segments:
        return {}
    last = segments[-1]
    kept = {last.id: len(last)}
    for span in last.views[-1][1] if last.views else last.view:
        length = len(trace.segments[span.segment]) if span.length is None else span.length
        kept[span.segment] = max(kept.get(span.segment, 0), length)
    return kept


def _join(join: JoinRecord, index: dict[str, int], timeline: Timeline) -> dict[str, Any]:
    moment = Moment(join.step if join.step is not None else _after(join, timeline), join.time)
    return {
        "branch": index[join.branch],
        "children": [index[name] for name in join.children],
        "found": [index[name] for name in join.found],
        "merge": join.segment is None,
        "at": _moment(moment),
    }


def _after(join: JoinRecord, timeline: Timeline) -> int:
    return max(timeline.end(name).step for name in (join.children or (join.branch,)))


def _watches(trace: Trace, name: str, index: dict[str, int], timeline: Timeline) -> list[dict[str, Any]]:
    watches: list[dict[str, Any]] = []
    open_: dict[str, dict[str, Any]] = {}
    for segment in timeline.segments[name]:
        bounds = [(0, segment.view), *segment.views]
        for (first, view), (end, _) in zip(bounds, [*bounds[1:], (len(segment), ())], strict=True):
            if first == end:
                continue
            seen = _watched(trace, view) - {name}
            open_ = {branch: watch for branch, watch in open_.items() if branch in seen}
            for branch in sorted(seen):
                if branch not in open_:
                    begin = _moment(timeline.at(segment, first))
                    open_[branch] = {"branch": index[name], "watched": index[branch], "begin": begin}
                    watches.append(open_[branch])
                open_[branch]["end"] = _moment(timeline.at(segment, end))
    return watches


def _watched(trace: Trace, view: tuple[SpanRecord, ...]) -> set[str]:
    return {trace.segments[span.segment].branch for span in view if span.length is None}


def _tool(tool: ToolRecord, index: dict[str, int], timeline: Timeline) -> dict[str, Any]:
    begin = timeline.note(tool)
    return {
        "branch": index[tool.branch],
        "tool": tool.tool,
        "arguments": [
            [name, value if isinstance(value, str) else json.dumps(value)] for name, value in tool.arguments.items()
        ],
        "outcome": tool.outcome,
        "output": tool.output,
        "begin": _moment(begin),
        "end": [begin.step, timeline.tool_end(tool)],
    }


def _state(state: StateRecord, index: dict[str, int], timeline: Timeline) -> dict[str, Any]:
    return {"branch": index[state.branch], "state": state.state, "at": _moment(timeline.note(state))}
