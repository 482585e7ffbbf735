"""When a job that came to an end has failed all the same."""

from __future__ import annotations

from ..runtime.errors import PromptTooLong
from ..runtime.result import Finish
from ..runtime.trace.trace import Trace

_OUTCOMES = (f"{PromptTooLong.__name__}: ",)
"""Errors of branches that say something of the method, not of the machine."""


def failure(trace: Trace) -> tuple[Finish, str] | None:
    """Why nothing can be said of the method by this job: a branch of it ended for lack of KV blocks, or by an error of
    the engine. What a method makes of the rest depends on the machine and its load. None: it has not failed."""
    starved = {s.branch for s in trace.segments for piece in s.pieces if piece.finish == Finish.MEMORY}
    starved |= {record.id for record in trace.branches.values() if record.finish == Finish.MEMORY}
    if starved or (trace.end or {}).get("finish") == Finish.MEMORY:
        names = f"{len(starved)} branches" if len(starved) > 1 else f"branch {min(starved, default='of another model')}"
        return Finish.MEMORY, f"out of KV memory: {names} found no free block (more kv_tokens, or more swap_tokens)"
    for record in trace.branches.values():
        if record.error is not None and not record.error.startswith(_OUTCOMES):
            return Finish.FAILED, f"branch {record.id}: {record.error}"
    return None
