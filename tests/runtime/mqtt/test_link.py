"""Connections to brokers: real ones that restart, and made-up ones that misbehave at a chosen moment."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager, suppress

import pytest

pytest.importorskip("aiomqtt")

import aiomqtt

from plait import BrokerUnreachable, Runtime, ScriptedEngine
from plait.benchmarks.mosquitto import stranger
from plait.runtime.mqtt.address import Address
from plait.runtime.mqtt.connection import Connection
from plait.runtime.mqtt.link import Link
from plait.runtime.mqtt.worker import Worker

CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 3, 8, 14
NOT_AUTHORIZED, TAKEN_OVER, QUOTA_EXCEEDED, NO_SHARES = 0x87, 0x8E, 0x97, 0x9E


def suback(code):
    return lambda body: b"\x90\x04" + body[:2] + bytes([0, code])


def puback(code):
    """With the number that stands behind the topic."""
    return lambda body: b"\x40\x03" + body[2 + body[1] : 4 + body[1]] + bytes([code])


ANSWERS = {CONNECT: lambda body: b"\x20\x03\0\0\0", SUBSCRIBE: suback(1), PUBLISH: puback(0)}


class MadeUpBroker:
    """Answers the packets of `answered` only, as `answers` has it or else well."""

    def __init__(self, answered=(CONNECT, SUBSCRIBE, PUBLISH), answers=None):
        self.answered = answered
        self.answers = ANSWERS | (answers or {})
        self.kinds = []
        self.bodies = []
        self.open = set()

    def drop(self):
        for writer in self.open:
            writer.close()

    async def serve(self, reader, writer):
        self.open.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind = (await reader.readexactly(1))[0] >> 4
                size = shift = 0
                while (byte := (await reader.readexactly(1))[0]) > 127:
                    size, shift = size | (byte & 127) << shift, shift + 7
                body = await reader.readexactly(size | byte << shift)
                self.kinds.append(kind)
                self.bodies.append(body)
                if kind in self.answered:
                    writer.write(self.answers[kind](body))
        self.open.remove(writer)
        writer.close()


@asynccontextmanager
async def made_up(**options):
    broker = MadeUpBroker(**options)
    async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as server:
        yield broker, Address.parse(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}/pool")
        async with asyncio.timeout(5):
            while broker.open:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("moment", ["_on_connect", "_on_subscribe", "_on_disconnect"])
async def test_an_end_at_the_moment_of_an_answer_is_an_end(monkeypatch, moment):
    """Until Python 3.12 `asyncio.wait_for` loses a cancellation then."""
    async with made_up() as (broker, address):
        link = stranger(address, "one")
        inner, ends = getattr(Connection, moment), []

        def answer(client, *given, **named):
            inner(client, *given, **named)
            if link.connections and not ends:
                ends.append(asyncio.create_task(link.__aexit__(None, None, None)))

        monkeypatch.setattr(Connection, moment, answer)
        await link.__aenter__()
        broker.drop()
        async with asyncio.timeout(5):
            while not ends:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.001)
            await ends[0]
        assert not link.is_connected


async def test_a_connection_that_fails_as_it_is_ended_is_not_made_again(monkeypatch):
    leave = Connection.__aexit__

    async def fail(self, *given):
        await leave(self, *given)
        raise aiomqtt.MqttError("Operation timed out")

    monkeypatch.setattr(Connection, "__aexit__", fail)
    async with made_up() as (broker, address):
        link = await stranger(address, "one").__aenter__()
        async with asyncio.timeout(5):
            await link.__aexit__(None, None, None)
        assert broker.kinds.count(CONNECT) == 1


@pytest.mark.parametrize("answered", [(), (CONNECT,), (CONNECT, SUBSCRIBE)])
async def test_who_is_cancelled_while_it_connects_leaves_nothing(answered):
    """`made_up` and the fixture of all tests look for connections and tasks that are left."""

    async def connect(address):
        async with stranger(address, "one"):
            await asyncio.sleep(10)

    async with made_up(answered=answered) as (_, address):
        for steps in range(0, 60, 3):
            task = asyncio.create_task(connect(address))
            for _ in range(steps):
                await asyncio.sleep(0.0001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(5):
                    await task


async def test_a_broker_that_does_not_answer_is_one_error_and_no_connection(monkeypatch):
    make = Connection.to

    def impatient(*given, **named):
        connection = make(*given, **named)
        connection.timeout = 0.2
        return connection

    monkeypatch.setattr(Connection, "to", impatient)
    async with made_up(answered=()) as (_, address):
        with pytest.raises(BrokerUnreachable, match="timed out"):
            async with stranger(address, "one"):
                pass


@pytest.mark.parametrize(
    "answers, topic, why",
    [
        ({SUBSCRIBE: suback(NOT_AUTHORIZED)}, "x", "Not authorized"),
        ({SUBSCRIBE: suback(NO_SHARES)}, "$share/workers/x", "Shared subscription not supported"),
        ({SUBSCRIBE: suback(0)}, "x", "QoS 0"),
        ({CONNECT: lambda body: b"\x20\x05\0\0\x02\x2a\0"}, "$share/workers/x", "no shared"),
        ({SUBSCRIBE: lambda body: bytes([DISCONNECT << 4, 2, TAKEN_OVER, 0])}, "x", "same name"),
    ],
)
async def test_what_the_broker_does_not_let_one_read_is_one_error_at_once(answers, topic, why):
    async with made_up(answers=answers) as (broker, address):
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match=why) as error:
            async with stranger(address, "one", topic=topic):
                pass
        assert error.value.is_refusal and broker.kinds.count(CONNECT) == 1 and time.monotonic() - began < 2


async def test_what_may_no_longer_be_read_is_an_error_in_the_log(caplog):
    async with made_up() as (broker, address), stranger(address, "one") as link:
        broker.answers[SUBSCRIBE] = suback(NOT_AUTHORIZED)
        broker.drop()
        async with asyncio.timeout(5):
            while "Not authorized" not in caplog.text:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
        assert any(one.levelname == "ERROR" for one in caplog.records)
        broker.answers[SUBSCRIBE] = suback(1)
        async with asyncio.timeout(5):
            while not link.is_connected:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)


async def test_what_may_not_be_written_is_refused_alone(caplog):
    def answer(body):
        return puback({b"a": NOT_AUTHORIZED, b"q": QUOTA_EXCEEDED}.get(body[1 + body[1] : 2 + body[1]], 0))(body)

    refused = []
    async with made_up(answers={PUBLISH: answer}) as (_, address):
        link = stranger(address, "one")
        link._refused = lambda topic, error: refused.append((topic, str(error)))
        async with asyncio.timeout(5), link:
            for _ in range(2):
                await asyncio.gather(*(link.post(f"x/{name}", b"") for name in "baqb"))
            await asyncio.sleep(0)
            assert link.connections == 1 and not link._outbox
    assert [topic for topic, _ in refused] == ["x/a"] * 2 and all("Not authorized" in why for _, why in refused)
    assert [record.levelname for record in caplog.records if "not sent" in record.message] == ["ERROR"]


async def test_a_worker_whose_name_is_taken_ends():
    async with Runtime(engine=ScriptedEngine([])) as local, made_up() as (broker, address):
        task = asyncio.create_task(Worker(local, address, name="one").run())
        async with asyncio.timeout(5):
            while PUBLISH not in broker.kinds:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
            began = time.monotonic()
            for writer in broker.open:
                writer.write(bytes([DISCONNECT << 4, 2, TAKEN_OVER, 0]))
            with pytest.raises(BrokerUnreachable, match="same name"):
                await task
        assert broker.kinds.count(CONNECT) == 1 and time.monotonic() - began < 1


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("what", ["read", "write", "written"])
async def test_a_socket_that_nobody_waits_for_any_more_is_not_watched(what, taken):
    """As it is closed, or all is written, before the loop begins to watch it. `taken`: its number is another's then."""
    loop, errors, connection = asyncio.get_running_loop(), [], Connection("127.0.0.1")
    loop.set_exception_handler(lambda _, context: errors.append(context))
    one, *others = socket.socketpair()
    number, told = one.fileno(), (connection._client, None, one)
    if what == "read":
        connection._on_socket_open(*told)
    else:
        connection._on_socket_register_write(*told)
        connection._on_socket_unregister_write(*told)
    if what != "written":
        connection._on_socket_close(*told)
        one.close()
        others += socket.socketpair() if taken else ()
    await asyncio.sleep(0.01)
    assert not loop.remove_reader(number) and not loop.remove_writer(number) and not errors
    for each in (one, *others):
        each.close()


async def test_connections_that_end_soon_are_made_less_and_less(caplog):
    """As when two of one name throw each other off, and the broker does not say why."""
    async with made_up() as (broker, address), stranger(address, "one") as link:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            if link.is_connected:
                await link.post("x", b"")
                broker.drop()
                while link.is_connected:  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)
        assert 1 < link.connections <= 6 and "another client one?" in caplog.text


@pytest.mark.parametrize("answered", [(CONNECT,), (CONNECT, SUBSCRIBE)])
async def test_who_leaves_leaves_no_session(answered):
    async with made_up(answered=answered) as (broker, address):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5), stranger(address, "one", session_seconds=300):
                pass
    assert broker.kinds[-1] == DISCONNECT and broker.bodies[-1] == b"\0\x05\x11\0\0\0\0"


async def test_what_is_on_its_way_when_the_connection_breaks_is_sent_again_in_order(broker):
    address = Address.parse(broker.url())
    got = []
    topic = address.topic("x")
    reader = stranger(address, "reader", lambda _, payload: got.append(int(payload)), topic=topic, session_seconds=60)
    writer = stranger(address, "writer", session_seconds=60)
    async with reader, writer:
        for number in range(300):
            writer.post(topic, b"%d" % number)
            if number in (100, 200):
                await asyncio.sleep(0)
                await asyncio.to_thread(broker.stop)
                await asyncio.to_thread(broker.start)
        await writer.flush(20)
        end = time.monotonic() + 10
        while got[-1:] != [299] and time.monotonic() < end:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.02)
    assert sorted(set(got)) == list(range(300))
    # Again from where it broke, so what comes late has been there before.
    first = {number: place for place, number in reversed(list(enumerate(got)))}
    assert sorted(first, key=first.__getitem__) == list(range(300))


async def test_a_message_that_cannot_be_handled_is_no_end(broker, caplog):
    got = []

    def receive(topic, payload):
        got.append(payload)
        if payload == b"bad":
            raise RuntimeError("a defect")

    address = Address.parse(broker.url())
    async with stranger(address, "reader", receive, topic=address.topic("x")) as link:
        for payload in (b"bad", b"good"):
            link.post(address.topic("x"), payload)
        async with asyncio.timeout(10):
            while len(got) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert got == [b"bad", b"good"] and "could not be handled" in caplog.text


async def test_what_fails_before_there_is_a_connection_is_raised(broker, monkeypatch):
    def broken(*given, **named):
        raise TypeError("a defect")

    monkeypatch.setattr(Connection, "to", broken)
    async with asyncio.timeout(10):
        with pytest.raises(TypeError, match="a defect"):
            async with stranger(Address.parse(broker.url()), "one"):
                pass


async def test_what_fails_behind_a_connection_is_not_told_as_the_brokers(broker, caplog):
    def broken():
        raise ValueError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        async with stranger(Address.parse(broker.url()), "one", connected=broken):
            pass
    assert "given up" in caplog.text


async def test_a_connection_that_ends_at_what_is_sent_is_tried_less_and_less(narrow, monkeypatch):
    monkeypatch.setattr(Link, "_fits", lambda self, letter: True)
    times = []
    address = Address.parse(narrow.url())
    async with stranger(address, "one", connected=lambda: times.append(time.monotonic())) as link:
        link.post("x", b"x" * 20_000)
        await asyncio.sleep(1.0)
    assert 1 < len(times) <= 6


async def test_what_is_withdrawn_is_not_sent(broker):
    got = []
    address = Address.parse(broker.url())
    async with stranger(address, "one", lambda _, payload: got.append(int(payload)), topic=address.topic("#")) as link:
        for number in range(100):
            link.post(address.topic("a" if number % 2 else "b"), b"%d" % number)
        link.withdraw("/a")
        await link.flush(5)
        link.post(address.topic("b"), b"100")
        await link.flush(5)
        end = time.monotonic() + 5
        while got[-1:] != [100] and time.monotonic() < end:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.02)
        assert [number for number in got if number % 2 == 0] == list(range(0, 101, 2))
        assert len([number for number in got if number % 2]) <= 8  # those that were on their way
        assert not link._outbox
