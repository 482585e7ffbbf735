"""`/v1/jobs`: jobs as plait describes them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from types import SimpleNamespace

import pytest

import plait
from plait.runtime.engines.loading import load_in_thread
from plait.runtime.engines.registry import load_engine
from plait.runtime.events import parse_event
from plait.runtime.server import jobs, service
from plait.runtime.server.streams import COMMENT, sse
from plait.runtime.server.work import AT_A_TIME, Work

from .conftest import serving
from .test_guard import LONG

JOB = {"method": {"method": "apr", "prompt": "apr 24 : 9 8 7 2 ;", "dialect": "compact", "temperature": 0}, "seed": 3}


async def ended(http, id):
    while (state := (await http.get(f"/v1/jobs/{id}")).json())["ended"] is None:  # noqa: ASYNC110  # as clients do
        await asyncio.sleep(0.02)
    return state


async def events(http, id, last=None):
    """All numbered events, with what the stream itself calls them."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    text = (await http.get(f"/v1/jobs/{id}/events", headers=headers)).text
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "id" in lines:
            event = parse_event(json.loads(lines["data"]))
            assert event.type == lines["event"]
            found.append((int(lines["id"]), event))
    return found


async def test_a_job_from_submission_to_trace(served, tmp_path):
    async with served.http() as http:
        answer = await http.post("/v1/jobs", json=JOB)
        assert answer.status_code == 202
        id = answer.json()["id"]
        all_events = await events(http, id)
        state = await ended(http, id)
        result = (await http.get(f"/v1/jobs/{id}/result")).json()
        (tmp_path / "trace").write_text((await http.get(f"/v1/jobs/{id}/trace")).text)
        rest = await events(http, id, last=7)
        listed = (await http.get("/v1/jobs")).json()["data"]
    async with plait.Runtime("countdown") as runtime:
        mine = await (await runtime.submit(plait.parse_job(json.dumps(JOB))))
    assert (result["text"], result["answer"]) == (mine.text, mine.answer)
    assert state["state"] == "done" and state["usage"]["total_tokens"] == mine.usage.total_tokens
    assert [number for number, _ in all_events] == list(range(1, state["events"] + 1))
    assert all_events[0][1].type == "started" and all_events[-1][1].type == "done"
    assert rest == all_events[7:]
    assert plait.Trace.load(tmp_path / "trace").end["answer"] == mine.answer
    assert [job["id"] for job in listed] == [id]


async def test_cancel_frees_what_a_job_holds(served):
    async with served.http() as http:
        id = (await http.post("/v1/jobs", json=LONG)).json()["id"]
        early = await http.get(f"/v1/jobs/{id}/result")
        state = (await http.delete(f"/v1/jobs/{id}")).json()
        again = await http.get(f"/v1/jobs/{id}/result")
    assert early.status_code == 409
    assert state["state"] == "cancelled"
    assert again.status_code == 409
    told = [(error["type"], error["code"]) for error in (early.json()["error"], again.json()["error"])]
    assert told == [("invalid_request_error", "not_ended"), ("invalid_request_error", "cancelled")]
    assert served.used == 0


async def test_readers_of_a_job_that_never_began_are_told_its_end():
    async with serving(max_running=1) as served, served.http() as http:
        running, queued = [(await http.post("/v1/jobs", json=LONG)).json()["id"] for _ in range(2)]
        reader = asyncio.create_task(events(http, queued))
        await asyncio.sleep(0.05)
        early = await http.get(f"/v1/jobs/{queued}/trace")
        state = (await http.delete(f"/v1/jobs/{queued}")).json()
        late = await http.get(f"/v1/jobs/{queued}/trace")
        await http.delete(f"/v1/jobs/{running}")
        assert (state["state"], state["events"]) == ("cancelled", 1)
        told = [(one.status_code, one.json()["error"]["code"]) for one in (early, late)]
        assert told == [(409, "not_ended"), (404, "no_trace")]
        for [(number, event)] in (await reader, await events(http, queued)):
            assert (number, event.type, event.job, event.cancelled) == (1, "failed", queued, True)


async def test_readers_come_and_go_and_cancelling_frees_within_a_second(served):
    method = {**LONG["method"], "method": "self_consistency", "n": 8}
    async with served.http() as http:
        id = (await http.post("/v1/jobs", json={"method": method})).json()["id"]
        for _ in range(2):  # Leaving its events does not end a job.
            async with http.stream("GET", f"/v1/jobs/{id}/events") as reader:
                async for line in reader.aiter_lines():
                    if line == "event: text":
                        break
        assert served.used > 0
        rest = asyncio.create_task(events(http, id))
        await asyncio.sleep(0.1)
        assert (await http.get(f"/v1/jobs/{id}")).json()["state"] == "running"
        began = time.perf_counter()
        await http.delete(f"/v1/jobs/{id}")
        assert served.used == 0 and time.perf_counter() - began < 1
        assert (await rest)[-1][1].cancelled


async def test_who_makes_room_for_others_is_counted():
    engine = await load_in_thread(lambda: load_engine("countdown", {"kv_tokens": 256}))
    async with serving(engine=engine) as served, served.http() as http:
        ask = {
            "model": "countdown",
            "prompt": "seq 24 : 8 3 1 ;",
            "max_tokens": 200,
            "n": 8,
            "temperature": 9,
            "seed": 1,
        }
        answer = (await http.post("/v1/completions", json=ask)).json()
        metrics = (await http.get("/metrics")).text
    assert not any(choice["plait"]["finish"] == "memory" for choice in answer["choices"])
    times = answer["usage"]["plait"]["preemptions"]
    assert times > 0
    assert f'plait_preemptions_total{{method="sequential"}} {times}.0' in metrics


async def test_reading_the_events_of_a_long_job_holds_nobody_up(served, monkeypatch):
    """Nor does it go on when the reader has gone."""
    loop, told, turns = asyncio.get_running_loop(), [], []
    monkeypatch.setattr(jobs, "sse", lambda *event, **how: told.append(len(turns)) or sse(*event, **how))

    def turn():
        turns.append(loop.call_soon(turn))

    async with served.http() as http:
        id = (await http.post("/v1/jobs", json=JOB)).json()["id"]
        await ended(http, id)
    work = served.service.works[id]
    work.events *= 20_000 // len(work.events)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    turn()
    writer.write(f"GET /v1/jobs/{id}/events HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await reader.readexactly(2000)
    writer.transport.abort()
    while served.listener.server_state.tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    turns[-1].cancel()
    assert max(Counter(told).values()) <= AT_A_TIME and len(told) < len(work.events) / 2


async def test_readers_of_a_silent_job_are_told_that_it_goes_on(monkeypatch):
    monkeypatch.setattr(jobs, "PULSE", 0.01)
    told = jobs._events(Work("job-1", None, None), 0)
    assert [await anext(told), await anext(told)] == [COMMENT] * 2
    await told.aclose()


async def test_ended_jobs_are_kept_by_number():
    async with serving(keep_jobs=2) as served, served.http() as http:
        ids = []
        for _ in range(4):
            ids.append((await http.post("/v1/jobs", json={"method": {**LONG["method"], "max_tokens": 1}})).json()["id"])
            await ended(http, ids[-1])
        listed = (await http.get("/v1/jobs")).json()["data"]
        gone = await http.get(f"/v1/jobs/{ids[0]}")
    assert [job["id"] for job in listed] == [ids[3], ids[2]]
    assert gone.status_code == 404


@pytest.mark.parametrize(("clock", "passed", "is_kept"), [("time", 10**6, True), ("monotonic", 10**6, False)])
async def test_ended_jobs_are_kept_for_a_time_whatever_the_clock_is_set_to(clock, passed, is_kept, monkeypatch):
    async with serving() as served, served.http() as http:
        number = (await http.post("/v1/jobs", json={"method": {**LONG["method"], "max_tokens": 1}})).json()["id"]
        await ended(http, number)
        real = getattr(service.time, clock)
        monkeypatch.setattr(service, "time", SimpleNamespace(time=time.time, monotonic=time.monotonic))
        monkeypatch.setattr(service.time, clock, lambda: real() + passed)
        found = await http.get(f"/v1/jobs/{number}")
    assert (found.status_code == 200) == is_kept


@pytest.mark.parametrize(
    ("raised", "status", "message", "event"),
    [
        (KeyError("boom"), 500, "internal error", "internal error"),
        (plait.JobFailed("no luck"), 500, "no luck", "JobFailed: no luck"),
        (plait.InvalidInput("no luck"), 400, "no luck", "InvalidInput: no luck"),
    ],
)
async def test_what_a_job_fails_by_is_told_in_the_same_words_everywhere(
    served, monkeypatch, raised, status, message, event
):
    async def run(self, ctx):
        raise raised

    monkeypatch.setattr(plait.Sequential, "run", run)
    method = {"method": "sequential", "prompt": "?"}
    async with served.http() as http:
        id = (await http.post("/v1/jobs", json={"method": method})).json()["id"]
        assert (await ended(http, id))["error"] == message
        assert [one.error for _, one in await events(http, id) if one.type == "failed"] == [event]
        trace = (await http.get(f"/v1/jobs/{id}/trace")).text.splitlines()
        assert json.loads(trace[-1])["error"] == event
        result = await http.get(f"/v1/jobs/{id}/result")
        asked = {"model": "countdown", "prompt": "?", "method": method}
        completion = await http.post("/v1/completions", json=asked)
        for answer in (result, completion):
            assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
        assert served.used == 0


async def test_malformed_jobs(served):
    bodies = [b"", b"{", b"[" * 100_000, b"[]", b"{}", b'{"method": {"method": "none"}}', b"\xff", b'{"method": 3}']
    async with served.http() as http:
        for content in bodies:
            answer = await http.post("/v1/jobs", content=content)
            assert answer.status_code == 400, content[:40]
            assert answer.json()["error"]["message"]
        forbidden = await http.post("/v1/jobs", json={"method": {"method": "code_monkeys"}})
        inner = {"method": "tree_search", "prompt": "x", "reward": "prm:/"}
        inside = {"method": "self_consistency", "prompt": "x", "generator": inner}
        hidden = await http.post("/v1/jobs", json={"method": {"method": "apr", "prompt": "x", "generator": inside}})
        number = (await http.post("/v1/jobs", json=JOB)).json()["id"]
        header = await http.get(f"/v1/jobs/{number}/events", headers={"Last-Event-ID": "x"})
        await http.delete(f"/v1/jobs/{number}")
    assert forbidden.status_code == hidden.status_code == 403
    assert header.status_code == 400
