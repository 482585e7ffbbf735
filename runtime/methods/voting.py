"""`Voting`: fields of methods in which several answers vote."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from ..equality.process import ABANDONED, MathUnavailable, is_installed
from ..equality.registry import AUTO, Equality, check_equality, labels
from .sequential import Answering

MAX_SAMPLES = 1_000_000
"""Each is a branch, a record in the trace and an event at least: more would fill the memory before the first ends."""

EqualityName = Annotated[str, AfterValidator(check_equality)]
"""See `equality.registry`."""

T = TypeVar("T")


class Voting(Answering):
    """Answers that are equal vote for one."""

    equal: EqualityName = AUTO
    """Which answers are equal: `text`, `numbers`, `math` (by math-verify) or a registered name. `auto`: `math` for the
    answer rule `boxed`, or `numbers` where math-verify is not installed, and `text` for other rules."""

    async def settle(self, answers: Sequence[str | None], count: Callable[[Equality], T]) -> tuple[T, dict[str, str]]:
        """What `count` makes of the method's equality of these answers, and notes for the outcome's details. Other
        jobs of the event loop go on meanwhile."""
        if self._rule()[0] == "text":
            return self.settle_now(answers, count)
        abandoned = threading.Event()

        def work() -> tuple[T, dict[str, str]]:
            ABANDONED.set(abandoned)
            return self.settle_now(answers, count)

        try:
            return await asyncio.to_thread(work)
        finally:  # Of a job that is cancelled the thread is still at it.
            abandoned.set()

    def settle_now(self, answers: Sequence[str | None], count: Callable[[Equality], T]) -> tuple[T, dict[str, str]]:
        """As `settle`; blocks."""
        given = [answer for answer in answers if answer is not None]
        name, note = self._rule()
        try:
            found = labels(name, given)
        except MathUnavailable as error:
            if self.equal != AUTO:
                raise
            found, note = labels("numbers", given), f"numbers: {error}"
        return count(lambda asked: [found[answer] for answer in asked]), {"equal": note} if note else {}

    def _rule(self) -> tuple[str, str | None]:
        """The equality's name, and what there is to say of it."""
        if self.equal != AUTO:
            return self.equal, None
        if self.answer != "boxed":
            return "text", None
        if is_installed():
            return "math", None
        return "numbers", "numbers: math-verify is not installed (pip install 'plait[evals]')"
