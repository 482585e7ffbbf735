"""The books of a whole job: phases, memory over time, slots."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import ScriptedEngine
from plait.runtime.jobs import state as module
from plait.tests.runtime.tools import context


class Clock:
    """Its time passes when it is told."""

    def __init__(self) -> None:
        self.now = 50.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


async def test_a_phase_counts_once_however_many_are_in_it(clock):
    async with context(ScriptedEngine(["x"])) as ctx:
        state = ctx.state
        with state.phase("one"):
            clock.now += 1
            with state.phase("one"), state.phase("two"):
                clock.now += 2
            assert state.usage.phases == {"two": 2.0}
            clock.now += 4
        clock.now += 8
        with pytest.raises(ValueError), state.phase("one"):
            clock.now += 16
            raise ValueError
        assert state.usage.phases == {"one": 7.0 + 16.0, "two": 2.0}


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 50)), max_size=8))
async def test_memory_is_the_mean_over_time(samples):
    """Of trapezia between samples, from nothing at the start; two samples at one time are one."""
    with pytest.MonkeyPatch.context() as patch:
        clock, held = Clock(), 0
        patch.setattr(module, "time", clock)
        engine = ScriptedEngine(["x"])
        patch.setattr(engine, "block_usage", lambda job: SimpleNamespace(used=held))
        async with context(engine) as ctx:
            area, last, start = 0.0, 0, clock.now
            for seconds, held in samples:
                clock.now += seconds
                ctx.state.sample_memory()
                area, last = area + seconds * (last + held) / 2, held
                if held:
                    clock.now += module.KV_SAMPLE_SECONDS / 2
                    held += 1000
                    ctx.state.sample_memory()  # too soon
                    clock.now -= module.KV_SAMPLE_SECONDS / 2
            ctx.state.finish()
            usage = ctx.state.usage
            assert usage.peak_kv_blocks == max((held for _, held in samples), default=0)
            assert usage.mean_kv_blocks == pytest.approx(area / (clock.now - start) if samples else 0.0)
            assert usage.seconds == pytest.approx(clock.now - start, abs=1e-6)


async def test_two_gangs_never_hold_a_part_each():
    async with context(ScriptedEngine(["x"]), width=3) as ctx:
        busy = most = 0

        async def gang():
            nonlocal busy, most
            async with ctx.state.slots(2):
                busy += 2
                most = max(most, busy)
                await asyncio.sleep(0)
                busy -= 2

        async def single():
            nonlocal busy, most
            async with ctx.state.slot():
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0)
                busy -= 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(gang() if i % 2 else single() for i in range(20)))
        assert most == 3 and busy == 0


async def test_waiting_for_a_gang_ends_at_the_deadline_and_keeps_no_slots():
    async with asyncio.timeout(60), context(ScriptedEngine(["x"]), width=2) as ctx:
        state = ctx.state

        async def late():
            async with state.slots(2):
                return "entered"

        async with state.slots(1):
            state.deadline = asyncio.get_running_loop().time() + 0.01
            assert await asyncio.create_task(late()) == "entered"
        state.deadline = None
        assert await late() == "entered" and not state.slots_around
