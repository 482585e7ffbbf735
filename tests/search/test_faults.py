"""Faults in the midst of methods inside methods: nobody hangs, nothing leaks, and whom they did not hit never knows."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from plait import Budget, Finish, InvalidInput, Runtime, SelfConsistency, Sequential
from plait.runtime.events import Event, Failed
from plait.runtime.job_spec import JobSpec
from plait.tests.runtime.engines.native.faults import FAULTS, Injected, fault
from plait.tests.search.nestings import nestings
from plait.tests.search.test_nesting import (
    SMALL,
    check_books,
    check_events,
    check_native,
    few,
    idle,
    native,
    said,
)

WATCHDOG = 30
"""Seconds after which something hangs."""
OTHER = JobSpec(method=Sequential(prompt="so.\n\nno", max_tokens=30, stop=("qq",)), seed=5)


async def read(job, reads: str):
    """Events of a reader who reads all, of one who stops after a few, or of nobody."""
    seen: list[Event] = []
    if reads == "nothing":
        return seen
    async for one in job:
        seen.append(one)
        if reads == "a little" and len(seen) == 3:
            await job.wait()
            break
    return seen


async def ended(job, reads: str = "nothing"):
    """(result or error, events) of a job, which ends."""
    async with asyncio.timeout(WATCHDOG):
        events = await read(job, reads)
        try:
            return await job, events
        except Exception as error:
            return error, events


def is_whole(result) -> bool:
    """Has no branch met an error? Else the method went on without it."""
    failed = any(b.error or b.finish in ("failed", "memory") for b in result.trace.branches.values())
    return not failed and not any(name.endswith("_errors") for name in result.usage.counts)


async def submit(runtime, spec):
    """The job; None: the fault came before it."""
    try:
        return await runtime.submit(spec)
    except InvalidInput as error:
        assert isinstance(error.__cause__, Injected)
        return None


def check_failed(job, error, events):
    """Cleanly: the trace says why, its branches are closed, and whoever reads hears of it."""
    assert job.trace.end["finish"] == "failed" and str(error) in job.trace.end["error"]
    assert all(branch.closed is not None for branch in job.trace.branches.values())
    assert not events or isinstance(events[-1], Failed)


@settings(few, max_examples=12)
@given(
    method=nestings(live=True), name=st.sampled_from(sorted(FAULTS)), at=st.integers(1, 25),
    small=st.booleans(), drafts=st.booleans(), reads=st.sampled_from(["all", "a little", "nothing"]),
)  # fmt: skip
def test_a_fault_ends_what_it_hits_and_nothing_else(method, name, at, small, drafts, reads):
    note(f"{name} at {at}, small {small}, drafts {drafts}, reads {reads}: {method!r}")
    specs = [JobSpec(method=method, seed=1), OTHER]

    async def main():
        async with Runtime(engine=native(1 << 15)) as runtime:
            expected = [(await ended(await runtime.submit(spec)))[0] for spec in specs]
        engine = native(SMALL if small else 1 << 15, drafts=drafts)
        async with Runtime(engine=engine) as runtime:
            with fault(engine, name, at) as injected:
                jobs = [await submit(runtime, spec) for spec in specs]
                outcomes = [job and await ended(job, how) for job, how in zip(jobs, (reads, "nothing"), strict=True)]
            check_native(engine)
            for job, outcome, whole in zip(jobs, outcomes, expected, strict=True):
                if job is None:
                    continue
                result, events = outcome
                if isinstance(result, Exception):
                    assert injected.has_struck
                    check_failed(job, result, events if reads == "all" else [])
                    continue
                check_books(result, job.spec.budget)
                if events and reads == "all":
                    check_events(events, result)
                assert not is_whole(result) or said(result) == said(whole)
            again, _ = await ended(await runtime.submit(OTHER))
            assert said(again) == said(expected[1])
            check_native(engine)
        await idle()
        event(f"{name}: struck {injected.has_struck}")

    asyncio.run(main())


@pytest.mark.parametrize("jump", [1e6, -1e6])
async def test_a_clock_that_jumps_ends_what_has_a_deadline_and_nothing_else(jump, monkeypatch):
    plain = JobSpec(method=SelfConsistency(prompt="a", n=3, max_tokens=250, temperature=1.0), seed=1)
    timed = plain.model_copy(update={"budget": Budget(seconds=3600)})
    engine = native(1 << 15)
    async with Runtime(engine=engine) as runtime:
        expected, _ = await ended(await runtime.submit(plain))
        jobs = [await runtime.submit(spec) for spec in (plain, timed)]
        await asyncio.sleep(0)  # both have begun
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + jump)
        (untimed, _), (late, _) = [await ended(job) for job in jobs]
        monkeypatch.undo()
        assert said(untimed) == said(expected)
        if jump > 0:
            assert late.finish_reason is Finish.DEADLINE and late.usage.generated_tokens < 100
        else:
            assert said(late) == said(expected)
        check_native(engine)
