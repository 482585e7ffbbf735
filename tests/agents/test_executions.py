"""Executions: each pair once, whoever asks; deadlines; what is shown of outputs."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput, ScriptedEngine
from plait.agents.executions import Executions, all_of, shorten
from plait.agents.folder import Folder
from plait.agents.repository import Snapshot
from plait.agents.sandbox.base import SANDBOXES, Execution, Sandbox
from plait.tests.runtime.tools import context


class Counting(Sandbox):
    """Waits, and counts."""

    sandbox: Literal["test_counting"] = "test_counting"

    def check(self):
        pass

    async def run(self, command, snapshot, *, files=None, inside=False, limits=None):
        STATE["running"] += 1
        STATE["peak"] = max(STATE["peak"], STATE["running"])
        STATE["runs"] += 1
        try:
            await asyncio.sleep(min(STATE["seconds"], limits.seconds))
        finally:
            STATE["running"] -= 1
        late = limits.seconds < STATE["seconds"]
        return Execution(
            exit_code=1 if late else 0, output=snapshot.patch, seconds=0, ended="timeout" if late else "exit"
        )


SANDBOXES.add(Counting)
STATE: dict[str, float] = {}


@pytest.fixture(autouse=True)
def _fresh():
    STATE.update(running=0, peak=0, runs=0, seconds=0.01)


def executions(tmp_path, *, seconds=10.0, at_once=2, deadline=None, keeps=False):
    def snapshot(patch):
        return Snapshot(repository=tmp_path, commit="c", patch=patch)

    folder = Folder(None)
    folder.path = tmp_path / "f" if keeps else None
    return Executions(Counting(), snapshot, folder, seconds=seconds, at_once=at_once, deadline=deadline)


async def test_the_same_is_run_once_however_many_ask_and_so_many_at_a_time(tmp_path):
    runs = executions(tmp_path)
    async with context(ScriptedEngine("")) as ctx:
        branch = ctx.open([2])
        found = await all_of(runs.test(f"t{i % 3}", f"p{i % 2}", branch, on="x") for i in range(24))
    assert STATE["runs"] == runs.count == 6 and STATE["peak"] == 2
    assert [one.output for one in found] == [f"p{i % 2}" for i in range(24)]
    assert len(ctx.state.trace.tools) == 24 and all(tool.ok for tool in ctx.state.trace.tools)


async def test_a_kept_execution_is_not_run_again(tmp_path):
    async with context(ScriptedEngine("")) as ctx:
        branch = ctx.open([2])
        first = await executions(tmp_path, keeps=True).test("t", "p", branch, on="x")
        runs = executions(tmp_path, keeps=True)
        assert await runs.test("t", "p", branch, on="x") == first and (STATE["runs"], runs.count) == (1, 0)
        await executions(tmp_path, keeps=True, seconds=5).test("t", "p", branch, on="x")
        assert STATE["runs"] == 2, "within other limits it may end otherwise"


@pytest.mark.parametrize("damaged", [{}, [], {"exit_code": 0}, {"exit_code": "x", "output": "", "seconds": 0}])
async def test_a_damaged_execution_is_said(tmp_path, damaged):
    async with context(ScriptedEngine("")) as ctx:
        branch = ctx.open([2])
        await executions(tmp_path, keeps=True).test("t", "p", branch, on="x")
        (file,) = (tmp_path / "f/runs").iterdir()
        file.write_text(json.dumps(damaged))
        with pytest.raises(InvalidInput, match=f"{file.name} is damaged"):
            await executions(tmp_path, keeps=True).test("t", "p", branch, on="x")


async def test_what_the_deadline_ends_is_not_kept(tmp_path):
    STATE["seconds"] = 0.3
    now = asyncio.get_running_loop().time()
    async with context(ScriptedEngine("")) as ctx:
        branch = ctx.open([2])
        short = executions(tmp_path, keeps=True, deadline=now + 0.1)
        assert (await short.test("t", "p", branch, on="x")).ended == "deadline"
        assert (await short.test("t", "p", branch, on="x")).ended == "deadline" and STATE["runs"] == 1, "it is over"
        assert (await executions(tmp_path, keeps=True).test("t", "p", branch, on="x")).ended == "exit"
        ended = await executions(tmp_path, seconds=0.1, deadline=now + 60).test("t", "p", branch, on="x")
        assert ended.has_timed_out, "its own limit is none of the deadline's"


async def test_one_that_waits_takes_over_from_one_that_is_cancelled(tmp_path):
    STATE["seconds"] = 0.1
    runs = executions(tmp_path)
    async with context(ScriptedEngine("")) as ctx:
        branch = ctx.open([2])
        first, second = (asyncio.create_task(runs.test("t", "p", branch, on="x")) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        assert (await second).exit_code == 0 and STATE["runs"] == 2 and STATE["running"] == 0


async def test_an_error_of_one_ends_all():
    started = asyncio.Event()

    async def endless():
        started.set()
        await asyncio.sleep(60)

    async def broken():
        await started.wait()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await all_of([endless(), broken()])


@given(st.text(max_size=60), st.integers(2, 40))
def test_a_shortened_output_keeps_both_ends(text, chars):
    found = shorten(text, chars)
    half = chars // 2
    if len(text) <= chars:
        assert found == text
    else:
        assert found.startswith(text[:half]) and found.endswith(text[-half:])
        assert f"{len(text) - 2 * half} characters left out" in found
