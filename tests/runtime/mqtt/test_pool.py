"""Pools over a real broker: results as local ones, and what can go wrong."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import plait
from plait import (
    APR,
    BrokerUnreachable,
    EngineClosed,
    Hogwild,
    InvalidInput,
    InvalidJob,
    JobFailed,
    PlaitError,
    Runtime,
    ScriptedEngine,
    Sequential,
    Trace,
    UnsupportedByEngine,
)
from plait.runtime.engines.registry import find_model
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.events import Done, Failed, Started, Stopped, Text, ToolStarted

pytest.importorskip("aiomqtt")

from plait.benchmarks.mosquitto import MOSQUITTO, Broker, start_worker, stranger
from plait.runtime.job_spec import JobSpec
from plait.runtime.methods.prompt import LONG_PROMPT
from plait.runtime.mqtt import remote_job
from plait.runtime.mqtt.address import Address, refuse_password
from plait.runtime.mqtt.answers import pack_result
from plait.runtime.mqtt.link import Link
from plait.runtime.mqtt.messages import Beat, Chunk, Claim, Events, Grant, Offer, encode
from plait.runtime.mqtt.serving import EVENT_SECONDS, _tell_all
from plait.runtime.mqtt.worker import Worker
from plait.runtime.passwords import without_password

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")

APR_JOB = APR(prompt="apr 24 : 63 9 5 2 ;", dialect="compact", depth=2, context_limit=512)
SEQUENTIAL = Sequential(prompt="seq 24 : 63 9 5 2 ;")


class Failing(ScriptedEngine):
    def open(self, *args, **options):
        raise RuntimeError("no luck")


@asynccontextmanager
async def worker(broker, script=None, *, engine=None, runtime=None, beat_seconds=0.2, **options):
    """A worker in this process."""
    async with Runtime(engine=engine or ScriptedEngine(script or (lambda _: "x" * 200))) as local:
        one = Worker(runtime or local, Address.parse(broker.url()), beat_seconds=beat_seconds, **options)
        task = asyncio.create_task(one.run())
        try:
            yield one
        finally:
            one.stop()
            await task


@asynccontextmanager
async def posted(broker, name="stranger"):
    """A connection that posts what it likes."""
    address = Address.parse(broker.url())
    async with stranger(address, name) as link:
        yield lambda payload, *levels: link.post(address.topic(*levels), payload)


def structure(trace):
    """A trace without times."""
    return [(s.branch, s.position, [(p.kind, p.token_ids) for p in s.pieces]) for s in trace.segments]


async def text_of(job):
    """What the last epoch's events say."""
    text = ""
    async for event in job:
        if isinstance(event, Started):
            text = ""
        elif isinstance(event, Text):
            text += event.text
    return text


async def test_results_equal_the_local_runtimes_also_after_a_kill(broker, tmp_path):
    workers = [start_worker(broker.url(), "--jobs", "2") for _ in range(2)]
    try:
        async with Runtime(broker.url()) as remote, Runtime("countdown") as local:
            for method in (SEQUENTIAL, APR_JOB):
                before = time.time()
                job = await remote.submit(method, seed=3, metadata={"row": 1}, trace_file=tmp_path / "t.jsonl")
                events = [event async for event in job]
                result = await job
                assert before <= result.trace.began <= time.time() - result.usage.seconds
                same = await (await local.submit(method, seed=3, metadata={"row": 1}))
                assert (result.text, result.answer, result.details) == (same.text, same.answer, same.details)
                assert result.finish_reason == same.finish_reason
                assert result.usage.total_tokens == same.usage.total_tokens
                assert structure(result.trace) == structure(same.trace) == structure(Trace.load(tmp_path / "t.jsonl"))
                assert isinstance(events[0], Started) and isinstance(events[-1], Done)
                assert {event.job for event in events} == {job.id}
                sampled = sum(event.tokens for event in events if isinstance(event, Text))
                assert sampled <= same.usage.generated_tokens + same.usage.rolled_back_tokens
            jobs = [await remote.submit(SEQUENTIAL, seed=i) for i in range(6)]
            await asyncio.sleep(0.1)
            workers[0].kill()
            results = await asyncio.gather(*jobs)
            assert len({result.text for result in results}) == 1
            assert not remote.jobs
        workers[1].terminate()
        assert workers[1].wait(20) == 0
    finally:
        for process in workers:
            if process.poll() is None:
                process.kill()
            process.wait()


async def test_a_client_used_from_another_loop(broker):
    async def read(job):
        return [event async for event in job]

    async with Runtime(broker.url()) as remote:
        job = await remote.submit(SEQUENTIAL)  # nobody takes it
        uses = (
            lambda: remote.submit(SEQUENTIAL),
            lambda: read(job),
            job.wait,
            lambda: remote.__aexit__(None, None, None),
        )
        for use in uses:
            with pytest.raises(EngineClosed, match="another event loop"):
                await asyncio.to_thread(lambda use=use: asyncio.run(asyncio.wait_for(use(), 5)))
        assert remote.jobs == [job]


async def test_a_job_costs_few_messages_and_none_of_them_waits(broker, monkeypatch):
    posted, post = [], Link.post

    def count(link, topic, payload, **options):
        if "/workers/" not in topic:
            posted.append(topic)
        assert link._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return post(link, topic, payload, **options)

    # A beat that crosses the drop of a job it lists brings another drop.
    async with worker(broker, beat_seconds=5), Runtime(broker.url()) as remote:
        monkeypatch.setattr(Link, "post", count)
        start = time.monotonic()
        assert (await (await remote.submit(Sequential(prompt="q")))).text == "x" * 200
        while not posted[4:] or "/orders/" not in posted[-1]:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        # Offer, claim, grant, answer, and the drop that acknowledges it: nobody reads, so no events come.
        # What is not answered within a second is said again, on a busy machine.
        assert 5 <= len(posted) <= 5 + 2 * int(time.monotonic() - start)
        posted.clear()
        job = await remote.submit(Sequential(prompt="q"))
        assert await text_of(job) == "x" * 200
        # The last one tells the worker that its answer has arrived.
        while len(posted) < 6 and time.monotonic() < start + 30:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    # Now with events, at most every 0.05 seconds, of which the job took some.
    seconds = job.trace.end["usage"]["seconds"]
    assert 6 <= len(posted) <= 7 + seconds / EVENT_SECONDS + 2 * int(time.monotonic() - start)


async def test_who_reads_late_gets_what_happens_from_then_on(broker):
    engine = ScriptedEngine(lambda _: "x" * 2000)
    async with worker(broker, engine=engine, capacity=1), Runtime(broker.url()) as remote:
        job = await remote.submit(Sequential(prompt="q", max_tokens=2000))
        while not job.epoch:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        events = [event async for event in job]
        assert isinstance(events[-1], Done) and not any(isinstance(event, Started) for event in events)
        assert len((await job).text) == 2000
        # It has ended: its end is all that there is to read.
        assert [type(event) async for event in job] == [Done]


async def test_the_broker_restarts_twice_while_jobs_run(broker):
    engine = ScriptedEngine(lambda text: text[-3:] * 300)
    async with worker(broker, engine=engine, capacity=3), Runtime(broker.url()) as remote:
        jobs = [await remote.submit(Sequential(prompt=f"job {i:02}", max_tokens=800)) for i in range(12)]
        texts = [asyncio.create_task(text_of(job)) for job in jobs]
        for _ in range(2):
            await asyncio.sleep(0.2)
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(broker.start)
        results = await asyncio.wait_for(asyncio.gather(*jobs), 40)
        for i, (result, text) in enumerate(zip(results, await asyncio.gather(*texts), strict=True)):
            assert result.text == text == (f" {i:02}" * 300)[:800]


async def test_repeated_and_hostile_messages_change_nothing(broker, caplog):
    async with worker(broker), Runtime(broker.url()) as remote, posted(broker) as post:
        me = remote.client
        for payload in (b"", b"\xff\x00", b"[" * 50_000, b'{"type":"offer","epoch":1,"job":{"method":"x"}}'):
            for levels in (("jobs", me, "a"), ("jobs", "x y", "b"), ("reports", me, "job-1"), ("workers", "ghost")):
                post(payload, *levels)
        jobs = [await remote.submit(Sequential(prompt="q")) for _ in range(4)]
        for job in jobs:
            offer = encode(Offer(epoch=1, job={"method": {"method": "sequential", "prompt": "forged"}}))
            for _ in range(3):
                post(encode(Claim(worker="other", epoch=2)), "reports", me, job.id)
                post(offer.replace(b"forged", b"q"), "jobs", me, job.id)
        results = await asyncio.gather(*jobs)
        assert all(result.text == "x" * 200 for result in results)
        await asyncio.sleep(0.3)
    assert any("dropped a message" in record.message for record in caplog.records)


async def test_events_are_told_however_deep_they_are():
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    stopped = Stopped(job="j", time=1.0, branch="0", reason="eos", tokens=1)
    found, told = [ToolStarted(job="j", time=0.0, branch="0", tool="t", arguments=deep), *2 * [stopped]], []

    async def happens():
        for event in found:
            yield event

    await _tell_all(happens(), told.extend)
    assert [event["type"] for event in told] == ["tool_started", "stopped", "stopped"] and "job" not in told[0]


async def test_a_worker_with_odd_events_ends_no_client(broker):
    """Of the wrong kinds: texts and counts are put together where they are read."""
    odd = [{"type": "forked", "time": 0, "branch": "0", "children": 3}]
    odd += [{"type": "text", "time": 0, "branch": "0", "text": value, "tokens": 1} for value in (3, "a", "b")]
    async with Runtime(broker.url()) as remote, posted(broker, "ghost") as post:
        post(encode(Beat(capacity=1, free=1, model="m", jobs=[])), "workers", "ghost")
        job = await remote.submit(Sequential(prompt="q"))
        events = aiter(job)
        post(encode(Claim(worker="ghost", epoch=1)), "reports", remote.client, "job-1")
        post(encode(Events(worker="ghost", epoch=1, first=0, events=odd)), "reports", remote.client, "job-1")
        async with asyncio.timeout(10):
            assert (await anext(events)).text.startswith("a")
        assert job.cancel()
        post(b"", "workers", "ghost")
        with pytest.raises(asyncio.CancelledError):
            await job


async def test_what_a_worker_reports_and_nobody_can_read_fails_its_job_alone(broker, monkeypatch, caplog):
    """As one of another version may."""
    monkeypatch.setattr("plait.runtime.mqtt.remote.REPORT", TypeAdapter(Claim | Chunk))
    async with worker(broker), Runtime(broker.url()) as remote:
        remote._state.patience = 0.1
        quiet, read = [await remote.submit(Sequential(prompt="q")) for _ in range(2)]
        reading = asyncio.create_task(text_of(read))
        assert (await quiet).text == "x" * 200
        with pytest.raises(JobFailed, match="cannot be read"):
            await asyncio.wait_for(read, 10)
        await reading
    assert "malformed message" in caplog.text


async def test_a_cancelled_job_frees_its_worker(broker):
    engine = ScriptedEngine(lambda _: "x" * 3000, seconds_per_token=0.01)
    async with worker(broker, engine=engine, capacity=1), Runtime(broker.url()) as remote:
        job = await remote.submit(Sequential(prompt="q", max_tokens=3000))
        waiting = await remote.submit(Sequential(prompt="q"))
        events = aiter(job)
        while not isinstance(await anext(events), Text):
            pass
        assert waiting.cancel() and job.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await job
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not engine.branches
        last = [event async for event in events][-1]
        assert isinstance(last, Failed) and last.cancelled
        assert job.trace.end["finish"] == "cancelled" and job.trace.segments


async def test_a_job_that_is_cancelled_again_waits_for_its_worker_and_has_its_trace(broker):
    engine = ScriptedEngine(lambda _: "x" * 3000, seconds_per_token=0.01)
    async with worker(broker, engine=engine):
        async with Runtime(broker.url()) as remote:
            job = await remote.submit(Sequential(prompt="q", max_tokens=3000))
            events = aiter(job)
            while not isinstance(await anext(events), Text):
                pass
            job.cancel("first")
            await asyncio.sleep(0)
            job.cancel("again")
            await asyncio.sleep(0)  # Leaving cancels it once more.
        assert not engine.branches and job.trace.segments
        with pytest.raises(asyncio.CancelledError, match="first"):
            await job


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_a_job_that_is_cancelled_as_its_answer_is_read_has_its_trace(steps, monkeypatch):
    def slow(data, unpack=remote_job.unpack):
        time.sleep(0.05)
        return unpack(data)

    monkeypatch.setattr(remote_job, "unpack", slow)
    async with Runtime(engine=ScriptedEngine("x")) as rt:
        result = await (await rt.submit(SEQUENTIAL))
    job = remote_job.RemoteJob("j", JobSpec.of(SEQUENTIAL), None, lambda reason: False, lambda: None, 3.0)
    await asyncio.sleep(0)
    job.answered(pack_result(result))
    for _ in range(steps):
        await asyncio.sleep(0)
    job.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await job
    assert structure(job.trace) == structure(result.trace)


async def until(holds):
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 14])
async def test_leaving_that_is_cancelled_is_still_leaving(broker, steps):
    """The fixture of all tests looks for tasks that are left."""
    engine = ScriptedEngine(lambda _: "x" * 3000, seconds_per_token=0.01)
    remote = Runtime(broker.url())

    async def leave():
        await remote.__aexit__(None, None, None)

    async with worker(broker, engine=engine, capacity=1) as one:
        await remote.__aenter__()
        jobs = [await remote.submit(Sequential(prompt="q", max_tokens=3000)) for _ in range(3)]
        await until(lambda: any(job.epoch for job in jobs))
        task = asyncio.create_task(leave())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 8)
        assert all(job.is_done for job in jobs) and not remote._link.is_connected
        await until(lambda: not one._desk.beat().jobs and not one._desk.running)


async def test_a_client_that_leaves_is_forgotten_at_once(broker, monkeypatch):
    offer = encode(Offer(epoch=1, job={"method": {"method": "sequential", "prompt": "q"}}))
    async with worker(broker) as one, posted(broker) as post:
        async with Runtime(broker.url()) as remote:
            monkeypatch.setattr(
                remote._link, "_receive", lambda *given: None
            )  # It does not hear of it, as when its last words cross.
            post(offer, "jobs", remote.client, "job-1")
            await until(lambda: one._desk.beat().jobs)
        await until(lambda: not one._desk.beat().jobs)


async def test_a_pool_that_is_opened_again_knows_no_worker_of_the_last_time(broker):
    remote = Runtime(broker.url())
    async with worker(broker), remote:
        await until(lambda: remote.workers)
    broker.stop()
    (broker.folder / "mosquitto.db").unlink()  # It would tell what the client missed.
    broker.start()
    async with remote:
        assert remote.workers == []


async def test_a_worker_that_is_cancelled_begins_no_more(broker):
    engine = ScriptedEngine(lambda _: "x" * 3000, seconds_per_token=0.01)
    async with Runtime(engine=engine) as local, Runtime(broker.url()) as remote:
        one = Worker(local, Address.parse(broker.url()), beat_seconds=0.2)
        task = asyncio.create_task(one.run())
        await until(lambda: remote.workers)
        job = await remote.submit(Sequential(prompt="q", max_tokens=3000))
        while not job.epoch:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0)
        task.cancel()  # Its grant is on the way.
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not local.jobs and not one._tasks


async def test_large_answers_come_in_chunks(broker):
    small = Runtime(broker.url(), packet_bytes=4096)
    async with worker(
        broker, lambda _: "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(3000)), packet_bytes=4096
    ):
        async with small as remote:
            result = await (await remote.submit(Sequential(prompt="q", max_tokens=3000)))
            assert len(result.text) == 3000
            with pytest.raises(InvalidInput, match="packet_bytes"):
                await remote.submit(Sequential(prompt="q" * 5000))


async def test_what_the_broker_does_not_take_is_refused_and_holds_nothing_up(narrow):
    async with worker(narrow, lambda _: "small"), Runtime(narrow.url()) as remote:
        with pytest.raises(InvalidInput, match="9,000"):
            await remote.submit(SEQUENTIAL, metadata={"x": "y" * 20_000})
        job = await remote.submit(SEQUENTIAL, metadata={"x": "y" * 7000})
        assert (await asyncio.wait_for(job, 5)).text == "small"
        assert remote._link.connections == 1


async def test_answers_and_events_are_cut_for_what_the_broker_takes(narrow):
    text = "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(6000))
    engine = ScriptedEngine(lambda _: text, context_limit=10_000)
    async with worker(narrow, engine=engine) as one, Runtime(narrow.url()) as remote:
        job = await remote.submit(Sequential(prompt="q", max_tokens=6000))
        await asyncio.wait_for(text_of(job), 10)
        assert (await job).text == text
        assert one._link.connections == remote._link.connections == 1


async def test_a_job_too_large_for_a_broker_that_came_later_fails_alone(narrow):
    async with Runtime(narrow.url()) as remote:
        remote._link.packet_bytes = 1 << 20  # as when it was submitted
        big = await remote.submit(SEQUENTIAL, metadata={"x": "y" * 20_000})
        remote._link.packet_bytes = 9000
        async with worker(narrow, lambda _: "small"):
            small = await remote.submit(SEQUENTIAL)
            with pytest.raises(InvalidJob, match="9,000"):
                await asyncio.wait_for(big, 5)
            assert (await asyncio.wait_for(small, 5)).text == "small"
        assert remote._link.connections == 1


async def test_a_report_that_cannot_be_cut_fails_its_job_alone(narrow, monkeypatch):
    monkeypatch.setattr("plait.runtime.mqtt.worker_state.Desk.fit", lambda self, size: None)  # so events are not cut
    engine = ScriptedEngine(lambda prompt: "x" * (20_000 if "big" in prompt else 5), context_limit=10**5)
    async with worker(narrow, engine=engine), Runtime(narrow.url()) as remote:
        big = await remote.submit(Sequential(prompt="big", max_tokens=20_000))
        reading = asyncio.create_task(text_of(big))
        with pytest.raises(JobFailed, match="9,000"):
            await asyncio.wait_for(big, 5)
        await reading
        assert (await asyncio.wait_for(await remote.submit(SEQUENTIAL), 5)).text == "xxxxx"
        assert big.epoch == 1


async def test_beats_are_divided_for_what_the_broker_takes(narrow):
    engine = ScriptedEngine(lambda _: "x" * 3000, seconds_per_token=0.01, context_limit=10_000)
    async with worker(narrow, engine=engine, capacity=90) as one, Runtime(narrow.url()) as remote:
        jobs = [await remote.submit(Sequential(prompt="q", max_tokens=3000)) for _ in range(90)]
        await until(lambda: len(one._desk.beat().jobs) == 90)
        assert len(encode(one._desk.beat())) > 9000
        one._beat()
        await one._link.flush(5.0)
        assert not one._stopping.is_set() and one._link.connections == 1
        assert all(job.epoch <= 1 for job in jobs)


@pytest.mark.parametrize(
    ("error", "ends"),
    [(BrokerUnreachable("not authorized", is_refusal=True), True), (InvalidJob("9,500 bytes"), False)],
)
async def test_a_worker_ends_where_it_may_not_beat_but_not_for_the_size_of_one(error, ends):
    one = Worker(Runtime(engine=ScriptedEngine([])), Address.parse("mqtt://host/pool"))
    one._link = object()  # It is not asked.
    one._refused(one.address.topic("workers", one.name), error)
    assert one._stopping.is_set() == ends and (not ends or "beat" in str(one._failure))


async def test_a_broker_that_takes_next_to_nothing_is_one_error(tmp_path):
    broker = Broker(tmp_path, "allow_anonymous true", "max_packet_size 1000")
    broker.start()
    try:
        with pytest.raises(BrokerUnreachable, match="1,000 bytes"):
            async with Runtime(broker.url()):
                pass
    finally:
        broker.stop()


async def test_errors_are_those_of_the_local_runtime(broker):
    async with worker(broker, engine=Failing([])), Runtime(broker.url()) as remote:
        with pytest.raises(JobFailed, match="RuntimeError: no luck"):
            await (await remote.submit(Sequential(prompt="q")))
        job = await remote.submit(Sequential(prompt="q"), id="a/b +#")
        with pytest.raises(InvalidInput, match="is running"):
            await remote.submit(Sequential(prompt="q"), id="a/b +#")
        assert {event.job async for event in job} == {job.id} == {"a/b +#"}
    async with worker(broker), Runtime(broker.url()) as remote:
        job = await remote.submit(Sequential(prompt="q"), id="mine")
        result = await job
        assert result.trace is job.trace and job.trace.header["settings"]["job"] == "mine"


async def test_whatever_a_job_fails_by_is_its_answer(broker, monkeypatch):
    """A panic of a compiled library is no `Exception`, either."""

    class Panic(BaseException):
        pass

    async def run(self, ctx):
        raise raised

    monkeypatch.setattr(Sequential, "run", run)
    async with worker(broker), Runtime(broker.url()) as remote:
        for raised in (GeneratorExit("gone"), Panic("gone"), ValueError("gone")):
            told = f"{type(raised).__name__}: gone"
            job = await remote.submit(SEQUENTIAL)
            with pytest.raises(JobFailed, match=f"^{told}$"):
                await asyncio.wait_for(job, 10)
            assert job.epoch == 1
            if not isinstance(raised, GeneratorExit):  # It leaves no time for a trace.
                assert job.trace.end["error"] == told


async def test_what_a_methods_check_raises_is_that_of_the_local_runtime(broker, monkeypatch):
    monkeypatch.setattr(Sequential, "check", lambda *_: 1 / 0)
    async with worker(broker), Runtime(broker.url()) as remote, Runtime(engine=ScriptedEngine([])) as local:
        for runtime in (remote, local):
            with pytest.raises(InvalidInput, match="^the method 'sequential' cannot be run: ZeroDivisionError"):
                await (await runtime.submit(SEQUENTIAL))


async def test_ids_that_are_drawn_are_none_that_were_given(broker):
    async with Runtime(broker.url()) as remote:
        jobs = [await remote.submit(SEQUENTIAL, id=id) for id in ("job-2", None, "job-4", None)]
        jobs[0].cancel()
        await jobs[0].wait()
        jobs += [await remote.submit(SEQUENTIAL, id="job-2"), await remote.submit(SEQUENTIAL)]
        assert [job.id for job in jobs] == ["job-2", "job-3", "job-4", "job-5", "job-2", "job-7"]


async def test_each_worker_takes_what_it_can_run(broker):
    """One of them has no views, so no Hogwild!: the other gets it, and neither is asked for ever."""
    team = Hogwild(prompt="seq 24 : 63 9 5 2 ;", max_tokens=4)
    async with Runtime("countdown") as able:
        async with worker(broker), Runtime(broker.url()) as remote:
            with pytest.raises(UnsupportedByEngine, match="native"):
                await (await remote.submit(team))
            async with worker(broker, runtime=able):
                while len(remote.workers) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                jobs = [await remote.submit(team, seed=seed) for seed in range(4)]
                jobs += [await remote.submit(Sequential(prompt="q", max_tokens=5)) for _ in range(4)]
                results = await asyncio.gather(*jobs)
                assert [len(result.trace.segments) > 1 for result in results] == [True] * 4 + [False] * 4
            with pytest.raises(UnsupportedByEngine):
                await (await remote.submit(team))
            with pytest.raises(plait.PromptTooLong):
                await (await remote.submit(Sequential(prompt="q" * 5000)))


class Gate(CharTokenizer):
    """Encodes long texts when it may."""

    def __init__(self):
        self.asked, self.may, self.lengths = threading.Event(), threading.Event(), []

    def encode(self, text):
        if len(text) > LONG_PROMPT:
            if threading.current_thread() is not threading.main_thread():
                self.lengths.append(len(text))
            self.asked.set()
            # Once it has been encoded it is known, as for models.
            assert threading.current_thread() is not threading.main_thread() or self.may.is_set()
            assert self.may.wait(20)
        return super().encode(text)


@pytest.fixture
def gated():
    engine = ScriptedEngine(lambda _: "x" * 20, context_limit=8000)
    engine.tokenizer = Gate()
    yield engine
    engine.tokenizer.may.set()


@pytest.mark.parametrize("tokens", [5000, 9000])
async def test_others_go_on_while_a_long_prompt_is_encoded(broker, gated, tokens):
    async with worker(broker, engine=gated) as one, Runtime(broker.url()) as remote:
        long = await remote.submit(Sequential(prompt="q" * tokens))
        await until(gated.tokenizer.asked.is_set)
        assert (await (await remote.submit(Sequential(prompt="q")))).text == "x" * 20
        beaten = one._beaten
        await until(lambda: one._beaten > beaten)
        gated.tokenizer.may.set()
        if tokens < gated.context_limit:
            assert (await long).text == "x" * 20 and long.epoch == 1
        else:
            with pytest.raises(plait.PromptTooLong, match="9001 tokens"):
                await long
    assert not one._checks


async def test_a_job_that_is_gone_is_checked_no_more(broker, gated):
    async with worker(broker, engine=gated) as one, Runtime(broker.url()) as remote:
        jobs = [await remote.submit(Sequential(prompt="q" * tokens)) for tokens in range(5000, 5004)]
        await until(lambda: gated.tokenizer.asked.is_set() and len(one._checks) == 4)
        for job in jobs:
            job.cancel()
        await until(lambda: not one._checks)
        last = await remote.submit(Sequential(prompt="q" * 6000))
        await until(lambda: one._checks)
        gated.tokenizer.may.set()
        assert (await last).text == "x" * 20
        # What has begun goes on in its thread.
        assert gated.tokenizer.lengths[1:] == [6000, 6000]


async def test_a_job_that_has_begun_does_not_wait_for_all_that_are_to_be_checked(broker, gated):
    gate = gated.tokenizer
    gate.may.set()
    async with worker(broker, engine=gated, grace=0.1) as one:

        def offer(tokens):
            job = {"method": Sequential(prompt="q" * tokens).model_dump(mode="json")}
            one._do(one._desk.offer(("c", f"{tokens}"), Offer(epoch=1, job=job), time.monotonic()))

        await until(lambda: one._link is not None and one._link.is_connected)
        offer(5000)
        await until(lambda: not one._checks)
        gate.may.clear()
        offer(6000)
        offer(7000)
        await until(lambda: len(gate.lengths) == 2)
        one._do(one._desk.order(("c", "5000"), Grant(epoch=1), time.monotonic()))
        await asyncio.sleep(0)  # It begins.
        gate.may.set()
        await until(lambda: len(gate.lengths) == 4)
        assert gate.lengths == [5000, 6000, 5000, 7000]


class Panic(BaseException):
    """As of a compiled library."""


class Panicking(CharTokenizer):
    def encode(self, text):
        if text.startswith("bad"):
            raise Panic("no luck")
        return super().encode(text)


@pytest.mark.parametrize("tokens", [10, 5000])
async def test_a_prompt_whose_encoding_panics_fails_alone(broker, tokens):
    engine = ScriptedEngine(lambda _: "x", context_limit=8000)
    engine.tokenizer = Panicking()
    async with worker(broker, engine=engine) as one, Runtime(broker.url()) as remote:
        with pytest.raises(JobFailed, match="Panic: no luck"):
            await asyncio.wait_for(await remote.submit(Sequential(prompt="bad" + "q" * tokens)), 20)
        assert (await (await remote.submit(Sequential(prompt="q" * tokens)))).text == "x"
        assert one._link.connections == 1


class Words(CharTokenizer):
    """Nine characters a token."""

    def encode(self, text):
        return super().encode(text[::9])


async def test_a_prompt_that_fits_is_taken_however_long_its_tokens_are(broker):
    engine = ScriptedEngine(lambda _: "x", context_limit=1000)
    engine.tokenizer = Words()
    async with worker(broker, engine=engine), Runtime(broker.url()) as remote:
        assert (await (await remote.submit(Sequential(prompt="q" * 8500)))).text == "x"
        with pytest.raises(plait.PromptTooLong, match="1001 tokens"):
            await (await remote.submit(Sequential(prompt="q" * 9000)))


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_a_long_prompt_that_is_being_encoded_holds_nobody_up(broker, gated, how):
    async with Runtime(broker.url()) as remote, AsyncExitStack() as other:
        async with worker(broker, engine=gated) as one:
            long = await remote.submit(Sequential(prompt="q" * 5000))
            await until(gated.tokenizer.asked.is_set)
            if how == "cancelled":
                assert long.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(long, 5)
            else:
                await other.enter_async_context(
                    worker(broker, engine=ScriptedEngine(lambda _: "y", context_limit=8000))
                )
            one.stop()
        assert how == "cancelled" or (await long).text == "y"
    assert not one._checks and not one._tasks


async def test_a_worker_that_stops_hands_its_jobs_on(broker):
    async with Runtime(broker.url()) as remote:
        async with worker(broker, lambda _: "x" * 3000, capacity=1, grace=0.1) as first:
            jobs = [await remote.submit(Sequential(prompt="q", max_tokens=3000)) for _ in range(2)]
            await anext(aiter(jobs[0]))
            async with worker(broker, lambda _: "y" * 3000, capacity=1):
                first.stop()
                results = await asyncio.gather(*jobs)
        # The first may have been at its end, but nothing is lost or cut.
        assert {result.text for result in results} <= {"x" * 3000, "y" * 3000}


async def test_no_broker_and_wrong_passwords_are_one_error_at_once(tmp_path):
    with pytest.raises(BrokerUnreachable, match="is it running"):
        async with Runtime("mqtt://127.0.0.1:9/pool"):
            pass
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-b", "-c", passwords, "me", "secret"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    broker.start()
    try:
        began = time.monotonic()
        for user in ("me:wrong@", ""):
            with pytest.raises(BrokerUnreachable):
                async with Runtime(broker.url(user=user)):
                    pass
        assert time.monotonic() - began < 5
        async with Runtime(broker.url(user="me:secret@")) as remote:
            assert remote.workers == []
    finally:
        broker.stop()


async def test_a_worker_waits_at_its_start_for_a_broker_but_not_for_one_that_refuses(tmp_path):
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-b", "-c", passwords, "me", "secret"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    right = broker.url(user="me:secret@")
    async with Runtime(engine=ScriptedEngine(["fine", "fine"])) as local:
        with pytest.raises(BrokerUnreachable, match="is it running"):
            await Worker(local, Address.parse(right), wait=0.3).run()
        stopped = Worker(local, Address.parse(right), wait=60)
        task = asyncio.create_task(stopped.run())
        await asyncio.sleep(0.3)
        stopped.stop()
        await asyncio.wait_for(task, 5)

        one = Worker(local, Address.parse(right), wait=60)
        task = asyncio.create_task(one.run())
        await asyncio.sleep(0.3)
        broker.start()
        try:
            async with Runtime(right) as remote:
                assert (await (await remote.submit(Sequential(prompt="q")))).text == "fine"
            one.stop()
            await task
            with pytest.raises(BrokerUnreachable, match="(?i)not authori"):
                wrong = Worker(local, Address.parse(broker.url(user="me:wrong@")), wait=60)
                await asyncio.wait_for(wrong.run(), 10)
        finally:
            broker.stop()


async def test_a_connection_that_ends_before_the_broker_answers_is_not_waited_for():
    """As when the broker is killed while clients come back."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match="before it answered"):
            async with Runtime(f"mqtt://127.0.0.1:{port}/pool"):
                pytest.fail("connected")
        assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://",
        "http://host/pool",
        "mqtt://host/a+b",
        "mqtt://host:x/p",
        "mqtt://host:0/p",
        "mqtt://host/p?q",
        "mqtt://:password@host/p",
    ],
)
def test_bad_addresses(url):
    with pytest.raises(InvalidInput):
        Address.parse(url)


@pytest.mark.parametrize(
    "options",
    [
        {"lease": "10"},
        {"lease": 2.9},
        {"lease": float("nan")},
        {"max_epochs": 1.5},
        {"max_epochs": True},
        {"max_epochs": 0},
        {"packet_bytes": "5"},
        {"packet_bytes": 4095},
        {"prefix": 5},
        {"user": 5},
        {"password": b"x"},
        {"password": "without a user"},
        {"other": 1},
    ],
)
def test_bad_options_of_a_pool(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Runtime("mqtt://host/pool", **options)


@pytest.mark.parametrize(
    "options",
    [{"capacity": 10_001}, {"capacity": 0}, {"beat_seconds": 0}, {"grace": -1}, {"wait": "x"}, {"name": 5}],
)
def test_bad_options_of_a_worker(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Worker(Runtime(engine=ScriptedEngine([])), Address.parse("mqtt://host/pool"), **options)


async def test_jobs_that_no_worker_takes_are_told_of_once(broker, caplog):
    async with Runtime(broker.url()) as remote:
        remote._state.lease = 0.3
        await asyncio.sleep(0.7)
        assert "no worker" not in caplog.text  # and no job either
        await remote.submit(SEQUENTIAL)
        await until(lambda: "no worker is heard of" in caplog.text)
        await asyncio.sleep(0.7)
    assert caplog.text.count("no worker is heard of") == 1 and "/pool" in caplog.text


POOLS = ["p", "p/jobs", "p/orders", "p/orders/x", "p/workers", "p/reports", "p/clients", "p/jobs/x", "p/orders/x/y"]


@pytest.mark.parametrize("prefix", ["plait", "a/b", "plait/orders"])
@pytest.mark.parametrize("pool", [*POOLS, "jobs", "orders", "orders/x", "orders/x/y"])
def test_no_pool_is_where_the_workers_of_another_read(prefix, pool):
    """Whatever they are called; of all pools above it."""
    root = f"{prefix}/{pool}".split("/")
    said = [["jobs", "c", "j"], ["reports", "c", "j"], ["orders", "w", "c", "j"], ["workers", "w"], ["clients", "c"]]
    read = [["jobs", "+", "+"], ["orders", "+", "+", "+"], ["clients", "+"], ["workers", "+"]]
    above = [root[:depth] for depth in range(2, len(root))]
    is_heard = any(
        len(one) == len(two) and all(b in ("+", a) for a, b in zip(one, two, strict=True))
        for one in (root + levels for levels in said)
        for two in (levels + kinds for levels in above for kinds in read)
    )
    with pytest.raises(InvalidInput, match="the one above") if is_heard else nullcontext():
        assert Address.parse(f"mqtt://host/{pool}", prefix=prefix).topic() == f"{prefix}/{pool}"


def test_addresses_hide_their_password(monkeypatch):
    monkeypatch.setenv("PLAIT_MQTT_PASSWORD", "other")
    address = Address.parse("mqtt://me:s%40crt@host/a/b", prefix="p")
    assert (address.user, address.password, address.topic("jobs")) == ("me", "s@crt", "p/a/b/jobs")
    assert "s@crt" not in repr(address) + str(address)
    assert Address.parse("mqtt://me@host").password == "other" and Address.parse("mqtt://host").password is None


marks = st.text("/?#@:[]%a1", max_size=5)


@given(
    st.sampled_from(["mqtt://", "mqtts://", "mqtt+ws://", "mqtt:/", "mqtt:", "MQTT://", "http://", "//", ""]),
    st.text("mé.", max_size=3),
    marks,
    marks,
    st.text("/?#@:[]%a1+ ", max_size=8),
)
@settings(deadline=None)
def test_no_message_tells_a_password_however_malformed_the_address_is(scheme, user, before, behind, place):
    url = f"{scheme}{user}:{before}Sekr3t{behind}@{place}"
    assert "Sekr3t" not in without_password(url)
    for make in (Address.parse, partial(Runtime, other=1), find_model, refuse_password):
        try:
            told = make(url)
        except PlaitError as error:
            told = error
        assert "Sekr3t" not in f"{told} {told!r}"


@pytest.mark.parametrize(
    "url", ["mqtt://u:Sekr3t/h", "mqtt://u:/Sekr3t@h/p", "mqtt://h/p?password=Sekr3t", "mqtt://h/p#Sekr3t"]
)
def test_nor_what_may_be_one_of_an_address_without_a_user(url):
    with pytest.raises(InvalidInput) as error:
        Address.parse(url)
    assert "Sekr3t" not in str(error.value)


def documented_rights():
    page = (Path(plait.__file__).parent / "docs" / "mqtt.md").read_text()
    return re.search(r"# /etc/mosquitto/acl\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture
def guarded(tmp_path):
    """Starts a broker with these rights, and users whose passwords are their names."""
    passwords, brokers = tmp_path / "passwords", []
    passwords.touch()
    for user in ("service", "worker"):
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, user], check=True, capture_output=True)

    def start(rights, *lines):
        (tmp_path / "acl").write_text(rights)
        lines += ("allow_anonymous false", f"password_file {passwords}", f"acl_file {tmp_path / 'acl'}")
        brokers.append(Broker(tmp_path, *lines))
        brokers[-1].start()
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.stop()


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("pattern read plait/pool/reports/%c/+", "do not answer: may this client read plait/pool/reports/"),
        ("topic read plait/pool/jobs/#", "may they read plait/pool/jobs/#"),
        ("topic read plait/pool/workers/+", "no worker is heard of .* may this client read plait/pool/workers/"),
    ],
)
async def test_rights_to_read_that_are_missing_are_told_of_once(guarded, missing, told, caplog):
    rights = documented_rights()
    assert missing in rights
    broker = guarded(rights.replace(missing, ""))
    async with Runtime(engine=ScriptedEngine(["fine"])) as local:
        one = Worker(local, Address.parse(broker.url(user="worker:worker@")), beat_seconds=0.2)
        task = asyncio.create_task(one.run())
        async with Runtime(broker.url(user="service:service@")) as remote:
            remote._state.lease = 0.7
            job = await remote.submit(Sequential(prompt="q"))
            await until(lambda: "jobs wait" in caplog.text)
            await asyncio.sleep(1)
            job.cancel()
        one.stop()
        await task
    assert len(re.findall(f"jobs wait: .*{told}", caplog.text)) == caplog.text.count("jobs wait") == 1


async def test_a_worker_that_may_not_report_ends(guarded):
    broker = guarded(documented_rights().replace("topic write plait/pool/reports/#", ""))
    async with Runtime(engine=ScriptedEngine(["fine"])) as local:
        task = asyncio.create_task(Worker(local, Address.parse(broker.url(user="worker:worker@"))).run())
        async with Runtime(broker.url(user="service:service@")) as remote:
            await remote.submit(Sequential(prompt="q"))
            with pytest.raises(BrokerUnreachable, match="write plait/pool/reports/"):
                await asyncio.wait_for(task, 10)
            await until(lambda: not remote.workers)


@pytest.mark.parametrize("url", ["mqtt://[::1]:1883/p", "mqtt://host:1/a/b"])
def test_addresses_are_told_as_they_are_given(url):
    assert str(Address.parse(url)) == url


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ca_file": "missing.pem"}, "ca_file 'missing.pem': No such file"),
        ({"ca_file": 5}, "ca_file '5'"),
        ({"ca_file": "a\0b"}, "ca_file"),
        ({"cert_file": "missing.pem"}, "cert_file 'missing.pem': No such file"),
        ({"cert_file": __file__, "key_file": "missing.key"}, "key_file 'missing.key': No such file"),
        ({"key_file": __file__}, "key_file is the key of a cert_file"),
        ({"ca_file": __file__}, "ca_file '.*test_pool.py'"),
        ({"cert_file": __file__}, "cert_file '.*test_pool.py'"),
    ],
)
def test_certificates_that_cannot_be_read_are_named(options, told):
    with pytest.raises(InvalidInput, match=told):
        Address.parse("mqtts://host/pool", **options)


async def test_an_engine_may_have_any_name(broker):
    engine = ScriptedEngine([])
    engine.name = "caf\udce9"  # as a file may
    async with worker(broker, engine=engine) as one, Runtime(broker.url()) as remote:
        await until(lambda: remote.workers == [one.name])


# The MQTT library leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_tls_and_the_access_list_of_the_documentation(tmp_path, guarded):
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    lines = [f"cafile {certificate}", f"certfile {certificate}", f"keyfile {key}"]
    broker = guarded(documented_rights(), *lines)
    url = broker.url().replace("mqtt://", "mqtts://{0}:{0}@")
    with pytest.raises(BrokerUnreachable, match="certificate"):
        async with Runtime(url.format("service")):
            pass
    address = Address.parse(url.format("worker"), ca_file=certificate)
    async with Runtime(engine=ScriptedEngine(["fine"])) as local:
        one = Worker(local, address)
        task = asyncio.create_task(one.run())
        async with Runtime(url.format("service"), ca_file=certificate) as remote:
            assert (await (await remote.submit(Sequential(prompt="q")))).text == "fine"
            remote.address = replace(remote.address, pool="other")  # as if it were taken from it later
            with pytest.raises(BrokerUnreachable, match="(?i)not authori"):
                await asyncio.wait_for(await remote.submit(Sequential(prompt="q")), 5)
        other = url.format("service").replace("/pool", "/other")
        with pytest.raises(BrokerUnreachable, match="(?i)not authori"):
            async with Runtime(other, ca_file=certificate):
                pass
        one.stop()
        await task
        for wrong in (url.format("worker").replace("/pool", "/other"), url.format("service")):
            with pytest.raises(BrokerUnreachable, match="(?i)not authori"):
                await asyncio.wait_for(Worker(local, Address.parse(wrong, ca_file=certificate)).run(), 10)
