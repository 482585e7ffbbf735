"""Keys, limits, bad clients, and an end in good order."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import plait
from plait import InvalidInput, Runtime, UnsupportedByEngine
from plait.runtime.server.guard import OPEN
from plait.runtime.server.keys import Client, Keys
from plait.runtime.server.listener import SECONDS_TO_CLOSE
from plait.runtime.server.problems import Refused
from plait.runtime.server.service import Service
from plait.runtime.server.settings import ServerSettings

from .conftest import serving

ASK = {"model": "countdown", "prompt": "seq 24 : 8 3 1 ;", "max_tokens": 4, "temperature": 0}
LONG = {
    "method": {
        "method": "sequential",
        "prompt": "seq 24 : 8 3 1 ;",
        "temperature": 9,
        "constraint": {"constraint": "regex", "pattern": "[ 0-9]{4000}"},  # no end of sequence before
    }
}


async def raw(served, data, *, wait=5.0):
    """What the server sends back for these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        async with asyncio.timeout(wait):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def lives(served, key="none"):
    async with served.http(key) as http:
        answer = await http.post("/v1/completions", json=ASK)
    assert answer.status_code == 200, answer.text


def test_paths_without_a_key_are_those_that_the_docs_name():
    page = (Path(plait.__file__).parent / "docs" / "server.md").read_text()
    (said,) = re.findall(r"need no key for (.*)\.$", page, re.MULTILINE)
    assert sorted(re.findall(r"`(/[^`]*)`", said)) == sorted(OPEN)


async def test_keys():
    async with serving("# who\nann first jobs=2\nbob second tokens=6\n") as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first"}):
            async with httpx.AsyncClient(base_url=served.url, headers=headers) as http:
                answer = await http.post("/v1/completions", json=ASK)
                assert answer.status_code == 401
                assert answer.json()["error"]["type"] == "authentication_error"
                assert (await http.get("/metrics")).status_code == 401
                assert (await http.get("/health")).status_code == 200
        async with served.http("first") as ann, served.http("second") as bob:
            id = (await ann.post("/v1/jobs", json={"method": {**LONG["method"], "max_tokens": 1}})).json()["id"]
            assert (await bob.get(f"/v1/jobs/{id}")).status_code == 404
            assert (await bob.get("/v1/jobs")).json()["data"] == []
            first = await bob.post("/v1/completions", json=ASK)
            second = await bob.post("/v1/completions", json=ASK)
            third = await bob.post("/v1/completions", json=ASK)
            await ann.delete(f"/v1/jobs/{id}")
    assert first.json()["usage"]["completion_tokens"] == 4
    assert second.json()["usage"]["completion_tokens"] == 2  # what was left of six
    assert third.status_code == 429
    assert third.json()["error"]["code"] == "insufficient_quota"


async def test_requests_reserve_no_more_tokens_than_they_can_spend():
    async with serving("bob key tokens=1000") as served, served.http("key") as http:
        several = await http.post("/v1/completions", json={**ASK, "prompt": [ASK["prompt"]] * 12, "n": 2})
        answers = await asyncio.gather(*(http.post("/v1/completions", json=ASK) for _ in range(14)))
        echoed = await http.post("/v1/completions", json={**ASK, "echo": True, "logprobs": 0})
        client = served.service.keys.find("Bearer key")
        assert client.reserved == 0 and client.spent == 24 * 4 + 14 * 4 + echoed.json()["usage"]["prompt_tokens"] + 3
    assert {answer.status_code for answer in (several, echoed, *answers)} == {200}


async def test_reserved_tokens_are_waited_for_and_spent_ones_are_not():
    async with serving("bob key tokens=100") as served, served.http("key") as http:
        id = (await http.post("/v1/jobs", json=LONG)).json()["id"]
        reserved = await http.post("/v1/completions", json=ASK)
        await http.delete(f"/v1/jobs/{id}")
        client = served.service.keys.find("Bearer key")
        client.spent = 95
        last = await http.post("/v1/completions", json={**ASK, "prompt": [ASK["prompt"]] * 2})
        spent = await http.post("/v1/completions", json={**ASK, "prompt": [ASK["prompt"]] * 2})
    assert (reserved.status_code, reserved.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert reserved.headers["retry-after"] == "1"
    assert last.json()["usage"]["completion_tokens"] == 4  # equal shares of five
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "retry-after" not in spent.headers


TOKENS = st.integers(0, 40)


@example(tokens=9, spent=0, reserved=0, wanted=[None, 0], width=1)
@example(tokens=3, spent=0, reserved=0, wanted=[20], width=4)
@given(
    tokens=TOKENS,
    spent=TOKENS,
    reserved=TOKENS,
    wanted=st.lists(st.none() | TOKENS, min_size=1, max_size=5),
    width=st.integers(1, 5),
)
def test_no_more_is_reserved_than_is_left(tokens, spent, reserved, wanted, width):
    client = Client(name="ann", max_jobs=9, tokens=tokens, spent=spent, reserved=reserved)
    left = client.left
    try:
        got = client.reserve(wanted, width)
    except Refused as error:
        # What is refused for good would not fit either if nobody else had reserved anything.
        assert client.reserved == reserved and bool(error.headers) == bool(reserved)
        assert reserved or left // len(wanted) < width
        return
    assert 0 < left and sum(got) <= left and client.reserved == reserved + sum(got)
    most = [tokens if one is None else one for one in wanted]
    assert got == (most if sum(most) <= left else [min(one, left // len(wanted)) for one in most])


@pytest.mark.parametrize("how", [{"n": 4}, {"model": "countdown:sc4"}, {"n": 2, "model": "countdown:sc2"}])
async def test_a_key_with_less_than_a_token_for_each_text_has_used_up_its_tokens(how):
    async with serving("bob key tokens=7") as served, served.http("key") as http:
        first = await http.post("/v1/completions", json={**ASK, **how})
        second = await http.post("/v1/completions", json={**ASK, **how})
        last = await http.post("/v1/completions", json=ASK)
        client = served.service.keys.find("Bearer key")
    assert first.json()["usage"]["completion_tokens"] == 4  # equal shares of seven
    assert (second.status_code, second.json()["error"]["code"]) == (429, "insufficient_quota")
    assert last.json()["usage"]["completion_tokens"] == 3 and (client.spent, client.left) == (7, 0)


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        "ann key jobs=x",
        "ann key jobs=0",
        "ann key more=1",
        "ann a\nann b",
        "ann a jobs=1\nbob a",
        "ann a jobs=1 jobs=9",
        f"ann a tokens={'9' * 5000}",
    ],
)
def test_malformed_keys(line):
    with pytest.raises(InvalidInput, match="line"):
        Keys(line.splitlines())


def test_keys_are_told_apart():
    keys = Keys(["ann first", "bob second jobs=3"])
    assert keys.find("Bearer first").name == "ann"
    assert keys.find("bearer second").max_jobs == 3
    assert Keys(["# a comment", "ann a#b # and another"]).find("Bearer a#b").name == "ann"
    for wrong in (None, "", "Bearer", "Bearer  ", "Basic first", "Bearer firs", "Bearer \udcff"):
        with pytest.raises(Refused):
            keys.find(wrong)
    # Headers are bytes; the last of this one would be a space.
    header = "Bearer schl\u00fcssel\u00e0".encode().decode("latin-1")
    assert Keys(["zo\u00eb schl\u00fcssel\u00e0"]).find(header).name == "zo\u00eb"


async def test_jobs_of_a_key_and_of_all_are_limited():
    async with serving("a a jobs=2\nb b jobs=9", max_running=1, max_queued=1) as served:
        async with served.http("a") as a, served.http("b") as b:
            answers = [await a.post("/v1/jobs", json={**LONG, "budget": {"seconds": 20.0}}) for _ in range(3)]
            other = await b.post("/v1/jobs", json=LONG)
            states = [(await a.get(f"/v1/jobs/{one.json()['id']}")).json()["state"] for one in answers[:2]]
            metrics = (await a.get("/metrics")).text
            for one in reversed(answers[:2]):
                assert (await a.delete(f"/v1/jobs/{one.json()['id']}")).json()["state"] == "cancelled"
    assert [one.status_code for one in answers] == [202, 202, 429]
    assert other.status_code == 503
    assert states == ["running", "queued"]
    for state in ("running", "queued"):
        assert f'plait_jobs_{state}{{method="sequential"}} 1.0' in metrics


async def test_the_queue_is_limited_at_any_moment():
    async with serving(max_running=1, max_queued=1) as served, served.http() as http:
        answers = await asyncio.gather(*(http.post("/v1/completions", json=ASK) for _ in range(6)))
        several = [await http.post("/v1/completions", json={**ASK, "prompt": [ASK["prompt"]] * n}) for n in (2, 3)]
        assert served.service.active == []
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [503] * 4
    assert {one.headers.get("retry-after") for one in answers} == {None, "5"}
    # More than ever fit are no matter of waiting.
    assert [answer.status_code for answer in several] == [200, 400]


async def test_bodies():
    async with serving(max_body=1000) as served, served.http() as http:
        large = await http.post("/v1/completions", json={**ASK, "prompt": "8 " * 1000})

        async def pieces():
            for _ in range(100):
                yield b"8 " * 100

        chunked = await http.post("/v1/completions", content=pieces())
        for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 900):
            answer = await http.post("/v1/completions", content=content)
            assert answer.status_code == 400 and answer.json()["error"]["message"], content[:20]
        packed = await http.post("/v1/completions", content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
        plain = await http.post("/v1/completions", json=ASK, headers={"Content-Encoding": "identity"})
        nowhere = await http.get("/v2/nothing")
    assert large.status_code == chunked.status_code == 413
    assert (packed.status_code, packed.json()["error"]["code"], plain.status_code) == (415, "body_compressed", 200)
    assert nowhere.status_code == 404 and nowhere.json()["error"]["type"] == "not_found_error"


async def test_slow_bodies():
    async with serving(body_seconds=0.3) as served:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"
        assert (await raw(served, head)).startswith(b"HTTP/1.1 408 ")
        await lives(served)


async def test_slow_headers_and_nonsense(caplog):
    async with serving(header_seconds=0.3) as served:
        slow = await asyncio.gather(*(raw(served, b"POST /v1/completions HTTP/1.1\r\nhost") for _ in range(20)))
        nothing = await raw(served, b"")
        nonsense = await raw(served, b"\x16\x03\x01\r\n\r\n")
        await lives(served)
    assert {answer.split(b" ")[1] for answer in (*slow, nothing)} == {b"408"}
    assert json.loads(slow[0].partition(b"\r\n\r\n")[2])["error"]["code"] == "slow"
    assert nonsense.startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_many_connections_at_once():
    async with serving(max_running=8, jobs_per_key=500) as served:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits) as http:
            answers = await asyncio.gather(*(http.post("/v1/completions", json=ASK) for _ in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        assert served.used == 0 and not served.service.works


@pytest.mark.parametrize("state", ["done", "cancelled"])
async def test_running_jobs_end_before_the_server_does(state):
    async with serving(drain_seconds=30 if state == "done" else 0.05) as served, served.http() as http:
        method = {**LONG["method"], "max_tokens": 20 if state == "done" else 500}
        work = served.service.find(
            served.service.keys.find(None), (await http.post("/v1/jobs", json={"method": method})).json()["id"]
        )
        served.listener.stop()
        await asyncio.sleep(0)
        refused, health = await asyncio.gather(http.post("/v1/completions", json=ASK), http.get("/health"))
        assert refused.status_code == health.status_code == 503
        await work.wait()
        assert work.state == state


async def test_a_second_signal_cancels_jobs_at_once(caplog):
    ask = {**ASK, "max_tokens": 4000, "structured_outputs": {"regex": "[ 0-9]{4000}"}}
    async with serving(max_running=2) as served, served.http() as http:
        asked = [http.post("/v1/completions", json={**ask, "stream": streamed}) for streamed in (False, True, False)]
        answers = [asyncio.create_task(one) for one in asked]
        while sum(work.state == "running" for work in served.service.active) < 2 or len(served.service.active) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        served.listener.stop()
        await asyncio.sleep(0.05)
        assert len(served.service.active) == 3
        began = time.monotonic()
        served.listener.stop()
        running, streamed, queued = await asyncio.gather(*answers)
        assert time.monotonic() - began < SECONDS_TO_CLOSE - 1
    assert {(one.status_code, one.json()["error"]["code"]) for one in (running, queued)} == {(503, "cancelled")}
    assert json.loads(streamed.text.strip().rpartition("data: ")[2])["error"]["code"] == "cancelled"
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_two_signals_at_once_end_the_server():
    async with serving() as served, served.http() as http:
        await http.post("/v1/jobs", json=LONG)
        served.listener.stop()
        served.listener.stop()
        async with asyncio.timeout(5):
            await served.listener._drain
        assert served.listener.should_exit and not served.service.active


def test_the_command(tmp_path):
    (tmp_path / "keys").write_text("ann secret\n")
    command = [sys.executable, "-m", "plait", "serve", "countdown", "--port", "0", "--keys", str(tmp_path / "keys")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        url = re.search(r"http://[\d.:]+", line)[0]
        headers = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{url}/v1/completions", json=ASK, headers=headers, timeout=30)
        assert answer.status_code == 200
        assert httpx.post(f"{url}/v1/completions", json=ASK).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


WRONG = {
    "0.0.0.0 can be reached": ["--host", "0.0.0.0"],
    "max_body": ["--set", "max_body=0"],
    "nonsense": ["--set", "nonsense=1"],
    "unknown method 'aprr'; known: apr": ["--allow", "tree_search", "--allow", "aprr"],
    "unknown method 'sc'; known: apr": ["--set", 'methods=["apr", "sc"]'],
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_options_of_the_command(said, capsys):
    from plait.runtime.cli.main import main

    assert main(["serve", "countdown", *WRONG[said]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("plait: ") and said in error


def test_a_pool_is_not_served():
    """Known before anybody can send a request."""
    pytest.importorskip("aiomqtt")
    with pytest.raises(UnsupportedByEngine, match="the engines of a pool are its workers'"):
        Service(Runtime("mqtt://localhost/pool"), "pool", ServerSettings(), Keys())
