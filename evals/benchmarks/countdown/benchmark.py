"""Countdown as a benchmark: our own held-out problems, or any JSON Lines with `nums` and `target`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ....runtime.methods.apr.compact import CAP, LEAF, prompt
from ...benchmark import Benchmark, Sample, Verdict
from ...records import read_rows
from .problems import Problem, Row, validation
from .verify import verify

MODES = {"apr": "apr", "multiverse": "mv", "tree_search": "step"}
"""Method -> the mode word of the shipped model's language; all others search in one line."""


Number = Annotated[int, Field(ge=1, le=CAP)]
"""What the compact language can write."""


class BenchmarkRow(Row):
    nums: list[Number] = Field(min_length=LEAF)
    target: Number


class Countdown(Benchmark):
    """Make the target from all numbers; prompts are in the compact language of the shipped model."""

    name: Literal["countdown"] = "countdown"
    """What configurations call it."""
    numbers: int = Field(default=4, ge=LEAF)
    """How many numbers our own problems have."""
    seed: int = 0
    """What our own problems are drawn with."""

    def load(self) -> list[Sample]:
        if self.data is None:
            problems = validation(self.numbers, self.count or 1000, self.seed)
            return [as_sample(f"validation-{self.numbers}-{self.seed}-{i}", p) for i, p in enumerate(problems)]
        return [as_sample(row.id, row.problem) for row in read_rows(self.data, BenchmarkRow)[: self.count]]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        problem: Problem = sample.data
        fields: dict[str, Any] = {
            "prompt": prompt(problem.nums, problem.target, MODES.get(method, "seq")),
            "logprobs": False,
        }
        if method == "apr":
            # Threads nest until leaves are left.
            return {**fields, "dialect": "compact", "depth": max(1, len(problem.nums) - LEAF)}
        if method == "tree_search":
            return {**fields, "delimiters": (";",), "answer": "equations", "reward": "prm:countdown_prm"}
        return {**fields, "answer": "countdown"}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        problem: Problem = sample.data
        if answer is None:
            return Verdict(correct=False, extracted=None, reason="no answer")
        verdict = verify(problem.nums, problem.target, answer)
        return Verdict(correct=verdict.ok, extracted=answer, reason=verdict.reason)


def as_sample(id: str, problem: Problem) -> Sample:
    """The problem as the benchmark takes it."""
    return Sample(id=id, question=f"make {problem.target} from {' '.join(map(str, problem.nums))}", data=problem)
