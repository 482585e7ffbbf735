"""`repairs` as a benchmark: issues of five small repositories; right is a patch with which all tests pass."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ....agents.fields import Fields
from ....agents.sandbox.base import Sandbox
from ....runtime.errors import InvalidInput
from ....runtime.methods.base import Method
from ...benchmark import Benchmark, Sample, Verdict
from ...extras import Extra
from ...sandboxes import SandboxField
from ...trajectories import figures
from ...trajectories.replay import Trajectories, run_tests
from .grading import grade
from .problems import Problem, default_cache, read_problems


class Repairs(Benchmark):
    """Fix an issue of a repository. For the method `code_monkeys`."""

    name: Literal["repairs"] = "repairs"
    """What configurations call it."""
    cache: Path | None = None
    """Folder in which the repositories are made; None: one in the user's cache."""
    sandbox: SandboxField
    """What tests run in, both the method's and those that grade: a name (`bubblewrap`, `local`), or a table."""
    seconds: float = Field(default=30.0, gt=0)
    """Wall clock of one run of tests at most."""

    def load(self) -> list[Sample]:
        if self.data is not None:
            raise InvalidInput("the benchmark repairs has its own problems: leave out data")
        return [
            Sample(id=problem.name, question=problem.issue, reference=problem.gold, data=problem)
            for problem in read_problems()[: self.count]
        ]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        if method != "code_monkeys":
            raise InvalidInput(f"the benchmark repairs is for the method code_monkeys, not for {method}")
        problem: Problem = sample.data
        repository = problem.repository(self._cache)
        return {
            "repository": str(repository.path),
            "commit": repository.commit,
            "issue": problem.issue,
            "project": problem.project,
            "sandbox": self._checked.model_dump(mode="json"),
            "seconds": self.seconds,
        }

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        return asyncio.run(self._verdict(sample, answer))

    async def _verdict(self, sample: Sample, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict(correct=False, extracted=None, reason="no patch")
        problem: Problem = sample.data
        repository = await asyncio.to_thread(problem.repository, self._cache)
        reason = await grade(problem, repository, answer, self.sandbox, self.seconds)
        return Verdict(correct=reason == "correct", extracted=answer.strip() or None, reason=reason)

    async def judge(
        self, sample: Sample, method: Method, answer: str | None, text: str, details: Mapping[str, Any]
    ) -> Verdict:
        """With what the choice is measured against: the best candidate, one trajectory, what most agree on without
        tests, and both curves over fewer model calls."""
        verdict = await self._verdict(sample, answer)
        if not isinstance(method, Fields):
            return verdict
        trajectories = Trajectories.of(details)
        candidates = {str(one["patch"]) for one in details.get("candidates", ())}
        resolved = {} if answer is None else {answer: verdict.correct}
        for patch in sorted(candidates | trajectories.all_patches):
            if patch not in resolved:
                resolved[patch] = (await self._verdict(sample, patch)).correct
        results = await run_tests(trajectories, method, method.executions)
        extra = Extra(
            numbers=figures.shares(trajectories, candidates, resolved),
            parts=figures.costs(details),
            curves=figures.curves(trajectories, resolved, results, method.vote),
            limit=figures.LIMIT,
        )
        return replace(verdict, extra=extra)

    @cached_property
    def _checked(self) -> Sandbox:
        """The sandbox, which works here: what is wrong with it is said before any job, and once."""
        self.sandbox.check()
        return self.sandbox

    @property
    def _cache(self) -> Path:
        return self.cache or default_cache()
