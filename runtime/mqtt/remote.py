"""`RemoteRuntime`: `plait.Runtime("mqtt://host/pool")`; its jobs run on the workers of a pool."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ..budget import Budget
from ..engine import Engine, Tokenizer
from ..errors import InvalidInput, InvalidJob, JobFailed, PlaitError, UnsupportedByEngine, WorkerLost
from ..job_spec import JobSpec
from ..jobs.job import Job
from ..methods.base import Method
from ..passwords import without_password
from ..runtime import Runtime, check_id
from ..settled import settled
from ..trace.trace import writable
from .address import Address
from .client_actions import Action, Answered, Began, Happened, Lost, Send, Unreadable
from .client_state import Jobs
from .job_data import job_data
from .link import MIN_PACKET_BYTES, Link
from .messages import BEAT, MAX_EPOCH, REPORT, Malformed, Offer, decode, encode, is_id
from .options import MAX_PACKET_BYTES, check_seconds, check_whole
from .remote_job import RemoteJob

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2
MIN_LEASE = 3.0
"""Seconds: workers beat once in one, and a busy one is late."""
FLUSH_SECONDS = 2.0
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
        """`model`: the pool's address. `lease`: seconds without a sign of life after which a worker counts as dead, 3
        at least. `max_epochs`: how often a job is begun before it is given up. `packet_bytes`: the broker's largest
        message. Other options: `prefix`, `user`, `password`, `ca_file`, `cert_file`, `key_file`, as in
        `Address.parse`."""
        if engine is not None:
            raise InvalidInput("a pool's jobs run on its workers' engines: give no engine")
        check_seconds("lease", lease, MIN_LEASE)
        check_whole("max_epochs", max_epochs, 1, MAX_EPOCH)
        check_whole("packet_bytes", packet_bytes, MIN_PACKET_BYTES, MAX_PACKET_BYTES)
        try:
            self.address = Address.parse(str(model), **options)
        except TypeError as error:
            raise InvalidInput(f"options of {without_password(str(model))}: {error}") from None
        self.client = f"plait-client-{uuid.uuid4().hex[:16]}"
        self._packet_bytes = packet_bytes
        self._state = Jobs(self.client, lease=lease, max_epochs=max_epochs)
        self._remote: dict[str, RemoteJob] = {}
        """By what they are called in the pool, which is their id unless one was given."""
        self._ids: set[str] = set()
        """Of all of them."""
        self._numbers = count(1)
        self._ticker: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._refusal: PlaitError | None = None

    @property
    def engine(self) -> Engine:
        raise UnsupportedByEngine("the engines of a pool are its workers'; here is none")

    @property
    def tokenizer(self) -> Tokenizer | None:
        return None

    def check(self, method: Method) -> None:
        """What a worker's engine has against it is raised by `await job`."""

    @property
    def jobs(self) -> list[Job]:
        return list(self._remote.values())

    @property
    def workers(self) -> list[str]:
        """Workers of the pool that are alive."""
        return sorted(self._state.workers)

    async def _open(self) -> None:
        """Raises `BrokerUnreachable`."""
        self._state.workers.clear()  # Of an earlier time.
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
            packet_bytes=self._packet_bytes,
            refused=self._refused,
            given_up=self._given_up,
        )
        await self._link.__aenter__()
        try:
            await self._introduce(self._link)
        except BaseException:
            await self._link.__aexit__(None, None, None)
            raise
        self._ticker = asyncio.create_task(self._tick(self._link))
        self._state.is_closing = False

    async def _introduce(self, link: Link) -> None:
        """Brokers let anybody read a pool that they do not know, and there are no workers to be heard of: whether this
        client may write there shows when it does. Nobody has jobs of it yet, so workers have nothing to end."""
        self._refusal = None
        link.post(self.address.topic("clients", self.client), b"")
        await link.flush(FLUSH_SECONDS)
        if self._refusal is not None:
            raise self._refusal

    async def _close(self) -> None:
        self._state.is_closing = True
        assert self._link is not None and self._ticker is not None
        try:
            await self._cancel_all()
        finally:
            self._ticker.cancel()
            # Workers that have queued a job and were not told end it now.
            self._post(self.address.topic("clients", self.client), b"")
            try:
                await self._link.flush(FLUSH_SECONDS)
            finally:
                try:
                    await settled([self._ticker])
                finally:
                    await self._link.__aexit__(None, None, None)

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
        await asyncio.sleep(0)  # Who submits thousands in a row must hear of the workers meanwhile.
        self._check_open()
        assert self._link is not None
        spec = JobSpec.of(job, budget=budget, seed=seed, priority=priority, metadata=metadata)
        name = self._new_id(self._ids)
        check_id(id)
        if id in self._ids:
            raise InvalidJob(f"a job {id!r} is running")
        data = job_data(spec)
        size = len(encode(Offer(epoch=1, job=data)))
        if size > self._link.packet_bytes - 1024:
            raise _too_large(size, self._link.packet_bytes)
        file = writable(trace_file)
        started = RemoteJob(
            id or name, spec, file, partial(self._cancel, name), partial(self._watch, name), self._state.lease
        )
        self._remote[name] = started
        self._ids.add(started.id)
        started.on_end(lambda: self._ended(name))
        self._do(self._state.submit(name, data, spec.priority, time.monotonic()))
        return started

    def _cancel(self, name: str, reason: str) -> bool:
        """Is there an answer to wait for?"""
        self._withdraw(name)
        self._do(self._state.cancel(name, reason, time.monotonic()))
        return name in self._state

    def _refused(self, topic: str, error: PlaitError) -> None:
        """The broker takes less than when the job was submitted, or does not let this client write there."""
        match self.address.levels(topic):
            case ["clients", self.client]:
                self._refusal = error
            case [*_, name] if (job := self._remote.get(name)) is not None:
                self._withdraw(name)
                job.failed(error)

    def _given_up(self, error: BaseException) -> None:
        """Nothing will be heard of the jobs."""
        self._is_open = False
        for job in self._remote.values():
            job.failed(error if isinstance(error, PlaitError) else JobFailed(f"the connection has failed: {error!r}"))

    def _withdraw(self, name: str) -> None:
        assert self._link is not None
        self._link.withdraw(f"/{self.client}/{name}")

    def _watch(self, name: str) -> None:
        self._do(self._state.watch(name))

    def _ended(self, name: str) -> None:
        self._ids.remove(self._remote.pop(name).id)
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
            match self.address.levels(topic):
                case ["reports", self.client, job]:
                    self._state.unreadable(job)

    async def _tick(self, link: Link) -> None:
        alone, is_told = 0.0, False
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if link.is_connected:
                self._do(self._state.tick(time.monotonic()))
                before, alone = alone, alone + TICK_SECONDS if self._remote and not self._state.workers else 0.0
                if before <= self._state.lease < alone:
                    text = "jobs wait: no worker is heard of in %s; if there is one: may this client read %s?"
                    logger.warning(text, self.address, self.address.topic("workers", "+"))
                if not is_told and self._state.is_ignored(time.monotonic()):
                    is_told = True
                    logger.warning("jobs wait: %s", self._ignored())

    def _ignored(self) -> str:
        """What the reason may be: who may not read something is not told so by every broker."""
        jobs, orders, reports = (self.address.topic(kind, "#") for kind in ("jobs", "orders", "reports"))
        own = self.address.topic("reports", self.client, "+")
        return (
            f"workers of {self.address} are heard of, but do not answer: may this client read {own}, and may they read "
            f"{jobs} and {orders} and write {reports}?"
        )

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
                    job.failed(WorkerLost(f"job {job.id}: begun {epochs} times, and each time its worker ended"))
                case Unreadable():
                    job.failed(JobFailed(f"job {job.id}: what its worker reports cannot be read; the log says why"))
                case Began(_, epoch):
                    job.began(epoch)

    def _post(self, topic: str, payload: bytes) -> None:
        assert self._link is not None
        self._link.post(topic, payload)


def _too_large(size: int, limit: int) -> InvalidJob:
    return InvalidJob(f"a job of {size:,} bytes; packet_bytes, what the broker takes, is {limit:,}")
