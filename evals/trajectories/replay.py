"""What would have come of fewer model calls in each edit trajectory, from the attempt histories: no model runs again.

The paper's scaling curves (arXiv 2501.14723, section 4) are made so. Tests that never met an edit in the job are run on
it: sandboxes, not model calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...agents.executions import SCRIPT
from ...agents.fields import Fields
from ...agents.sandbox.base import Execution
from ...agents.voting import VoteRule, gather, rank, take_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """The edit trajectories of a job, and the tests that they began with."""

    edits: Sequence[Sequence[tuple[str, str]]]
    """Of each, kind and text of what its model calls gave."""
    tests: Sequence[str | None]

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Trajectories:
        """`details`: of the result of a `CodeMonkeys` job."""
        edits, tests = (
            [[(step["kind"], step["text"]) for step in one["history"]] for one in details.get(name, ())]
            for name in ("edit_trajectories", "test_trajectories")
        )
        first = [_last(history, "test") for history in tests]
        return cls(edits=edits, tests=[*first, *[None] * (len(edits) - len(first))])

    @property
    def all_patches(self) -> set[str]:
        """Whatever is a patch at any limit."""
        return {patch for limit in range(1, self.calls + 1) for patch in self.patches(limit) if patch}

    @property
    def calls(self) -> int:
        """Of the longest."""
        return max(map(len, self.edits), default=0)

    def patches(self, limit: int) -> list[str | None]:
        """What each would have ended with within this many calls; None: without an edit that changes anything."""
        return [_last(history[:limit], "edit") or None for history in self.edits]

    def scripts(self, limit: int) -> list[str]:
        """The test of each that has one; equal ones vote as often as they are, as in the job."""
        found = [_last(one[:limit], "test") or first for one, first in zip(self.edits, self.tests, strict=True)]
        return [script for script in found if script is not None]


def _last(history: Sequence[tuple[str, str]], kind: str) -> str | None:
    return next((text for name, text in reversed(history) if name == kind), None)


def by_votes(
    patches: Sequence[str | None], scripts: Sequence[str], results: Mapping[tuple[str, str], Execution], rule: VoteRule
) -> str | None:
    """The patch that the tests' votes put first; None: there is no candidate. `results`: (script, patch) -> how it
    ended, the empty patch among them; not needed for one candidate."""
    candidates = gather([(f"edit {number}", patch) for number, patch in enumerate(patches) if patch])
    if len(candidates) > 1:
        pairs = product(range(len(scripts)), range(len(candidates)))
        take_results(candidates, {(i, k): results[scripts[i], candidates[k].patch] for i, k in pairs})
        candidates = rank(candidates, [results[script, ""] for script in scripts], rule)
    return candidates[0].patch if candidates else None


async def run_tests(trajectories: Trajectories, method: Fields, at_once: int) -> dict[tuple[str, str], Execution]:
    """Every run that `by_votes` needs at any limit, as the job does them."""
    needed: set[tuple[str, str]] = set()
    for limit in range(1, trajectories.calls + 1):
        patches = set(filter(None, trajectories.patches(limit)))
        if len(patches) > 1:
            needed |= set(product(trajectories.scripts(limit), patches | {""}))
    limits = method.sandbox.limits.model_copy(update={"seconds": method.seconds})
    slots = asyncio.Semaphore(at_once)
    results: dict[tuple[str, str], Execution] = {}

    async def run(script: str, patch: str) -> None:
        async with slots:
            results[script, patch] = await method.sandbox.run(
                ("python", SCRIPT), method.source.snapshot(patch), files={SCRIPT: script}, limits=limits
            )

    try:
        async with asyncio.TaskGroup() as group:
            for script, patch in sorted(needed):
                group.create_task(run(script, patch))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return results
