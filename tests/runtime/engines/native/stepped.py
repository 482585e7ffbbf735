"""An engine whose passes a test runs itself, one at a time, so that it can look at what happens between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from plait import SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.mailbox import Mailbox
from plait.runtime.engines.native.step import Step
from plait.tests.runtime.engines.native.test_pressure import engine


class _NoWait(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        return True


class Stepped:
    """Without a thread: `step` is one pass, or burst, here and now."""

    def __init__(self, native: NativeEngine | None = None, **options: Any) -> None:
        """`options`: of an engine without bursts."""
        if native is None:
            native = engine(**options)
            native.scheduler.max_steps = 1
        self.native = native
        self.native._mailbox = Mailbox(asyncio.get_running_loop())
        self.native._work = _NoWait(self.native.lock)
        self.scheduler = self.native.scheduler
        self.pressure = self.scheduler.pressure
        # What steps take is for tests to say, not for the machine's load.
        self.scheduler.note = lambda *_: None  # type: ignore[method-assign]
        self.steps: list[Step] = []
        """All that computed something."""
        plan = self.scheduler.plan

        def noted() -> Any:
            step, deliveries = plan()
            if step.chunks:
                self.steps.append(step)
            return step, deliveries

        self.scheduler.plan = noted  # type: ignore[method-assign]

    def generate(self, tokens: list[int], *, max_tokens: int = 100, job: str = "a", **where: Any) -> Any:
        return self.native.open(tokens, job=job, **where).generate(
            SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        )

    def step(self, count: int = 1) -> list[dict[str, int]]:
        """Rows of each job, pass by pass."""
        first = len(self.steps)
        for _ in range(count):
            self.native._step()
        return [dict(step.jobs) for step in self.steps[first:]]

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            self.native._step()
        raise AssertionError("it never comes to that")

    async def close(self) -> None:
        await self.native.close()
        self.native.store.check_integrity()
        assert self.native.block_usage().used == 0
