"""`Work`: one job of a client, from the moment it was asked for, with the events it gave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

from ..events import AnyEvent
from ..job_spec import JobSpec
from ..jobs.job import Job
from ..result import Result
from .keys import Client
from .problems import as_refusal
from .threads import Threads

AT_A_TIME = 32
"""Events that are read in one turn of the event loop: thousands of a job that has ended must not hold it up."""
State = Literal["queued", "running", "done", "failed", "cancelled"]


class Work:
    """What is kept of a job. Events are numbered from 1."""

    def __init__(self, id: str, client: Client, spec: JobSpec) -> None:
        self.id = id
        self.client = client
        self.spec = spec
        self.created = time.time()
        self.ended: float | None = None
        self.ended_at = 0.0
        """The same by a clock that nobody sets."""
        self.state: State = "queued"
        self.job: Job | None = None
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.events: list[AnyEvent] = []
        self.threads = Threads()
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask it to end; False: it has ended already."""
        if self.job is not None:
            return self.job.cancel(reason)  # What it says last is still read.
        return not self.is_over and self.task is not None and self.task.cancel(reason)

    def add(self, event: AnyEvent) -> None:
        self.events.append(event)
        self.threads.add(event)
        self.tell()

    def end(self, state: State, error: BaseException | None = None) -> None:
        self.state, self.error, self.ended, self.ended_at = state, error, time.time(), time.monotonic()
        self.tell()

    def tell(self) -> None:
        """Wake all readers."""
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self) -> None:
        """Until it has ended, however; cancelling the wait ends nothing."""
        while not self.is_over:
            await self._news.wait()

    async def follow(self, after: int = 0, pulse: float | None = None) -> AsyncIterator[list[tuple[int, AnyEvent]]]:
        """Numbered events behind number `after`, until the last one, some at a time; none after every `pulse` seconds
        without one."""
        number = max(after, 0)
        while True:
            while some := self.events[number : number + AT_A_TIME]:
                yield list(enumerate(some, number + 1))
                number += len(some)
                await asyncio.sleep(0)  # Others get their turn, and whoever reads may have gone.
            if self.is_over:
                return
            news, got = self._news, False
            with suppress(TimeoutError):
                async with asyncio.timeout(pulse):
                    got = await news.wait()
            if not got:
                yield []

    def summary(self) -> dict[str, Any]:
        """Its state as JSON."""
        usage = self.result.usage.to_json() if self.result else None
        return {
            "id": self.id,
            "object": "job",
            "state": self.state,
            "created": self.created,
            "ended": self.ended,
            "method": self.spec.method.method,
            "seed": self.spec.seed,
            "events": len(self.events),
            "error": None if self.error is None else (str(as_refusal(self.error)) or type(self.error).__name__),
            "usage": usage,
        }
