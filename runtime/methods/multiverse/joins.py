"""Joins that encode the paths again, one behind another, so that each sees those before it."""

from __future__ import annotations

from collections.abc import Sequence

from ...engines.text_stream import decode_behind
from ...events import Joined
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...trace.record import JoinRecord
from .line import Line


def read_on(ctx: Context, line: Line, paths: Sequence[Line], alive: Sequence[bool]) -> None:
    """The first path stands where it would stand anyway and is merged; the others are read as a prompt is, which no
    ledger counts: they were paid for when they were written."""
    first, *others = paths
    branch = line.branch
    branch.merge([first.branch])
    tokens = [token for path in others for token in path.tokens]
    branch.engine_branch.extend(tokens)
    branch.record_prompt(tokens)
    _note(ctx, branch, others, alive[1:], tokens)


def reopen(ctx: Context, line: Line, paths: Sequence[Line], alive: Sequence[bool]) -> None:
    """For engines that cannot merge: the line goes on in a new branch, which reads everything."""
    old = line.branch
    tokens = [token for path in paths for token in path.tokens]
    line.branch = ctx.open([*old.tokens, *tokens], label=old.record.label, context_limit=old.context_limit)
    _note(ctx, line.branch, paths, alive, tokens)
    if not line.index:
        old.close()  # a path's first branch is where it is tried again


def _note(
    ctx: Context, branch: TracedBranch, paths: Sequence[Line], alive: Sequence[bool], tokens: Sequence[int]
) -> None:
    children = tuple(path.branch.id for path in paths)
    found = tuple(child for child, ok in zip(children, alive, strict=True) if ok)
    trace = ctx.state.trace
    segment = trace.segments_of(branch.id)[-1].id
    trace.joins.append(JoinRecord(branch=branch.id, children=children, found=found, segment=segment))
    ctx.emit(Joined, branch=branch.id, children=children, found=found, text=decode_behind(ctx.tokenizer, tokens))
