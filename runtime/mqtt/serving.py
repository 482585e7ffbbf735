"""`Serving`: one job of a pool on its way to its answer, on the worker that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from typing import Any

from ..event_queue import EventQueue
from ..events import AnyEvent
from ..job_spec import parse_job
from ..jobs.job import Job
from ..runtime import Runtime
from .answers import pack_cancelled, pack_error, pack_result

EVENT_SECONDS = 0.05
"""What happens meanwhile goes in one message: each costs its sender, the broker and its receiver a wake-up."""

Tell = Callable[[list[dict[str, Any]]], "asyncio.Future[None] | None"]
"""Sends events; the future, if there is one, is done once the broker has them."""


class Serving:
    """Runs the job; tells its events only if somebody reads them, since streams are slower than jobs nobody watches."""

    def __init__(self, tell: Tell, *, is_watched: bool) -> None:
        self._tell = tell
        self._is_watched = is_watched
        self._job: Job | None = None
        self._telling: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Tell what happens from now on."""
        self._is_watched = True
        if self._job is not None and self._telling is None:
            self._telling = asyncio.create_task(_tell_all(aiter(self._job), self._tell))

    async def answer(self, runtime: Runtime, id: str, data: dict[str, Any]) -> bytes:
        """Raises what is wrong with the job; what it fails by later is its answer."""
        job = self._job = await runtime.submit(parse_job(data), id=id)
        if self._is_watched:
            self.watch()
        try:
            result = await job
            await self._told(None)
            return await asyncio.to_thread(pack_result, result)
        except asyncio.CancelledError as error:
            job.cancel()
            await job.wait()
            await self._told(1.0)
            return pack_cancelled(str(error) or "cancelled", job.trace)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise  # Nothing can be waited for any more, or is to be.
        except BaseException as error:  # a panic of a compiled library, too
            await self._told(1.0)
            return pack_error(error, job.trace)
        finally:
            if self._telling is not None:
                self._telling.cancel()
                await asyncio.gather(self._telling, return_exceptions=True)

    async def _told(self, seconds: float | None) -> None:
        """Wait until the events of the job, which has ended, are on their way."""
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=seconds)


async def _tell_all(events: AsyncIterator[AnyEvent], tell: Tell) -> None:
    """No faster than the broker takes them: what waits grows together meanwhile."""
    queue = EventQueue()
    reading = asyncio.create_task(_read(events, queue))
    try:
        async for event in queue:
            await asyncio.wait([reading], timeout=EVENT_SECONDS)
            found = [event]
            while (more := queue.get_nowait()) is not None:
                found.append(more)
            sent = tell([_data(event) for event in found])
            if sent is not None and not reading.done():
                await sent
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(events: AsyncIterator[AnyEvent], queue: EventQueue) -> None:
    try:
        async for event in events:
            queue.put(event)
    finally:
        queue.end()


def _data(event: AnyEvent) -> dict[str, Any]:
    """Without the job's name, which is the client's own there. Not by `to_json`: that goes into values of any depth."""
    return {"type": event.type} | {one.name: getattr(event, one.name) for one in fields(event) if one.name != "job"}
