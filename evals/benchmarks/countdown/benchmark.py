"""Countdown as a benchmark: our own held-out problems, or any file with `nums` and `target`, in two languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ....runtime.methods.apr.compact import CAP, LEAF, prompt
from ....runtime.methods.search_path import GOAL, final_path
from ...benchmark import Benchmark, Sample, Verdict
from ...records import read_rows
from . import paper, paths
from .problems import Problem, Row, training, validation
from .verify import verify

MODES = {"apr": "apr", "multiverse": "mv", "tree_search": "step"}
"""Method -> the mode word of the shipped model's language; all others search in one line."""


Number = Annotated[int, Field(ge=1, le=CAP)]
"""What the compact language can write."""


class BenchmarkRow(Row):
    nums: list[Number] = Field(min_length=LEAF)
    target: Number


class Countdown(Benchmark):
    """Make the target from all numbers."""

    name: Literal["countdown"] = "countdown"
    """What configurations call it."""
    numbers: int = Field(default=4, ge=LEAF)
    """How many numbers our own problems have."""
    split: Literal["validation", "train"] = "validation"
    """Of our own problems; `train` holds none of `validation`."""
    seed: int = 0
    """What our own problems are drawn with."""
    language: Literal["compact", "paper"] = "compact"
    """Of the prompts: `compact`, the shipped model's, or `paper`, that of arXiv 2504.15466 (APR by `apr`, SoS+ by
    methods that search in one line)."""
    verifier: Literal["strict", "apr", "sosp"] = "strict"
    """Who judges searches in the paper's language: `strict`, or as published for APR or for SoS+, which let some wrong
    ones pass; see `paths`."""
    token_budget: Annotated[int, Field(ge=1)] | Literal["data"] | None = None
    """In the paper's language puts `Token Budget: N ` in front of prompts for one line, for models trained so; `data`:
    what each problem's `token_count` rounds up to."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.language != "paper" and (self.verifier != "strict" or self.token_budget is not None):
            raise ValueError('verifier and token_budget are for language = "paper"')
        return self

    def load(self) -> list[Sample]:
        if self.data is None:
            drawn = training if self.split == "train" else validation
            problems = drawn(self.numbers, self.count or 1000, self.seed)
            return [as_sample(f"{self.split}-{self.numbers}-{self.seed}-{i}", p) for i, p in enumerate(problems)]
        rows: Sequence[Row] = read_rows(self.data, paper.PaperRow if self.language == "paper" else BenchmarkRow)
        samples = [as_sample(row.id, row.problem) for row in rows[: self.count]]
        if self.token_budget == "data":
            for sample in samples:
                paper.budget_of(sample.data)
        return samples

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        problem: Problem = sample.data
        if self.language == "paper":
            budget = paper.budget_of(problem) if self.token_budget == "data" else self.token_budget
            return paper.fields(problem, method, budget)
        fields: dict[str, Any] = {
            "prompt": prompt(problem.nums, problem.target, MODES.get(method, "seq")),
            "logprobs": False,
        }
        if method == "apr":
            # Threads nest until leaves are left.
            return {**fields, "dialect": "compact", "depth": max(1, len(problem.nums) - LEAF)}
        if method == "tree_search":
            return {**fields, "delimiters": (";",), "answer": "equations", "reward": "prm:countdown_prm"}
        if method == "multiverse":
            # Its conclusions take 43 tokens; what is kept back for them is taken from the paths.
            return {**fields, "answer": "countdown", "reserve": 64}
        return {**fields, "answer": "countdown"}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        problem: Problem = sample.data
        if answer is None:
            return Verdict(correct=False, extracted=None, reason="no answer")
        if self.language == "paper":
            return self._grade_search(problem, answer, text)
        verdict = verify(problem.nums, problem.target, answer)
        return Verdict(correct=verdict.ok, extracted=answer, reason=verdict.reason)

    def _grade_search(self, problem: Problem, answer: str, text: str) -> Verdict:
        """APR answers with a path, other methods with its operations."""
        path = answer[: answer.rfind(GOAL) + len(GOAL)] if GOAL in answer else final_path(text)
        nums, target = problem.nums, problem.target
        if path is None:
            verdict = verify(nums, target, answer)
        elif self.verifier == "strict":
            verdict = paths.strict(nums, target, path)
        else:
            verdict = paths.apr(nums, target, path) if self.verifier == "apr" else paths.sosp(nums, target, text)
        return Verdict(correct=verdict.ok, extracted=paths.said(path or "") or answer, reason=verdict.reason)


def as_sample(id: str, problem: Problem) -> Sample:
    """The problem as the benchmark takes it."""
    return Sample(id=id, question=f"make {problem.target} from {' '.join(map(str, problem.nums))}", data=problem)
