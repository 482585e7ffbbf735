"""Candidates, and the votes of tests for them (arXiv 2501.14723, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .sandbox.base import Execution

REPRODUCED, PASSED = 2, 0
"""What a test ends with if it sees the issue, and if it does not."""

VoteRule = Literal["all", "reproducing"]
"""Whose vote counts: every test's, as in the paper, or that of tests which show the issue on the original code."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One patch, however many trajectories or systems proposed it."""

    patch: str
    sources: list[str]
    """Who proposed it: `edit 3`, or the name of a system."""
    passed: list[int] = field(default_factory=list)
    """Numbers of the tests that end with 0 on it."""
    applies: bool = True
    """Does it change files of the original code?"""
    keeps: bool | None = True
    """Does the check command pass on it as it does on the original code? None: there was no time to find out, which
    puts it behind none."""

    def votes(self, counted: Sequence[int]) -> int:
        return len(set(self.passed) & set(counted))


def gather(patches: Sequence[tuple[str, str]]) -> list[Candidate]:
    """Candidates of (source, patch), equal patches once; empty ones are none."""
    found: dict[str, Candidate] = {}
    for source, patch in patches:
        if not patch.strip():
            continue
        found.setdefault(patch.strip("\n"), Candidate(patch=patch, sources=[])).sources.append(source)
    return list(found.values())


def reproducing(originals: Sequence[Execution]) -> list[int]:
    """The tests that show the issue on the original code."""
    return [number for number, execution in enumerate(originals) if execution.exit_code == REPRODUCED]


def rank(candidates: Sequence[Candidate], originals: Sequence[Execution], rule: VoteRule = "all") -> list[Candidate]:
    """The best first: one that applies and breaks nothing, by the number of tests that pass, then by how often it was
    proposed, then the shorter one, as a simpler fix. With no test that shows the issue, all count."""
    counted = list(range(len(originals)))
    if rule == "reproducing":
        counted = reproducing(originals) or counted
    return sorted(
        candidates,
        key=lambda one: (
            not one.applies,
            one.keeps is False,
            -one.votes(counted),
            -len(one.sources),
            len(one.patch),
            one.patch,
        ),
    )


def take_results(candidates: Sequence[Candidate], results: Mapping[tuple[int, int], Execution]) -> None:
    """Fill in who passed what. `results`: (test, candidate) -> how it ended."""
    for (test, number), execution in results.items():
        candidates[number].applies &= execution.ended != "patch"
        if execution.exit_code == PASSED:
            candidates[number].passed.append(test)


def take_check(candidates: Sequence[Candidate], before: Execution, after: Sequence[Execution]) -> None:
    """Fill in who keeps what the check command checks, as far as the deadline let it run."""
    for candidate, execution in zip(candidates, after, strict=True):
        candidate.applies &= execution.ended != "patch"
        deciding = execution if before.exit_code == PASSED else before
        is_cut = deciding.ended == "deadline"
        candidate.keeps = None if is_cut else deciding is before or execution.exit_code == PASSED
