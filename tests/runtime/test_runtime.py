"""Runtime and jobs: events, results, cancellation at any point, nothing left behind."""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import pytest

from plait import (
    Budget,
    EngineClosed,
    Finish,
    InvalidInput,
    InvalidJob,
    JobFailed,
    JobSpec,
    Method,
    Outcome,
    PlaitError,
    Runtime,
    ScriptedEngine,
    Sequential,
    Trace,
)
from plait.runtime.engines.replay import ReplayEngine
from plait.runtime.events import Done, Failed, Stopped, Text
from plait.runtime.jobs.state import contained
from plait.tests.runtime.tools import Busy, run


def slow(text="x" * 2000, **options):
    return ScriptedEngine(lambda _: text, **options)


async def test_a_job_from_submit_to_result():
    async with Runtime(engine=ScriptedEngine(["the answer is 42"])) as runtime:
        job = await runtime.submit(Sequential(prompt="q", answer=r"regex:\d+"), metadata={"row": 7})
        events = [event async for event in job]
        result = await job
    assert (result.text, result.answer, result.finish_reason) == ("the answer is 42", "42", Finish.EOS)
    types = [event.type for event in events]
    assert types[:2] == ["started", "branch_started"] and types[-3:] == ["stopped", "budget", "done"]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "the answer is 42"
    assert result.to_json()["usage"]["total_tokens"] == 17
    assert result.trace.header["settings"]["metadata"] == {"row": 7}
    assert result.trace.end["answer"] == "42"
    assert job.is_done and not runtime.jobs and not job.cancel()


async def test_ids_that_are_drawn_are_none_that_were_given():
    async with Runtime(engine=slow()) as runtime:
        ids = [(await runtime.submit(Sequential(prompt="q"), id=id)).id for id in ("job-2", None, None, "job-4", None)]
        with pytest.raises(InvalidJob, match="'job-2' is running"):
            await runtime.submit(Sequential(prompt="q"), id="job-2")
    assert ids == ["job-2", "job-1", "job-3", "job-4", "job-5"]


async def test_events_after_the_end_are_the_last_one():
    async with Runtime(engine=ScriptedEngine(["a"])) as runtime:
        job = await runtime.submit(Sequential(prompt="q"))
        await job
        assert [type(event) for event in [event async for event in job]] == [Done]


async def test_a_reader_that_comes_late_gets_the_text_of_what_begins_then():
    began = asyncio.Event()

    def script(context):
        began.set()
        return "xy"

    async with Runtime(engine=ScriptedEngine(script, seconds_per_token=0.01)) as runtime:
        job = await runtime.submit(Sequential(prompt="q", conclusion="z", answer="regex:(w)"))
        await began.wait()
        events = [event async for event in job]
    assert [event.reason for event in events if isinstance(event, Stopped)] == ["eos", "eos"]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "xy"


async def test_a_reader_that_leaves_early_does_not_matter():
    async with Runtime(engine=slow("x" * 50)) as runtime:
        job = await runtime.submit(Sequential(prompt="q"))
        async for event in job:
            if isinstance(event, Text):
                break
        assert len((await job).text) == 50


async def test_a_slow_reader_does_not_hold_up_the_job():
    async with Runtime(engine=slow("x" * 300)) as runtime:
        job = await runtime.submit(Sequential(prompt="q"))
        events = aiter(job)
        await anext(events)
        await job
        rest = [event async for event in events]
        assert sum(event.tokens for event in rest if isinstance(event, Text)) == 300
        assert len(rest) < 10


async def test_priority_seed_job_and_deadline_reach_the_engine():
    class Asked(ScriptedEngine):
        def open(self, tokens=(), **options):
            self.asked = options
            return super().open(tokens, **options)

    engine = Asked(["a", "a"])
    async with Runtime(engine=engine) as runtime:
        await (await runtime.submit(Sequential(prompt="q"), seed=3, priority=2, id="mine"))
        asked = {"path": (0,), "seed": 3, "context_limit": 4096, "job": "mine", "priority": 2, "deadline": None}
        assert engine.asked == asked
        now = asyncio.get_running_loop().time()
        await (await runtime.submit(Sequential(prompt="q"), budget=Budget(seconds=50)))
        assert now + 50 <= engine.asked["deadline"] < now + 100


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 14, 15, 16, 17, 18, 19, 20, 21, 25, 30, 34, 40, 55, 90])
async def test_cancelling_at_any_point_frees_everything(steps, tmp_path):
    engine = slow()
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Busy(), budget=Budget(total_tokens=500, width=2), trace_file=tmp_path / "trace")
        for _ in range(steps):
            await asyncio.sleep(0)
        was_done = job.is_done
        cancelled = job.cancel("enough")
        assert cancelled is not was_done
        if cancelled:
            with pytest.raises(asyncio.CancelledError):
                await job
        assert not engine.branches and not engine.running and not runtime.jobs
        last = [event async for event in job][-1]
        assert isinstance(last, Failed if cancelled else Done)
    trace = Trace.load(tmp_path / "trace")
    assert trace.end is not None and (trace.end["finish"] == "cancelled") is cancelled
    sampled = sum(len(piece.token_ids) for s in trace.segments for piece in s.pieces if piece.kind == "sampled")
    assert trace.end.get("usage", {"generated_tokens": 0})["generated_tokens"] == sampled


class Waiting(Method):
    """Waits, somewhere inside, for what somebody else has cancelled."""

    method: Literal["test waiting"] = "test waiting"
    where: str

    async def run(self, ctx):
        if self.where == "run":
            await ctx.run(Waiting(where="itself"))
        if self.where == "parallel":
            await ctx.parallel(self.part, [0, 1])
        if self.where == "behind a failure":
            with pytest.raises(ZeroDivisionError):
                await ctx.parallel(self.fail, [0, 1])
        await self.part(ctx, 1)

    async def fail(self, ctx, item):
        await asyncio.sleep(0.01)  # the method waits for its parts by then
        return 1 / item

    async def part(self, ctx, item):
        other = asyncio.create_task(asyncio.sleep(60))
        if item:
            other.cancel("by others")
        await other


@pytest.mark.parametrize(
    ("where", "who"),
    [
        ("itself", "the method 'test waiting'"),
        ("run", "the method 'test waiting'"),
        ("parallel", "part 1 of parallel"),
        ("behind a failure", "the method 'test waiting'"),
    ],
)
async def test_waiting_for_what_others_cancelled_is_a_failure_and_no_cancellation(where, who):
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Waiting(where=where))
        with pytest.raises(JobFailed, match=f"{who} was not cancelled, but .* CancelledError\\('by others'\\)"):
            await job
        last = [event async for event in job][-1]
        assert isinstance(last, Failed) and not last.cancelled and job.trace.end["finish"] == "failed"


async def test_busy_runs_to_its_end_within_the_cancellation_points():
    result, _ = await run(Busy(), lambda _: "x" * 99, width=2, total_tokens=500)
    assert result.finish_reason is Finish.LENGTH
    assert result.usage.critical_tokens == 4 + 5 + 4 + 1 + 4


async def test_cancelling_the_awaiting_task_cancels_the_job():
    engine = slow()
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Sequential(prompt="q"))

        async def wait():
            await job

        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0.002)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert job.is_done and not engine.branches


async def test_leaving_the_runtime_cancels_all_jobs():
    engine = slow()
    async with Runtime(engine=engine) as runtime:
        jobs = [await runtime.submit(Busy()) for _ in range(5)]
        await asyncio.sleep(0.002)
    assert all(job.is_done for job in jobs) and not engine.branches and engine.is_closed
    with pytest.raises(EngineClosed):
        await runtime.submit(Busy())


async def test_an_error_inside_the_block_ends_jobs_too():
    engine = slow()
    with pytest.raises(KeyError):
        async with Runtime(engine=engine) as runtime:
            await runtime.submit(Busy())
            await asyncio.sleep(0)
            raise KeyError("mine")
    assert not engine.branches


async def test_leaving_while_being_cancelled_still_waits_for_the_jobs():
    engine = slow()

    async def main():
        async with Runtime(engine=engine) as runtime:
            await runtime.submit(Busy())
            await asyncio.sleep(10)

    task = asyncio.create_task(main())
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine.branches and engine.is_closed


async def test_a_failing_job_fails_alone(tmp_path):
    def script(context):
        if context == "bad":
            raise OSError("engine gone")
        return "fine"

    engine = ScriptedEngine(script)
    async with Runtime(engine=engine) as runtime:
        bad = await runtime.submit(Sequential(prompt="bad"), trace_file=tmp_path / "bad.jsonl")
        good = await runtime.submit(Sequential(prompt="good"))
        events = [event async for event in bad]
        with pytest.raises(OSError, match="engine gone"):
            await bad
        assert (await good).text == "fine"
    assert events[-1] == Failed(job=bad.id, time=events[-1].time, error="OSError: engine gone", cancelled=False)
    trace = Trace.load(tmp_path / "bad.jsonl")
    assert trace.end["finish"] == "failed" and trace.branches["0"].error == "OSError: engine gone"


class Odd(Method):
    """Gives what it is told to, and uses a tool."""

    method: Literal["test odd"] = "test odd"
    outcome: ClassVar[Any] = None
    argument: ClassVar[Any] = None
    is_inside: bool = False

    async def run(self, ctx):
        with ctx.open([5]).tool("t", argument=self.argument):
            pass
        return await ctx.run(Odd()) if self.is_inside else self.outcome


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


class Endless(dict[str, Any]):
    """Comes to no end when it is looked at."""

    def items(self):
        return self.items()


def outcome(**fields):
    return Outcome(**{"text": "", "answer": None, "finish": Finish.EOS, **fields})


@pytest.mark.parametrize("is_inside", [False, True])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "a NoneType: it must be an Outcome"),
        ("text", "a str: it must be an Outcome"),
        (outcome(text=None), "an Outcome whose text is a NoneType"),
        (outcome(answer=24), "an Outcome whose answer is a int"),
        (outcome(finish="eos"), "an Outcome whose finish is a str"),
        (outcome(details=[1]), "an Outcome whose details is a list"),
        (outcome(details={"a": {1}}), "an Outcome that JSON cannot hold: Object of type set"),
        (outcome(details={"a": CYCLE}), r"an Outcome that JSON cannot hold: details\.a\.0.*: more than 64 lists"),
        (outcome(details={(1, 2): 3}), "an Outcome that JSON cannot hold: keys must be"),
        (outcome(details={"a": Endless()}), "an Outcome that JSON cannot hold: maximum recursion depth"),
    ],
)
async def test_what_is_no_outcome_is_refused_by_the_methods_name(given, told, is_inside, monkeypatch, tmp_path):
    monkeypatch.setattr(Odd, "outcome", given)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Odd(is_inside=is_inside), trace_file=tmp_path / "odd.jsonl")
        with pytest.raises(InvalidInput, match=f"the method 'test odd' gave {told}"):
            await job
    assert Trace.load(tmp_path / "odd.jsonl").end["finish"] == "failed"


@pytest.mark.parametrize("is_inside", [False, True])
async def test_half_a_character_that_a_model_wrote_costs_neither_result_nor_trace(is_inside, monkeypatch, tmp_path):
    given = outcome(text="a\ud83d", answer="\ude00", details={"votes": {"\ude00": 1}})
    monkeypatch.setattr(Odd, "outcome", given)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        result = await (await runtime.submit(Odd(is_inside=is_inside), trace_file=tmp_path / "odd.jsonl"))
    assert (result.text, result.answer, result.details) == (given.text, given.answer, given.details)
    end = Trace.load(tmp_path / "odd.jsonl").end
    assert (end["answer"], end["details"]) == ("?", {"votes": {"?": 1}})


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def mute():
    raise Mute


@pytest.mark.parametrize("in_tool", [False, True])
async def test_an_error_that_cannot_say_what_is_wrong_is_told_by_its_type(in_tool, monkeypatch):
    async def raises(self, ctx):
        with ctx.open([5]).tool("t") if in_tool else nullcontext():
            raise Mute

    monkeypatch.setattr(Odd, "run", raises)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Odd())
        events = [event async for event in job]
        with pytest.raises(Mute):
            await job
    assert isinstance(events[-1], Failed) and job.trace.end["finish"] == "failed"
    told = [events[-1].error, job.trace.end["error"], *(tool.output for tool in job.trace.tools)]
    assert told == ["Mute: it cannot say what is wrong"] * (3 if in_tool else 2)


def test_an_exit_that_cannot_say_what_is_wrong_is_told_by_its_type():
    class MuteExit(Mute, SystemExit):
        pass

    with pytest.raises(InvalidInput, match="x raised MuteExit: it cannot say what is wrong"), contained("x"):
        raise MuteExit


class Exits(Method):
    """Ends the process, or would like to."""

    method: Literal["test exits"] = "test exits"
    is_part: bool = False

    async def run(self, ctx):
        async def work(part, item):
            if item == 1:
                sys.exit("that was it")
            await asyncio.Event().wait()

        if self.is_part:
            await ctx.parallel(work, range(3))
        await work(ctx, 1)


@pytest.mark.parametrize(("is_part", "told"), [(False, "the method 'test exits'"), (True, "part 1 of parallel")])
async def test_a_method_that_exits_fails_alone(is_part, told):
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Exits(is_part=is_part))
        with pytest.raises(InvalidInput, match=f"{told} raised SystemExit: that was it"):
            await job
        assert (await (await runtime.submit(Sequential(prompt="q")))).text == "x"


async def test_numbers_of_all_kinds_and_as_names_are_details(monkeypatch, tmp_path):
    details = {"a": math.nan, "b": {1: math.inf}, "c": (1, None)}
    monkeypatch.setattr(Odd, "outcome", outcome(details=details))
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Odd(), trace_file=tmp_path / "odd.jsonl")
        assert (await job).details == details
    found = Trace.load(tmp_path / "odd.jsonl").end["details"]
    assert math.isnan(found["a"]) and found["b"] == {"1": math.inf} and found["c"] == [1, None]


@pytest.mark.parametrize("argument", [{1}, CYCLE, object()], ids=["set", "cycle", "object"])
async def test_what_a_tool_is_given_that_is_no_json_costs_neither_result_nor_trace(argument, monkeypatch, tmp_path):
    monkeypatch.setattr(Odd, "outcome", outcome(text="fine"))
    monkeypatch.setattr(Odd, "argument", argument)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        job = await runtime.submit(Odd(), trace_file=tmp_path / "odd.jsonl")
        assert (await job).text == "fine"
    assert [tool.ok for tool in Trace.load(tmp_path / "odd.jsonl").tools] == [tool.ok for tool in job.trace.tools]


async def test_deadline_gives_a_result():
    result, _ = await run(Sequential(prompt="q"), None, engine=slow(seconds_per_token=0.01), seconds=0.3)
    assert result.finish_reason is Finish.DEADLINE and 0 < len(result.text) < 100


async def test_many_jobs_with_random_cancellations_leave_nothing():
    engine = slow("x" * 30)
    async with Runtime(engine=engine) as runtime:
        jobs = [await runtime.submit(Busy(), budget=Budget(total_tokens=10 + i, width=1 + i % 3)) for i in range(100)]
        for i, job in enumerate(jobs):
            await asyncio.sleep(0)
            if i % 3 == 0:
                job.cancel()
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert not engine.branches and not runtime.jobs
    assert {type(outcome).__name__ for outcome in outcomes} == {"Result", "CancelledError"}


async def test_job_specs_and_names():
    spec = JobSpec(method=Sequential(prompt="q"), seed=5, metadata={"a": 1})
    async with Runtime(engine=ScriptedEngine(lambda _: "x" * 50)) as runtime:
        job = await runtime.submit(spec, id="twice")
        with pytest.raises(InvalidJob, match="twice"):
            await runtime.submit(spec, id="twice")
        with pytest.raises(InvalidJob, match="JobSpec brings its own"):
            await runtime.submit(spec, seed=1)
        assert (await job).trace.header["seed"] == 5


@pytest.mark.parametrize(
    ("id", "told"),
    [(0, "a text, not int"), (5, "a text, not int"), (b"a", "a text, not bytes"), ("a\ud800", "half a surrogate pair")],
)
async def test_an_id_that_no_trace_can_hold_is_refused(id, told):
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidJob, match=told):
            await runtime.submit(Sequential(prompt="q"), id=id)
        assert not runtime.jobs


@pytest.mark.parametrize("file", [5, b"a", ["a"]])
async def test_a_file_that_is_no_path_is_refused(file):
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidInput, match=f"a path, not {type(file).__name__}"):
            await runtime.submit(Sequential(prompt="q"), trace_file=file)
        assert not runtime.jobs


@pytest.mark.parametrize("engine", [42, "countdown"])
def test_an_engine_that_is_none_is_refused(engine):
    with pytest.raises(InvalidInput, match=f"engine: this is a {type(engine).__name__}"):
        Runtime(engine=engine)


def test_an_engine_in_the_place_of_a_name_is_told_its_own():
    with pytest.raises(InvalidInput, match=r"this is a ScriptedEngine, no name; an engine is Runtime\(engine="):
        Runtime(ScriptedEngine(["x"]))


@pytest.mark.parametrize("name", ["check", "settings"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: sys.exit(3), "SystemExit: 3"),
        (lambda *_: mute(), "Mute: it cannot say"),
    ],
)
async def test_what_a_method_raises_before_any_work_names_it(name, wrong, told, monkeypatch):
    monkeypatch.setattr(Odd, name, wrong)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidInput, match=f"the method 'test odd' cannot be run: {told}"):
            await runtime.submit(Odd())
        assert not runtime.jobs


async def test_settings_are_an_object(monkeypatch):
    monkeypatch.setattr(Odd, "settings", lambda *_: None)
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidInput, match="the method 'test odd' cannot be run: .*not a mapping"):
            await runtime.submit(Odd())


@pytest.mark.parametrize("job", [{"method": {"method": "sequential", "prompt": "q"}}, "q", None, Sequential])
async def test_what_is_no_job_is_refused(job):
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidJob, match=r"a method or a JobSpec, not \w+; plait.parse_job reads JSON"):
            await runtime.submit(job)


async def test_a_runtime_is_opened_before_it_is_used():
    with pytest.raises(EngineClosed):
        await Runtime(engine=ScriptedEngine([])).submit(Sequential(prompt="q"))
    with pytest.raises(EngineClosed):
        _ = Runtime("countdown").engine
    for wrong in ({}, {"model": "x", "engine": ScriptedEngine([])}, {"engine": ScriptedEngine([]), "dtype": "x"}):
        with pytest.raises(InvalidInput):
            Runtime(**wrong)


async def test_a_runtime_that_has_been_entered_is_not_entered_again_until_it_is_left(monkeypatch):
    loaded = []

    def load(model, options):
        loaded.append(slow())
        return loaded[-1]

    monkeypatch.setattr("plait.runtime.runtime.load_engine", load)
    runtime = Runtime("countdown")

    async def use():
        async with runtime:
            return await (await runtime.submit(Sequential(prompt="q", max_tokens=2)))

    refused = pytest.raises(InvalidInput, match="has been entered already")
    first, second = await asyncio.gather(use(), use(), return_exceptions=True)  # while it is being opened
    assert first.text == "xx" and isinstance(second, InvalidInput) and len(loaded) == 1 and loaded[0].is_closed
    del loaded[:]
    runtime = Runtime("countdown")
    async with runtime:
        job = await runtime.submit(Sequential(prompt="q"))
        with refused:
            await use()
        assert len((await job).text) == 2000 and not loaded[0].is_closed
        await runtime.submit(Sequential(prompt="q"))
        left = asyncio.create_task(runtime.__aexit__(None, None, None))
        await asyncio.sleep(0)
        with refused:  # while it is being closed
            await use()
        await left
        await runtime.__aenter__()


def test_a_runtime_needs_an_event_loop_of_asyncio():
    """Another library's, such as trio's, drives coroutines like this."""
    with pytest.raises(InvalidInput, match="asyncio event loop"):
        Runtime(engine=slow()).__aenter__().send(None)


async def test_a_runtime_is_entered_again_after_it_was_left_or_did_not_open():
    class Broken(ScriptedEngine):
        is_broken = True

        async def start(self):
            if self.is_broken:
                raise OSError("no memory")
            await super().start()

    runtime = Runtime(engine=(engine := Broken(lambda _: "x")))
    with pytest.raises(OSError, match="no memory"):
        await runtime.__aenter__()
    engine.is_broken = False
    for _ in range(2):
        async with runtime:
            assert (await (await runtime.submit(Sequential(prompt="q")))).text == "x"


async def test_a_runtime_that_is_entered_again_loads_its_model_anew(monkeypatch):
    class Once(ScriptedEngine):
        async def start(self):
            if self.is_closed or len(loaded) == 2:
                raise EngineClosed("the engine is closed")
            await super().start()

    loaded = []

    def load(model, options):
        loaded.append(Once(lambda _: f"{model} {options['kv_tokens']}"))
        return loaded[-1]

    monkeypatch.setattr("plait.runtime.runtime.load_engine", load)
    runtime = Runtime("countdown", kv_tokens=512)
    for is_broken in (False, True, False):
        if is_broken:
            with pytest.raises(EngineClosed):
                await runtime.__aenter__()
            continue
        async with runtime:
            assert (await (await runtime.submit(Sequential(prompt="q")))).text == "countdown 512"
        assert runtime.engine is loaded[-1]  # for what it has counted
    assert len(loaded) == 3 and all(engine.is_closed for engine in loaded)


async def test_an_engine_that_does_not_start_is_closed():
    class Broken(ScriptedEngine):
        async def start(self):
            raise OSError("no memory")

    engine = Broken([])
    with pytest.raises(OSError, match="no memory"):
        async with Runtime(engine=engine):
            pytest.fail("opened")
    assert engine.is_closed


async def test_a_replay_is_a_model_string(tmp_path):
    with pytest.raises(PlaitError, match="not a recording"):
        async with Runtime(f"replay:{tmp_path / 'none'}"):
            pass
    from plait import Recorder

    recorder = Recorder(ScriptedEngine(["a"]), tmp_path / "file")
    async with Runtime(engine=recorder) as runtime:
        await (await runtime.submit(Sequential(prompt="q")))
    async with Runtime(f"replay:{tmp_path / 'file'}") as runtime:
        assert isinstance(runtime.engine, ReplayEngine)
        assert (await (await runtime.submit(Sequential(prompt="q")))).text == "a"
