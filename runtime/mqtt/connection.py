"""`Connection`: one connection to the broker, from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .address import Address

TAKEN_OVER, QUOTA_EXCEEDED = 0x8E, 0x97
"""Reason codes (MQTT 5, 2.4)."""


class Refused(aiomqtt.MqttError):
    """The broker does not let this client read or write a topic, and would say the same again."""


class TakenOver(aiomqtt.MqttError):
    """Another client has connected by the same name: to come back would throw that one off."""

    def __init__(self) -> None:
        super().__init__("another client of the same name has connected")


class Connection(aiomqtt.Client):
    """One that does not wait for an answer on a connection that has ended: a broker that is killed gives none. One that
    hears what the broker refuses. And one that leaves nothing behind which nobody waits for any more: no connection,
    and at its end no session."""

    packet_bytes: int | None = None
    """What the broker says that it takes at most; None: it says nothing."""
    _has_shares = True
    _is_given_up = False
    _is_taken_over = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._confirmations: dict[int, asyncio.Future[Any]] = {}
        """Of what is on its way, by number: the broker's reason code."""
        self._watched: dict[Callable[..., None], Any] = {}
        """The socket that is to be read from, and the one to be written to, by the loop's method that watches it."""
        self._watching = threading.Lock()

    @classmethod
    def to(
        cls,
        address: Address,
        identifier: str,
        *,
        will: tuple[str, bool],
        session_seconds: int,
        will_delay: int,
        keepalive: int,
        receive_maximum: int,
    ) -> Self:
        """Not begun yet. Arguments are those of `Link`."""
        make: Any = Properties  # without types
        properties = make(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_seconds
        properties.ReceiveMaximum = receive_maximum
        last = make(PacketTypes.WILLMESSAGE)
        last.WillDelayInterval = will_delay
        topic, retain = will
        return cls(
            address.host,
            address.port,
            identifier=identifier,
            username=address.user,
            password=address.password,
            tls_context=address.tls,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            will=aiomqtt.Will(topic, b"", qos=1, retain=retain, properties=last),
            keepalive=keepalive,
            logger=logging.getLogger(f"{__name__}.paho"),
            timeout=10,
            # What waits for a confirmation is small and often followed by more: not to be held back for it.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._is_given_up = True
            self._loop.call_soon(self._leave)
            raise

    async def __aexit__(self, *given: Any) -> None:
        """Raises `TakenOver` if that is why it has ended."""
        if not self._disconnected.done() and self._leave() == 0:
            await self._wait_for(self._disconnected, timeout=None)
        await super().__aexit__(*given)
        if self._is_taken_over:
            raise TakenOver

    async def read(self, topics: Sequence[str], *, seconds: float) -> None:
        """Subscribe. Raises `Refused`."""
        if not self._has_shares and any(topic.startswith("$share/") for topic in topics):
            raise Refused("it has no shared subscriptions")
        codes: Sequence[Any] = await self.subscribe([(topic, 1) for topic in topics], timeout=seconds)
        for topic, code in zip(topics, codes, strict=False):
            granted = int(getattr(code, "value", code))
            if granted != 1:
                why = f"{code}" if granted > 2 else f"with QoS {granted} only"
                raise Refused(f"it refuses to let {self.identifier} read {topic}: {why}")

    async def write(self, topic: str, payload: bytes, *, retain: bool, seconds: float) -> None:
        """Publish, and wait until the broker has it. Raises `Refused`. What it cannot take just now counts as lost on
        the way: it is said again if it is not answered."""
        sent = self._client.publish(topic, payload, 1, retain)
        if sent.rc != 0:
            raise aiomqtt.MqttCodeError(sent.rc)
        confirmation = self._confirmations[sent.mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                code = await confirmation
        except TimeoutError:
            raise aiomqtt.MqttError("it does not confirm what is sent") from None
        finally:
            del self._confirmations[sent.mid]
        if code.is_failure and code.value != QUOTA_EXCEEDED:
            raise Refused(f"it refuses to let {self.identifier} write {topic}: {code}")

    def _leave(self) -> int:
        """The session ends too: nobody comes back for what the broker would go on to keep (MQTT 5, 3.14.2.2.2)."""
        make: Any = Properties  # without types
        properties = make(PacketTypes.DISCONNECT)
        properties.SessionExpiryInterval = 0
        return int(self._client.disconnect(properties=properties))

    def _client_connect(self) -> None:
        """In a thread, which goes on to the end when who waits for it is cancelled."""
        super()._client_connect()
        if self._is_given_up:
            self._loop.call_soon_threadsafe(self._leave)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        def read() -> None:
            client.loop_read()
            while getattr(sock, "pending", int)():  # What TLS has decrypted already no event tells of.
                client.loop_read()

        def begin() -> None:
            self._misc_task = self._loop.create_task(self._misc_loop())

        self._watch(self._loop.add_reader, sock, read)
        self._loop.call_soon_threadsafe(begin)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        with self._watching:
            self._watched.clear()
            super()._on_socket_close(client, userdata, sock)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._watch(self._loop.add_writer, sock, client.loop_write)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        with self._watching:
            self._watched.pop(self._loop.add_writer, None)
            super()._on_socket_unregister_write(client, userdata, sock)

    def _watch(self, add: Callable[..., None], sock: socket.socket, step: Callable[[], object]) -> None:
        """From the loop, since this may be the thread that connects, and only if it is still wanted by then: the number
        of a socket that is closed may be another's."""

        def go_on() -> None:
            try:
                step()
            except Exception as error:  # The connection is broken.
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def begin() -> None:
            with self._watching:
                if self._watched.get(add) is sock:
                    add(sock.fileno(), go_on)

        with self._watching:
            self._watched[add] = sock
        self._loop.call_soon_threadsafe(begin)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
        self.packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self._has_shares = getattr(properties, "SharedSubscriptionAvailable", 1) == 1
        super()._on_connect(client, userdata, flags, code, properties)

    def _on_publish(self, client: Any, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        confirmation = self._confirmations.get(mid)
        if confirmation is not None and not confirmation.done():
            confirmation.set_result(code)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
        if self._is_given_up:
            return  # Nobody asks.
        self._is_taken_over = getattr(code, "value", code) == TAKEN_OVER
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("it ended the connection before it answered"))
        for waiting in self._pending_subscribes.values():
            if not waiting.done():
                waiting.set_exception(aiomqtt.MqttError("it ended the connection"))
        super()._on_disconnect(client, userdata, flags, code, properties)
        if self._disconnected.done():
            self._disconnected.exception()  # Seen: who has not got as far as to listen does not ask for it.


def is_refusal(error: Exception) -> bool:
    is_said = isinstance(error, (aiomqtt.MqttCodeError, Refused, TakenOver, ValueError))
    return is_said or isinstance(error.__context__, ssl.SSLError)
