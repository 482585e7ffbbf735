"""What the details of a `CodeMonkeys` result say of its parts, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .machines.machine import Data
from .sandbox.base import Execution
from .voting import Candidate, reproducing


def candidate_json(candidate: Candidate, originals: Sequence[Execution]) -> dict[str, Any]:
    """`passed`: numbers of the tests that pass with it. `votes` are those of all tests, `votes_of_reproducing` those of
    tests that show the issue on the original code. `applies`: does the patch? `keeps`: is what the check command checks
    as it was? None: there was no time to find out."""
    return {
        "patch": candidate.patch,
        "sources": candidate.sources,
        "passed": candidate.passed,
        "votes": candidate.votes(range(len(originals))),
        "votes_of_reproducing": candidate.votes(reproducing(originals)),
        "applies": candidate.applies,
        "keeps": candidate.keeps,
    }


def test_json(script: str, original: Execution) -> dict[str, Any]:
    """`exit_code`: on the original code."""
    return {"script": script, "exit_code": original.exit_code}


def check_json(before: Execution) -> dict[str, Any]:
    """How the check command ended on the original code."""
    return {"exit_code": before.exit_code, "ended": before.ended, "seconds": before.seconds}


def trajectory_json(data: Data) -> dict[str, Any]:
    """How a machine ended, and what every one of its calls gave: enough to tell what fewer calls would have given."""
    return {"end": data.state, "calls": data.attempts, "history": [step.model_dump() for step in data.history]}
