"""`CodeMonkeys`: many trajectories fix an issue of a repository, and tests choose among them (arXiv 2501.14723)."""

from __future__ import annotations

from typing import Literal

from ..runtime.jobs.context import Context
from ..runtime.result import Outcome
from .fields import Fields
from .run import Run


class CodeMonkeys(Fields):
    """Fix an issue of a repository.

    Relevant files are found and ranked; trajectories each write a test script, then an edit that they revise by what
    running the test shows; all tests run on all edits; the best ones by these votes are told apart by further tests.
    The answer is a patch against `commit`, None if there is no candidate. Nothing in the repository is touched.

    `edits` and `context` are to fit the model: a small one cannot copy search blocks, but rewrites a function it sees.
    """

    method: Literal["code_monkeys"] = "code_monkeys"
    """The method's name."""

    async def run(self, ctx: Context) -> Outcome:
        return await Run(self, ctx).run()
