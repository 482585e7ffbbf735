"""A policy that follows a script of steps, and rewards to go with it."""

from __future__ import annotations

import asyncio
from collections import Counter

from plait import ScriptedEngine

DELIMITER = ";"


def pass_time(seconds):
    """Let the event loop's clock jump ahead: what happens before a deadline does not depend on the machine's speed."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds


async def forever(*_):
    """Takes longer than any deadline of the tests."""
    pass_time(10_000)
    await asyncio.Event().wait()


class Steps(ScriptedEngine):
    """Writes, behind a context, the next of `children[context]` in turn; contexts not listed end at once.

    A continuation without the delimiter at its end is a last step.
    """

    def __init__(self, children, **options) -> None:
        self.asked: Counter[str] = Counter()
        self.children = children
        super().__init__(self._next, **options)

    def _next(self, context: str) -> str:
        texts = self.children.get(context, [""])
        self.asked[context] += 1
        return texts[(self.asked[context] - 1) % len(texts)]


def by_value(values, default=0.5):
    """A reward function: the value of the first key that the last step begins with."""

    def reward(prompt, steps):
        return next((value for key, value in values.items() if steps[-1].startswith(key)), default)

    return reward
