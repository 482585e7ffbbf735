"""Countdown as a benchmark: our own held-out problems, or any JSON Lines with `nums` and `target`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ....runtime.errors import InvalidInput
from ....runtime.methods.apr.compact import CAP, LEAF, prompt
from ...benchmark import Benchmark, Sample, Verdict, read_rows
from .problems import Problem, validation
from .verify import verify

MODES = {"apr": "apr", "multiverse": "mv", "tree_search": "step"}
"""Method -> the mode word of the shipped model's language; all others search in one line."""


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
        samples = []
        for number, row in enumerate(read_rows(self.data, ("nums", "target"))[: self.count], start=1):
            try:
                problem = Problem(tuple(map(int, row["nums"])), int(row["target"]))
            except (TypeError, ValueError):
                raise InvalidInput(f"{self.data}: problem {number}: `nums` and `target` must be integers") from None
            if len(problem.nums) < LEAF or not all(1 <= n <= CAP for n in (*problem.nums, problem.target)):
                raise InvalidInput(
                    f"{self.data}: problem {number}: at least {LEAF} numbers, all and the target from 1 to {CAP}"
                )
            samples.append(as_sample(str(row.get("id", number)), problem))
        return samples

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
