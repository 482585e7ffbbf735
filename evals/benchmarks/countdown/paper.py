"""Countdown in the language of the APR paper (arXiv 2504.15466): its files of problems, prompts and fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from ....runtime.errors import InvalidInput
from ....runtime.methods.apr.paper import PaperDialect, token_budget
from .problems import Problem, Row

_PROMPT = re.compile(
    r"(?:(?:Sub Call|Token) Budget: [0-9]+ )?(?:Moving to Node #0\n)?"
    r"Current State: ([0-9]{1,9}):\[([0-9]{1,9}(?:, [0-9]{1,9})*)\], Operations: \[\]\n?"
)

Number = Annotated[int, Field(ge=1, lt=10**9)]


@dataclass(frozen=True, slots=True)
class TracedProblem(Problem):
    """A problem whose file knows how long the solver's search was."""

    token_count: int


class PaperRow(Row):
    """An entry of the published `val.json`, where fields of solutions and searches are left alone, or of the published
    prompt lists (`*_val_prefix.json`), which are texts."""

    nums: list[Number] = Field(min_length=2)
    target: Number
    token_count: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _prompt(cls, data: object) -> object:
        if not isinstance(data, str):
            return data
        found = _PROMPT.fullmatch(data)
        if found is None:
            raise ValueError("no prompt of the paper's language")
        return {"target": int(found[1]), "nums": [int(number) for number in found[2].split(", ")]}

    @property
    def problem(self) -> Problem:
        if self.token_count is None:
            return Problem(tuple(self.nums), self.target)
        return TracedProblem(tuple(self.nums), self.target, self.token_count)


def budget_of(problem: Problem) -> int:
    """The token budget that the published models were trained to take the solver's search in. Raises `InvalidInput` if
    its length is not known."""
    if not isinstance(problem, TracedProblem):
        raise InvalidInput(
            'token_budget = "data" needs problems with a `token_count`, as the published val.json has them'
        )
    return token_budget(problem.token_count)


def fields(problem: Problem, method: str, budget: int | None) -> dict[str, Any]:
    """Fields of the method. Raises `InvalidInput` for one that the language has no words for."""
    dialect = PaperDialect()
    if method == "apr":
        prompt = dialect.root_prompt(problem.nums, problem.target)
        return {"prompt": prompt, "dialect": "paper", "depth": 1, "max_rounds": None, "logprobs": False}
    if method in ("multiverse", "tree_search"):
        raise InvalidInput(
            f"the paper's language has no form for {method!r}: use apr, or a method that searches in one line"
        )
    prompt = dialect.serial_prompt(problem.nums, problem.target, budget)
    return {"prompt": prompt, "answer": "path", "logprobs": False}
