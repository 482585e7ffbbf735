"""`Link`: a connection to the broker that comes back, and sends in order whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

import aiomqtt

from ..errors import BrokerUnreachable, InvalidJob, PlaitError
from ..settled import settled
from .address import Address
from .connection import Connection, Refused, TakenOver, is_refusal
from .letter import Letter

logger = logging.getLogger(__name__)

FIRST_WAIT, MAX_WAIT = 0.05, 5.0
"""Seconds between attempts to connect again: twice as many each time, with jitter."""
STEADY_SECONDS = 5.0
"""A connection that has lasted so long, and delivered something, is none of those that a broker ends at once: for what
is sent, or for another client of the same name."""
SUBSCRIBE_SECONDS, PUBLISH_SECONDS = 3.0, 60.0
"""For the broker to confirm."""
WINDOW = 16
"""Messages on their way to the broker at once: fewer than brokers take before they confirm (mosquitto: 20)."""
MIN_PACKET_BYTES = 4096
"""What a broker must take at least: heads of messages fit into it, with some room for what they carry."""


class Link:
    """An async context manager. `receive(topic, payload)` is called for every message, `connected()` after every
    connection, before anything is received; both on the event loop. `connected` must not raise."""

    def __init__(
        self,
        address: Address,
        identifier: str,
        *,
        subscriptions: Sequence[str],
        will: tuple[str, bool],
        session_seconds: int,
        will_delay: int,
        receive: Callable[[str, bytes], None],
        connected: Callable[[], None],
        keepalive: int = 10,
        receive_maximum: int = 1000,
        packet_bytes: int = 1 << 20,
        refused: Callable[[str, PlaitError], None] = lambda topic, error: None,
        given_up: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """`will`: topic, and whether it is retained; its payload is empty. `packet_bytes`: the broker's largest
        message, unless it names a smaller one. `refused(topic, error)` is called of a message that the broker does not
        take, `given_up(error)` when the connection cannot come back any more."""
        self.address = address
        self.identifier = identifier
        self.is_connected = False
        self.connections = 0
        self._subscriptions = list(subscriptions)
        self._new_connection = partial(
            Connection.to,
            address,
            identifier,
            will=will,
            session_seconds=session_seconds,
            will_delay=will_delay,
            keepalive=keepalive,
            receive_maximum=receive_maximum,
        )
        self._receive = receive
        self._connected = connected
        self.packet_bytes = packet_bytes
        """The largest packet that the broker takes, as far as is known."""
        self._packet_bytes = packet_bytes
        self._refused = refused
        self._given_up = given_up
        self._told: set[str] = set()
        """Kinds of messages of which the log says already that the broker refuses them."""
        self._wait = FIRST_WAIT
        self._since = 0.0
        """When the connection began."""
        self._has_delivered = False
        """On this connection."""
        self._outbox: deque[Letter] = deque()
        """Oldest first, until the broker has it."""
        self._client: Connection | None = None
        self._socket: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises `BrokerUnreachable` if the first attempt fails, and then may be tried again."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first))
        self._task.add_done_callback(partial(self._crashed, first))
        try:
            await first
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    def post(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Send, after all that was posted before, as soon as there is a connection. The future, which need not be
        awaited, is done once the broker has it."""
        letter = Letter(topic, payload, retain)
        self._outbox.append(letter)
        self._send()
        return letter.sent

    def withdraw(self, end: str) -> None:
        """Of what was posted to topics that end so, nothing more is sent."""
        for letter in self._outbox:
            if letter.topic.endswith(end) and not letter.sent.done():
                letter.sent.set_result(None)

    async def flush(self, seconds: float) -> None:
        """Wait until the broker has everything, but no longer than this."""
        if self._outbox and self._task is not None and not self._task.done():
            await asyncio.wait([letter.sent for letter in self._outbox], timeout=seconds)

    async def unsubscribe(self, topic: str) -> None:
        """Now if there is a connection, and from now on."""
        self._subscriptions.remove(topic)
        if self._client is not None:
            try:
                await self._client.unsubscribe(topic)
            except aiomqtt.MqttError as error:
                logger.debug("not unsubscribed: %s", error)

    async def _end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        sending = [letter.sending for letter in self._outbox if letter.sending is not None]
        try:
            await settled([self._task, *sending])
        finally:
            for letter in self._outbox:
                letter.sent.cancel()

    async def _run(self, first: asyncio.Future[None]) -> None:
        assert self._task is not None
        while True:
            try:
                async with self._new_connection() as client:
                    self._learn(client.packet_bytes)
                    await client.read(self._subscriptions, seconds=SUBSCRIBE_SECONDS)
                    if self._task.cancelling():
                        return  # Python 3.11: `wait_for`, inside of these, loses it if their answer has just come.
                    self._client, self.is_connected = client, True
                    self._since, self._has_delivered = time.monotonic(), False
                    self._socket = client._client.socket()
                    self.connections += 1
                    self._tell_connected()
                    self._send()
                    if not first.done():
                        first.set_result(None)
                    async for message in client.messages:
                        payload = message.payload if isinstance(message.payload, bytes) else b""
                        self._acknowledge()
                        self._take(str(message.topic), payload)
            except (aiomqtt.MqttError, OSError, ValueError) as error:
                if self._task.cancelling():
                    return  # What ending a connection raises takes its place.
                if not first.done():
                    first.set_exception(
                        BrokerUnreachable(
                            f"no connection to the broker {self.address}: {error}; is it running, and are "
                            f"user, password, certificates and rights right?",
                            is_refusal=is_refusal(error),
                        )
                    )
                    return
                if isinstance(error, TakenOver):
                    text = f"the broker {self.address}: {error}; {self.identifier} may connect once"
                    raise BrokerUnreachable(text, is_refusal=True) from None
                level = logging.ERROR if isinstance(error, Refused) else logging.WARNING
                if self._has_delivered and time.monotonic() - self._since < STEADY_SECONDS:
                    hint = f" (is there another client {self.identifier}?)"
                else:
                    hint = ""
                logger.log(level, "connection to %s: %s%s; trying again", self.address, error, hint)
            finally:
                self._client, self._socket, self.is_connected = None, None, False
                for letter in self._outbox:
                    if letter.sending is not None:
                        letter.sending.cancel()  # It would wait for a confirmation that cannot come any more.
            if self._has_delivered and time.monotonic() - self._since >= STEADY_SECONDS:
                self._wait = FIRST_WAIT
            self._has_delivered = False
            await asyncio.sleep(self._wait * random.uniform(0.5, 1.0))
            self._wait = min(self._wait * 2, MAX_WAIT)

    def _learn(self, said: int | None) -> None:
        """What the broker of this connection takes. Raises `ValueError` if that is too little for anything."""
        self.packet_bytes = self._packet_bytes if said is None else min(self._packet_bytes, said)
        if self.packet_bytes < MIN_PACKET_BYTES:
            raise ValueError(f"it takes packets of {self.packet_bytes:,} bytes, and {MIN_PACKET_BYTES:,} are needed")

    def _tell_connected(self) -> None:
        try:
            self._connected()
        except Exception as error:  # Not the broker's, so none that a new connection could help against.
            raise RuntimeError(f"what follows a connection has failed: {error!r}") from error

    def _take(self, topic: str, payload: bytes) -> None:
        try:
            self._receive(topic, payload)
        except Exception:  # One message must not leave all others waiting for ever.
            logger.exception("a message on %r could not be handled", topic[:200])

    def _crashed(self, first: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("the connection to %s is given up", self.address, exc_info=error)
        if not first.done():
            first.set_exception(error)
        else:
            self._given_up(error)

    def _send(self) -> None:
        """Put on its way what may be."""
        self._tidy()
        client = self._client
        if client is None:
            return
        for letter in islice(self._outbox, WINDOW):
            if letter.sending is None and not letter.sent.done():
                if not self._fits(letter):
                    # Brokers end the connection at what is too large for them: sent again, it would end each.
                    text = f"{letter.size:,} bytes, and the broker takes {self.packet_bytes:,}"
                    self._refuse(letter, InvalidJob(text))
                    continue
                writing = client.write(letter.topic, letter.payload, retain=letter.retain, seconds=PUBLISH_SECONDS)
                letter.sending = asyncio.create_task(writing)
                letter.sending.add_done_callback(partial(self._published, letter))

    def _tidy(self) -> None:
        """What is done is no longer kept; one on its way is, so that it ends with the connection."""
        while self._outbox and self._outbox[0].sent.done() and self._outbox[0].sending is None:
            self._outbox.popleft()

    def _fits(self, letter: Letter) -> bool:
        return letter.size <= self.packet_bytes

    def _refuse(self, letter: Letter, error: PlaitError) -> None:
        """It is given up, and no others wait for it."""
        kind = next(iter(self.address.levels(letter.topic)), "")
        logger.log(
            logging.DEBUG if kind in self._told else logging.ERROR,
            "a message on %r is not sent: %s",
            letter.topic,
            error,
        )
        self._told.add(kind)
        if not letter.sent.done():
            letter.sent.set_result(None)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._refused, letter.topic, error)
        loop.call_soon(self._send)

    def _acknowledge(self) -> None:
        """Now, what has arrived: systems wait up to 40 ms, and a broker that does not set `set_tcp_nodelay` sends
        nothing small meanwhile. Has to be said again each time."""
        if self._socket is not None and hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _published(self, letter: Letter, task: asyncio.Task[None]) -> None:
        letter.sending = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Refused):
            self._refuse(letter, BrokerUnreachable(f"the broker {self.address}: {error}", is_refusal=True))
            return
        if task.cancelled() or isinstance(error, (aiomqtt.MqttError, ValueError)):
            # Again, by this connection or the next.
            asyncio.get_running_loop().call_later(FIRST_WAIT, self._send)
            return
        if error is not None:
            raise error
        self._has_delivered = True
        self._acknowledge()
        if not letter.sent.done():
            letter.sent.set_result(None)
        self._send()
