"""An engine in a process or an event loop that is not its own."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref

import pytest

from plait import EngineClosed, Runtime, ScriptedEngine, Sequential
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.registry import find_model
from plait.runtime.jobs.job import Job

FORK = """
import asyncio, os, sys
from plait import EngineClosed, Runtime, Sequential

async def use(runtime):
    async with runtime:
        return (await (await runtime.submit(Sequential(prompt="seq 24 : 9 8 3 1 ;", max_tokens=2)))).text

async def parent():
    options = {"num_threads": 2, "kv_tokens": 4096}
    async with Runtime("countdown", **options) as runtime:
        await (await runtime.submit(Sequential(prompt="seq 24 : 9 8 3 1 ;", max_tokens=2)))
        child = os.fork()
        if child == 0:
            try:
                runtime.engine.open([1])
            except EngineClosed as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    child = os.fork()
    if child == 0:
        try:
            asyncio.events._set_running_loop(None)
            asyncio.run(use(Runtime("countdown", **options)))
        except EngineClosed as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

asyncio.run(parent())
sys.stdout.write("ended")
"""

CLOSED = """
import asyncio, sys, time
from plait import Runtime, Sequential

loop = asyncio.new_event_loop()

async def begin():
    runtime = Runtime("countdown", kv_tokens=4096)
    await runtime.__aenter__()
    job = await runtime.submit(Sequential(prompt="seq 24 : 9 8 3 1 ;", max_tokens=400))
    await asyncio.sleep(0.05)
    return runtime

runtime = loop.run_until_complete(begin())
for task in asyncio.all_tasks(loop):
    task.cancel()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
runtime.engine.wake()
time.sleep(0.5)
sys.stdout.write("ended")
"""

ABANDONED = """
import asyncio, atexit, sys, threading
atexit.register(lambda: sys.stdout.write("ended" if threading.active_count() == 1 else "threads are left"))
from plait import Runtime

loop = asyncio.new_event_loop()
runtime = Runtime("countdown", kv_tokens=4096)
loop.run_until_complete(runtime.__aenter__())
loop.close()
"""


@pytest.mark.parametrize("script", [FORK, CLOSED, ABANDONED], ids=["fork", "closed loop", "abandoned"])
def test_in_a_process(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "ended"), done.stderr
    assert "Traceback" not in done.stderr


async def test_an_engine_that_is_closed_is_let_go():
    """Nor does the end of the process wait for it any more."""
    runtime = Runtime("countdown", kv_tokens=4096)
    async with runtime:
        engine = weakref.ref(runtime.engine)
    del runtime
    gc.collect()
    assert engine() is None


async def other_loop(call):
    """Awaits it in another event loop."""
    return await asyncio.to_thread(lambda: asyncio.run(call()))


async def test_a_runtime_used_from_another_loop():
    async with Runtime(engine=ScriptedEngine(["a"])) as runtime:
        with pytest.raises(EngineClosed, match="another event loop"):
            await other_loop(lambda: runtime.submit(Sequential(prompt="x")))
        assert not runtime.jobs
        await (await runtime.submit(Sequential(prompt="x", max_tokens=1)))


async def awaited(job):
    return await job


async def read(job):
    return [event async for event in job]


async def test_a_running_job_used_from_another_loop():
    async with Runtime(engine=ScriptedEngine(["a"] * 20, seconds_per_token=0.05)) as runtime:
        job = await runtime.submit(Sequential(prompt="x"))
        await asyncio.sleep(0)
        for use in (awaited, read, Job.wait):
            with pytest.raises(EngineClosed, match="another event loop"):
                await other_loop(lambda use=use: asyncio.wait_for(use(job), 5))
        assert not job.is_done
        result = await job
    # What has ended wakes nobody any more: its own loop is not needed.
    assert await other_loop(lambda: awaited(job)) is result
    assert [event.type for event in await other_loop(lambda: read(job))] == ["done"]
    await other_loop(lambda: asyncio.wait_for(job.wait(), 5))


async def test_a_runtime_left_in_another_loop_stays_open():
    async with Runtime(engine=ScriptedEngine(["a", "b"], seconds_per_token=0.05)) as runtime:
        job = await runtime.submit(Sequential(prompt="x"))
        with pytest.raises(EngineClosed, match="another event loop"):
            await other_loop(lambda: asyncio.wait_for(runtime.__aexit__(None, None, None), 5))
        assert (await job).text == "a"
        assert (await (await runtime.submit(Sequential(prompt="x")))).text == "b"


async def test_an_engine_started_from_another_loop():
    engine = NativeEngine.load(find_model("countdown").path, kv_tokens=1024)
    await engine.start()
    try:
        await engine.start()
        with pytest.raises(EngineClosed, match="another event loop"):
            await other_loop(engine.start)
    finally:
        await engine.close()
