"""What tests of several engines use."""

from __future__ import annotations

from plait import Result


def written(result: Result) -> dict[str, list[list[int]]]:
    """The tokens of all branches of a job, as its trace has them."""
    trace = result.trace
    return {branch: [segment.token_ids for segment in trace.segments_of(branch)] for branch in trace.branches}
