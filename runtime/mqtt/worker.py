"""`Worker`: runs the jobs of a pool on one runtime."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from ..engine import Tokenizer
from ..errors import BrokerUnreachable, InvalidInput, JobFailed, PlaitError, told
from ..job_spec import parse_job
from ..methods.base import Decoding, blaming_method
from ..methods.prompt import LONG_PROMPT
from ..plain import whole
from ..runtime import Runtime
from ..settled import settled
from ..trace.trace import Trace
from .address import Address
from .answers import pack_cancelled, pack_error
from .link import MAX_WAIT, MIN_PACKET_BYTES, Link
from .messages import MAX_CAPACITY, MAX_MODEL, OFFER, ORDER, Malformed, decode, encode, is_id
from .options import MAX_PACKET_BYTES, check_seconds, check_whole
from .serving import Serving
from .worker_actions import Action, Begin, Check, End, Key, Reply, Show, Withdraw
from .worker_state import Desk

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2
SHARE = "$share/workers/"


class Worker:
    """Takes jobs from a pool until it is told to stop."""

    def __init__(
        self,
        runtime: Runtime,
        address: Address,
        *,
        capacity: int = 4,
        beat_seconds: float = 1.0,
        packet_bytes: int = 1 << 20,
        grace: float = 30.0,
        wait: float = 0.0,
        name: str | None = None,
    ) -> None:
        """`capacity`: jobs that run at once. `packet_bytes`: the broker's largest message. `grace`: seconds that
        running jobs have to end when the worker stops; then others get them. `wait`: seconds at the start for a broker
        that is not there yet."""
        self.name = name or f"plait-worker-{uuid.uuid4().hex[:16]}"
        if not isinstance(self.name, str) or not is_id(self.name):
            raise InvalidInput(f"name {self.name!r}: letters, digits and . _ - only, 64 at most")
        check_whole("capacity", capacity, 1, MAX_CAPACITY)
        check_whole("packet_bytes", packet_bytes, MIN_PACKET_BYTES, MAX_PACKET_BYTES)
        for option, seconds, least in (("beat_seconds", beat_seconds, 0.01), ("grace", grace, 0), ("wait", wait, 0)):
            check_seconds(option, seconds, least)
        self.address = address
        self._runtime = runtime
        self._beat_seconds = beat_seconds
        self._grace = grace
        self._packet_bytes = packet_bytes
        self._wait_at_start = wait
        self._desk = Desk(
            self.name,
            capacity=capacity,
            model=whole(runtime.engine.name)[:MAX_MODEL],
            refusal=self._refusal,
            is_long=_is_long,
        )
        self._checks: dict[tuple[Key, int], asyncio.Task[None]] = {}
        self._checking = asyncio.Lock()
        """One at a time, so that a job that has begun does not wait for all that are to be checked."""
        self._long_calls = ThreadPoolExecutor(1, "plait worker")
        self._tasks: dict[tuple[Key, int], asyncio.Task[None]] = {}
        self._serving: dict[tuple[Key, int], Serving] = {}
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._link: Link | None = None
        self._beaten = float("-inf")

    def stop(self) -> None:
        """Hand back what is queued, end what runs, and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`. Raises `BrokerUnreachable` if there is no broker at the start, it refuses, or another worker
        of this name connects."""
        topic = self.address.topic
        jobs = SHARE + topic("jobs", "+", "+")
        link = self._link = Link(
            self.address,
            self.name,
            subscriptions=[jobs, topic("orders", self.name, "+", "+"), topic("clients", "+")],
            will=(topic("workers", self.name), True),
            # Short: the broker would go on to give a dead worker's session its share of the offers.
            session_seconds=5,
            will_delay=1,
            receive=self._receive,
            connected=self._connected,
            packet_bytes=self._packet_bytes,
            refused=self._refused,
            given_up=self._fail,
            receive_maximum=2 * self._desk.capacity + 20,
        )
        async with AsyncExitStack() as stack:
            if not await self._connect(link, stack):
                return
            ticker = asyncio.create_task(self._tick())
            try:
                logger.info("worker %s takes jobs of %s", self.name, self.address)
                await self._stopping.wait()
                if self._failure is not None:
                    raise self._failure
                await link.unsubscribe(jobs)
                self._do(self._desk.stop())
                self._beat()
                await self._wait(lambda: self._desk.running, self._grace)
                self._do(self._desk.abandon())
                await self._wait(lambda: self._desk.unanswered, min(self._grace, 5.0))
            finally:
                tasks = [*self._checks.values(), *self._tasks.values()]
                # However it ends: what is granted from now on must not begin.
                self._do(self._desk.stop())
                self._do(self._desk.abandon())
                ticker.cancel()
                for task in tasks:
                    task.cancel()
                self._long_calls.shutdown(wait=False, cancel_futures=True)
                try:
                    await settled([ticker, *tasks])
                finally:
                    link.post(topic("workers", self.name), b"", retain=True)
                    await link.flush(2.0)

    async def _connect(self, link: Link, stack: AsyncExitStack) -> bool:
        """False: it was told to stop before there was a broker."""
        until, pause = time.monotonic() + self._wait_at_start, 0.1
        while not self._stopping.is_set():
            try:
                await stack.enter_async_context(link)
                return True
            except BrokerUnreachable as error:
                if error.is_refusal or time.monotonic() >= until:
                    raise
                logger.warning("%s; trying again", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, MAX_WAIT)
        return False

    async def _wait(self, left: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while left() and time.monotonic() < end:  # noqa: ASYNC110 - many things change it
            await asyncio.sleep(0.02)

    def _receive(self, topic: str, payload: bytes) -> None:
        now = time.monotonic()
        try:
            match self.address.levels(topic):
                case ["jobs", client, job] if is_id(client) and is_id(job):
                    self._do(self._desk.offer((client, job), decode(OFFER, payload), now))
                case ["orders", self.name, client, job] if is_id(client) and is_id(job):
                    self._do(self._desk.order((client, job), decode(ORDER, payload), now))
                case ["clients", client] if is_id(client) and not payload:
                    self._do(self._desk.client_gone(client, now))
                case _:
                    raise Malformed("malformed topic or payload")
        except Malformed as error:
            logger.warning("dropped a message on %r: %s", topic[:200], error)

    def _connected(self) -> None:
        assert self._link is not None
        self._desk.fit(self._link.packet_bytes)
        self._beat()

    def _refused(self, topic: str, error: PlaitError) -> None:
        """A report that the broker does not take is the end of its job, not of all others behind it. A worker that may
        not beat is none, nor is one that may not say that it takes a job; a beat that was cut for a broker that took
        more is followed by others."""
        assert self._link is not None
        match self.address.levels(topic):
            case ["reports", client, job]:
                self._link.withdraw(topic)
                if isinstance(error, BrokerUnreachable) and not self._desk.has_begun((client, job)):
                    self._fail(error)
                answer = pack_error(JobFailed(f"a report cannot be sent: {error}"), None)
                self._do(self._desk.refused((client, job), answer, time.monotonic()))
            case ["workers", self.name] if isinstance(error, BrokerUnreachable):
                self._fail(BrokerUnreachable(f"a worker that may not beat is none: {error}", is_refusal=True))

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stopping.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(min(TICK_SECONDS, self._beat_seconds))
            if self._link is not None and self._link.is_connected:
                self._do(self._desk.tick(time.monotonic()))
                if time.monotonic() - self._beaten >= self._beat_seconds:
                    self._beat()

    def _beat(self) -> None:
        assert self._link is not None
        self._beaten = time.monotonic()
        for beat in self._desk.beats():
            self._link.post(self.address.topic("workers", self.name), encode(beat), retain=True)

    def _do(self, actions: Iterable[Action]) -> asyncio.Future[None] | None:
        """What is to be done; the last message of it, to be waited for by who sends many."""
        last = None
        assert self._link is not None
        for action in list(actions):
            match action:
                case Reply((client, job), report):
                    last = self._link.post(self.address.topic("reports", client, job), encode(report))
                case Withdraw((client, job)):
                    self._link.withdraw(self.address.topic("reports", client, job))
                case Check(key, epoch, job):
                    self._checks[key, epoch] = asyncio.create_task(self._check(key, epoch, job))
                case Begin(key, epoch, job, watched):
                    serving = Serving(partial(self._tell, key, epoch), is_watched=watched)
                    self._serving[key, epoch] = serving
                    self._tasks[key, epoch] = asyncio.create_task(self._serve(key, epoch, job, serving))
                case Show(key, epoch) if (key, epoch) in self._serving:
                    self._serving[key, epoch].watch()
                case End(key, epoch) if (key, epoch) in self._checks:
                    self._checks.pop((key, epoch)).cancel()
                case End(key, epoch, reason) if (key, epoch) in self._tasks:
                    self._tasks[key, epoch].cancel(reason)
                case Show() | End():
                    pass
        return last

    def _refusal(self, data: dict[str, Any]) -> bytes | None:
        """What keeps this worker from a job, as its answer; None: nothing that is known before it is begun."""
        try:
            method = parse_job(data).method
            with blaming_method(method):
                method.check(self._runtime.engine)
        except BaseException as error:  # Whatever a job of a stranger raises, be it a panic of a compiled library.
            answer = pack_error(error, None)
            return answer if len(answer) <= self._desk.chunk_bytes else None
        return None

    async def _check(self, key: Key, epoch: int, data: dict[str, Any]) -> None:
        async with self._checking:
            await self._encode(data)
        del self._checks[key, epoch]
        self._do(self._desk.checked(key, epoch, self._refusal(data), time.monotonic()))

    async def _encode(self, data: dict[str, Any]) -> None:
        """Encode a long prompt in the one thread for that, so that beats and other jobs do not wait for it: what takes
        it then finds it done. What is wrong with the job is raised there."""
        with suppress(Exception):
            if isinstance(method := parse_job(data).method, Decoding):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._long_calls, _try_encode, method, self._runtime.engine.tokenizer)

    def _tell(self, key: Key, epoch: int, events: list[dict[str, Any]]) -> asyncio.Future[None] | None:
        return self._do(self._desk.happened(key, epoch, events))

    async def _serve(self, key: Key, epoch: int, data: dict[str, Any], serving: Serving) -> None:
        """Run one job to its answer."""
        answer = b""
        try:
            if _is_long(data):
                await self._encode(data)  # Others may have come between, and it is not kept for ever.
            answer = await serving.answer(self._runtime, f"{key[0]}.{key[1]}.{epoch}", data)
        except asyncio.CancelledError as error:
            answer = pack_cancelled(str(error) or "cancelled", _empty(data))
        except BaseException as error:  # Whatever a job of a stranger raises: it is its answer.
            logger.debug("job %s of %s failed: %s", key[1], key[0], told(error))
            answer = pack_error(error, None)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            self._tasks.pop((key, epoch), None)
            self._serving.pop((key, epoch), None)
            self._do(self._desk.answered(key, epoch, answer, time.monotonic()))


def _is_long(data: dict[str, Any]) -> bool:
    """Has it a prompt whose encoding takes milliseconds?"""
    method = data.get("method")
    return isinstance(method, dict) and len(str(method.get("prompt"))) > LONG_PROMPT


def _try_encode(method: Decoding, tokenizer: Tokenizer) -> None:
    with suppress(BaseException):  # a panic of a compiled library, too: it is raised again where the tokens are taken
        method.tokens(tokenizer)


def _empty(data: dict[str, Any]) -> Trace:
    return Trace({"method": data.get("method")})
