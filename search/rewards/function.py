"""Rewards from Python functions: for every step, or only for whole trajectories (a verifier)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from ...runtime.engine import Engine
from ...runtime.jobs.context import Context
from ..functions import function
from ..node import Node
from .base import Reward, Scorer


class FunctionReward(Reward):
    """Calls `f(question: str, steps: list[str]) -> float`, plain or async, for every step; None or NaN: no score."""

    shorthand = "function"

    reward: Literal["function"] = "function"
    """The kind's name."""
    function: str
    """Its name; see `register_function`."""

    def check(self, engine: Engine) -> None:
        function(self.function)

    async def open(self, ctx: Context, question: str) -> Scorer:
        return FunctionScorer(function(self.function), question, one_by_one=True)


class Verifier(Reward):
    """Calls the function for finished trajectories only; steps on the way all score the same."""

    shorthand = "function"

    reward: Literal["verifier"] = "verifier"
    """The kind's name."""
    function: str
    """Its name; see `register_function`."""
    unfinished: float = Field(default=0.5)
    """Score of a step that is not the last."""

    def check(self, engine: Engine) -> None:
        function(self.function)

    async def open(self, ctx: Context, question: str) -> Scorer:
        return FunctionScorer(function(self.function), question, self.unfinished, one_by_one=True)


class FunctionScorer:
    """See `base.Scorer`."""

    def __init__(
        self,
        call: Callable[..., Any],
        question: str,
        unfinished: float | None = None,
        *,
        one_by_one: bool = False,
    ) -> None:
        """`unfinished`: the score of steps that are not the last; None: they are asked for like the others.
        `one_by_one`: see `base.Scorer`; scorers that inherit from this one may judge several at once."""
        self.one_by_one = one_by_one
        self._call = call
        self._question = question
        self._unfinished = unfinished
        self._calls = 0

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        return [await self._score(node) for node in nodes]

    async def _score(self, node: Node) -> float:
        if self._unfinished is not None and not node.is_complete:
            return self._unfinished
        self._calls += 1
        value: Any = self._call(self._question, [step.text for step in node.path])
        if inspect.isawaitable(value):
            value = await value
        given: float = math.nan if value is None else value  # the search sees to it that it is a number
        return given

    def release(self, nodes: Sequence[Node]) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def statistics(self) -> dict[str, float | int]:
        return {"calls": self._calls}
