"""Waiting for a request's jobs, and streams of what they say."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest

from plait import JobSpec, Sequential
from plait.runtime.server import streams
from plait.runtime.server.keys import Client
from plait.runtime.server.streams import finish, unless_gone
from plait.runtime.server.work import Work


class Watched(Work):
    """A job that nobody runs: it ends when it is told to, or cancelled."""

    def __init__(self, id):
        super().__init__(id, Client(name="ann", max_jobs=9), JobSpec(method=Sequential(prompt="x")))
        self.reasons = []

    def cancel(self, reason="cancelled"):
        self.reasons.append(reason)
        self.end("cancelled")
        return True


@pytest.mark.parametrize("failing", [0, 2])
async def test_the_first_that_fails_ends_the_others(failing):
    works = [Watched(f"job-{n}") for n in range(3)]
    waiting = asyncio.create_task(finish(works))
    await asyncio.sleep(0)
    works[failing].end("failed", RuntimeError("no luck"))
    await asyncio.wait_for(waiting, 5)
    assert [len(work.reasons) for work in works] == [n != failing for n in range(3)]


async def test_all_are_waited_for():
    works = [Watched(f"job-{n}") for n in range(3)]
    waiting = asyncio.create_task(finish(works))
    for work in reversed(works):
        await asyncio.sleep(0.01)
        assert not waiting.done()
        work.result = object()
        work.end("done")
    await asyncio.wait_for(waiting, 5)
    assert not any(work.reasons for work in works)


async def test_who_stops_waiting_ends_all():
    works = [Watched(f"job-{n}") for n in range(3)]
    waiting = asyncio.create_task(finish(works))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(work.reasons for work in works)


class Leaving:
    """A request whose client goes away at once."""

    async def receive(self):
        return {"type": "http.disconnect"}


async def test_who_is_cancelled_while_what_was_wanted_ends_does_not_go_on():
    async def slow():
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.05)

    waiting = asyncio.create_task(unless_gone(Leaving(), slow()))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_was_wanted_raises_its_error():
    async def broken():
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        await unless_gone(Leaving(), broken())


async def test_parts_that_are_there_already_hold_nobody_up(monkeypatch):
    async def read(answer, work, parts):
        for part in [*["data"] * 50, None]:
            parts.put_nowait(part)

    monkeypatch.setattr(streams, "_read", read)
    loop, turns = asyncio.get_running_loop(), []

    def turn():
        turns.append(loop.call_soon(turn))

    turn()
    answer = SimpleNamespace(works=[SimpleNamespace(is_over=True, result="any")])
    seen = [len(turns) async for _ in streams.answer_stream(answer, usage=False)]
    turns[-1].cancel()
    assert len(seen) == 51 and all(before < after for before, after in pairwise(seen))
