"""A job's threads in a few bytes each, for the report."""

from __future__ import annotations

from ..runtime.trace.record import BranchRecord
from ..runtime.trace.trace import Trace

TAIL = 160
"""Characters kept of the end of each thread's text."""

Thread = tuple[str, str | None, str, int, str, str]
"""Id, parent's id, label, tokens sampled, how it ended, the end of its text."""


def threads(trace: Trace) -> list[Thread]:
    """All branches in the order in which they were opened."""
    found = {name for join in trace.joins for name in join.found}
    joined = {name for join in trace.joins for name in join.children}
    merged = {name for join in trace.joins if join.segment is None for name in join.children}
    sampled: dict[str, int] = dict.fromkeys(trace.branches, 0)
    tails: dict[str, str] = dict.fromkeys(trace.branches, "")
    for segment in trace.segments:
        for piece in segment.pieces:
            sampled[segment.branch] += len(piece.token_ids) if piece.kind == "sampled" else 0
            tails[segment.branch] = (tails[segment.branch] + piece.text)[-TAIL:]

    def status(record: BranchRecord) -> str:
        if record.id in merged:
            return "merged"
        if record.id in joined:
            return "found" if record.id in found else "no result"
        return record.error or record.pruned or record.finish or ""

    return [
        (record.id, record.parent, record.label, sampled[record.id], status(record), tails[record.id])
        for record in trace.branches.values()
    ]
