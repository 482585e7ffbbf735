"""`RemoteRuntime`: `plait.Runtime("mqtt://host/pool")`; its jobs run on the workers of a pool."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..budget import Budget
from ..engine import Engine
from ..errors import EngineClosed, InvalidInput, InvalidJob, JobFailed, PlaitError, UnsupportedByEngine, WorkerLost
from ..events import Done, Event, EventHub, Failed, parse_event
from ..job_spec import JobSpec
from ..jobs.job import Job
from ..methods.base import Method
from ..result import Finish, Result
from ..runtime import Runtime
from ..trace.trace import Trace
from .address import Address
from .answers import read_error, read_result, unpack
from .client_state import Action, Answered, Began, Happened, Jobs, Lost, Send
from .link import Link
from .messages import BEAT, REPORT, Malformed, Offer, decode, encode, is_id

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2
SESSION_SECONDS = 300
"""How long the broker keeps what it has for a client that is away."""


class RemoteRuntime(Runtime):
    """Jobs of one client of a pool; with the operations of `Runtime`, but without an engine."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        engine: Engine | None = None,
        lease: float = 10.0,
        max_epochs: int = 10,
        packet_bytes: int = 1 << 20,
        **options: Any,
    ) -> None:
        """`model`: the pool's address. `lease`: seconds without a sign of life after which a worker counts as dead.
        `max_epochs`: how often a job is begun before it is given up. `packet_bytes`: the broker's largest message.
        Other options: `prefix`, `user`, `password`, `ca_file`, `cert_file`, `key_file`, as in `Address.parse`."""
        if engine is not None:
            raise InvalidInput("a pool's jobs run on its workers' engines: give no engine")
        if not (lease > 0 and max_epochs > 0 and packet_bytes >= 4096):
            raise InvalidInput("lease and max_epochs are positive, packet_bytes at least 4096")
        try:
            self.address = Address.parse(str(model), **options)
        except TypeError as error:
            raise InvalidInput(f"options of {model}: {error}") from None
        self.client = f"plait-client-{uuid.uuid4().hex[:16]}"
        self._packet_bytes = packet_bytes
        self._state = Jobs(self.client, lease=lease, max_epochs=max_epochs)
        self._remote: dict[str, RemoteJob] = {}
        self._numbers = count(1)
        self._is_open = False
        self._ticker: asyncio.Task[None] | None = None
        self._link: Link | None = None

    @property
    def engine(self) -> Engine:
        raise UnsupportedByEngine("the engines of a pool are its workers'; here is none")

    @property
    def jobs(self) -> list[Job]:
        return list(self._remote.values())

    @property
    def workers(self) -> list[str]:
        """Workers of the pool that are alive."""
        return sorted(self._state.workers)

    async def __aenter__(self) -> Self:
        """Raises `BrokerUnreachable`."""
        topic = self.address.topic
        self._link = Link(
            self.address,
            self.client,
            subscriptions=[topic("reports", self.client, "+"), topic("workers", "+")],
            will=(topic("clients", self.client), False),
            session_seconds=SESSION_SECONDS,
            will_delay=min(30, SESSION_SECONDS),
            receive=self._receive,
            connected=lambda: self._state.connected(time.monotonic()),
        )
        await self._link.__aenter__()
        self._ticker = asyncio.create_task(self._tick(self._link))
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        assert self._link is not None and self._ticker is not None
        try:
            for job in self.jobs:
                job.cancel("the runtime is closing")
            while self._remote:
                await asyncio.gather(*(job.wait() for job in self.jobs))
            await self._link.flush(2.0)
        finally:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            await self._link.__aexit__(kind, error, traceback)

    async def submit(
        self,
        job: Method | JobSpec,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        priority: int = 0,
        metadata: dict[str, Any] | None = None,
        id: str | None = None,
        trace_file: str | Path | None = None,
    ) -> Job:
        """As `Runtime.submit`; what a worker's engine has against the job is raised by `await job`."""
        if not self._is_open:
            raise EngineClosed("the runtime is not open: use `async with plait.Runtime(...) as rt`")
        spec = JobSpec.of(job, budget=budget, seed=seed, priority=priority, metadata=metadata)
        name = id or f"job-{next(self._numbers)}"
        if not is_id(name):
            raise InvalidJob(f"job id {name!r}: letters, digits and . _ - only, 64 at most (it is part of a topic)")
        if name in self._remote or name in self._state:
            raise InvalidJob(f"a job {name!r} is running")
        data = spec.model_dump(mode="json")
        data["budget"] = spec.budget.model_dump(exclude_none=True)
        size = len(encode(Offer(epoch=1, job=data)))
        if size > self._packet_bytes - 1024:
            raise InvalidJob(f"a job of {size:,} bytes; packet_bytes, what the broker takes, is {self._packet_bytes:,}")
        started = RemoteJob(self, name, spec, Path(trace_file) if trace_file else None)
        self._remote[name] = started
        started.on_end(lambda: self._ended(name))
        self._do(self._state.submit(name, data, spec.priority, time.monotonic()))
        return started

    def _cancel(self, name: str, reason: str) -> bool:
        """Is there an answer to wait for?"""
        self._do(self._state.cancel(name, reason, time.monotonic()))
        return name in self._state

    def _ended(self, name: str) -> None:
        self._remote.pop(name, None)
        self._do(self._state.forget(name, time.monotonic()))

    def _receive(self, topic: str, payload: bytes) -> None:
        now = time.monotonic()
        try:
            match self.address.levels(topic):
                case ["workers", worker] if is_id(worker):
                    if payload:
                        self._do(self._state.beat(worker, decode(BEAT, payload), now))
                    else:
                        self._do(self._state.gone(worker, now))
                case ["reports", self.client, job] if is_id(job):
                    self._do(self._state.report(job, decode(REPORT, payload), now))
                case _:
                    raise Malformed("malformed topic")
        except Malformed as error:
            logger.warning("dropped a message on %r: %s", topic[:200], error)

    async def _tick(self, link: Link) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if link.is_connected:
                self._do(self._state.tick(time.monotonic()))

    def _do(self, actions: Iterable[Action]) -> None:
        for action in list(actions):
            job = self._remote.get(action.job)
            match action:
                case Send(name, message, None):
                    self._post(self.address.topic("jobs", self.client, name), encode(message))
                case Send(name, message, worker):
                    self._post(self.address.topic("orders", str(worker), self.client, name), encode(message))
                case _ if job is None:
                    pass
                case Happened(_, event):
                    job.happened(event)
                case Answered(_, data):
                    job.answered(data)
                case Lost(_, epochs):
                    job.lost(epochs)
                case Began(_, epoch):
                    job.epoch = epoch

    def _post(self, topic: str, payload: bytes) -> None:
        assert self._link is not None
        self._link.post(topic, payload)


class RemoteJob(Job):
    """A job of a pool, with the operations of `Job`.

    When a worker dies the job begins anew on another one: readers then see a second `Started`, and what they saw before
    does not count.
    """

    def __init__(self, runtime: RemoteRuntime, id: str, spec: JobSpec, trace_file: Path | None) -> None:
        self.id = id
        self.spec = spec
        self.trace = Trace({"method": spec.method.model_dump(mode="json"), "seed": spec.seed})
        """The worker's; only a header until the job has been answered."""
        self.epoch = 0
        """How often the job has begun."""
        self._runtime = runtime
        self._hub = EventHub()
        self._trace_file = trace_file
        self._last: Event | None = None
        self._data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"plait remote job {id}")
        self._task.add_done_callback(self._ended)

    def happened(self, data: dict[str, Any]) -> None:
        try:
            event = parse_event(data)
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

    def lost(self, epochs: int) -> None:
        if not self._data.done():
            self._data.set_exception(WorkerLost(f"job {self.id}: begun {epochs} times, and each time its worker ended"))

    async def _run(self) -> Result:
        error: BaseException | None = None
        try:
            try:
                data = await asyncio.shield(self._data)
            except asyncio.CancelledError as cancelled:
                error = cancelled
                await self._stop(str(cancelled) or "cancelled")
                raise
            return await self._read(data)
        except BaseException as raised:
            error = error or raised
            raise
        finally:
            if self._data.done() and not self._data.cancelled():
                self._data.exception()  # Retrieved.
            self._finish(error)

    async def _read(self, data: bytes) -> Result:
        head, trace = await asyncio.to_thread(unpack, data)
        if trace is not None:
            self.trace = trace
        if "cancelled" in head:
            raise JobFailed(f"the worker cancelled it: {head['cancelled']}")
        if "result" not in head or trace is None:
            raise read_error(head)
        return read_result(head, trace)

    async def _stop(self, reason: str) -> None:
        """Have the worker cancel the job, and take its trace; not for ever if it is not heard of."""
        if not self._runtime._cancel(self.id, reason):
            return
        try:
            data = await asyncio.wait_for(asyncio.shield(self._data), self._runtime._state.lease)
            _, trace = await asyncio.to_thread(unpack, data)
            self.trace = trace or self.trace
        except (TimeoutError, PlaitError) as error:
            logger.warning("job %s: cancelled, but its worker did not confirm that: %s", self.id, error)

    def _finish(self, error: BaseException | None) -> None:
        seconds = 0.0 if self._last is None else self._last.time
        if isinstance(error, asyncio.CancelledError):
            last: Event = Failed(job=self.id, time=seconds, error=str(error) or "cancelled", cancelled=True)
            self.trace.end = self.trace.end or {"finish": Finish.CANCELLED.value, "answer": None}
        elif error is not None:
            text = f"{type(error).__name__}: {error}"
            last = Failed(job=self.id, time=seconds, error=text, cancelled=False)
            self.trace.end = self.trace.end or {"finish": Finish.FAILED.value, "answer": None, "error": text}
        else:
            last = self._last or self._conclusion()
        try:
            if self._trace_file is not None:
                self.trace.save(self._trace_file)
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
