"""`RemoteJob`: a job that runs on a worker of a pool."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, JobFailed, PlaitError, told
from ..event_queue import EventHub
from ..events import AnyEvent, Done, Failed, parse_event
from ..job_spec import JobSpec
from ..jobs.job import Job
from ..result import Finish, Result
from ..settled import unhurried
from ..trace.trace import Trace
from .answers import read_error, read_result, unpack

logger = logging.getLogger(__name__)


class RemoteJob(Job):
    """A job of a pool, with the operations of `Job`.

    When a worker dies the job begins anew on another one: readers then see a second `Started`, and what they saw before
    does not count.
    """

    def __init__(
        self,
        id: str,
        spec: JobSpec,
        trace_file: Path | None,
        cancel: Callable[[str], bool],
        watch: Callable[[], None],
        patience: float,
    ) -> None:
        """`cancel(reason)` tells the worker, and whether it will answer; that is waited for `patience` seconds.
        `watch()` asks for the events."""
        self.id = id
        self.spec = spec
        self.trace = Trace({"method": spec.method.model_dump(mode="json"), "seed": spec.seed})
        """The worker's; only a header until the job has been answered."""
        self.epoch = 0
        """How often the job has begun."""
        self._began: float | None = None
        self._cancel = cancel
        self._watch = watch
        self._patience = patience
        self._hub = EventHub()
        self._trace_file = trace_file
        self._last: AnyEvent | None = None
        self._data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"plait remote job {id}")
        self._task.add_done_callback(self._ended)

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        events = super().__aiter__()
        self._watch()
        return events

    def began(self, epoch: int) -> None:
        self.epoch, self._began = epoch, time.time()

    def happened(self, data: dict[str, Any]) -> None:
        try:
            event = parse_event({**data, "job": self.id})
        except InvalidInput as error:
            logger.warning("job %s: dropped an event: %s", self.id, error)
            return
        if isinstance(event, (Done, Failed)):
            self._last = event  # Told when the answer is there.
        else:
            self._hub.emit(event)

    def answered(self, data: bytes) -> None:
        if not self._data.done():
            self._data.set_result(data)

    def failed(self, error: PlaitError) -> None:
        if not self._data.done():
            self._data.set_exception(error)

    async def _run(self) -> Result:
        error: BaseException | None = None
        try:
            try:
                data = await asyncio.shield(self._data)
            except asyncio.CancelledError as cancelled:
                error = cancelled
                # Cancelled again, as all jobs are on leaving the runtime, it still waits for its worker.
                with suppress(asyncio.CancelledError):
                    await unhurried(self._stop(str(cancelled) or "cancelled"))
                raise
            return await unhurried(self._read(data))
        except BaseException as raised:
            error = error or raised
            raise
        finally:
            if self._data.done() and not self._data.cancelled():
                self._data.exception()  # Retrieved.
            self._finish(error)

    async def _read(self, data: bytes) -> Result:
        head, trace = await asyncio.to_thread(unpack, data)
        self._take(trace)
        if "cancelled" in head:
            raise JobFailed(f"the worker cancelled it: {head['cancelled']}")
        if "result" not in head or trace is None:
            raise read_error(head)
        return read_result(head, trace)

    def _take(self, trace: Trace | None) -> None:
        """The worker's, which knows the job by another name."""
        if trace is not None:
            if isinstance(settings := trace.header.get("settings"), dict):
                settings["job"] = self.id
            trace.began = self._began
            self.trace = trace

    async def _stop(self, reason: str) -> None:
        """Have the worker cancel the job, and take its trace; not for ever if it is not heard of."""
        if not self._cancel(reason) and not self._data.done():
            return
        try:
            async with asyncio.timeout(self._patience):
                data = await asyncio.shield(self._data)
            _, trace = await asyncio.to_thread(unpack, data)
            self._take(trace)
        except (TimeoutError, PlaitError) as error:
            logger.warning("job %s: cancelled, but its worker did not confirm that: %s", self.id, error)

    def _finish(self, error: BaseException | None) -> None:
        seconds = 0.0 if self._last is None else self._last.time
        if isinstance(error, asyncio.CancelledError):
            last: AnyEvent = Failed(job=self.id, time=seconds, error=str(error) or "cancelled", cancelled=True)
            self.trace.end = self.trace.end or {"finish": Finish.CANCELLED.value, "answer": None}
        elif error is not None:
            text = told(error)
            last = Failed(job=self.id, time=seconds, error=text, cancelled=False)
            self.trace.end = self.trace.end or {"finish": Finish.FAILED.value, "answer": None, "error": text}
        else:
            last = self._last or self._conclusion()
        try:
            if self._trace_file is not None:
                self.trace.save_or_warn(self._trace_file)
        finally:
            self._hub.end(last)

    def _conclusion(self) -> Done:
        end = self.trace.end or {}
        usage = end.get("usage", {})
        return Done(
            job=self.id,
            time=usage.get("seconds", 0.0),
            answer=end.get("answer"),
            reason=end.get("finish", ""),
            total_tokens=usage.get("total_tokens", 0),
            critical_tokens=usage.get("critical_tokens", 0),
        )
