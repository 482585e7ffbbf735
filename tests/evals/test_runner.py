"""Grids on a scripted model: verdicts, costs, failures, resuming."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading

import pytest

from plait import InvalidInput, InvalidJob, OutOfBlocks, Sequential, Trace, UnsupportedByEngine
from plait.evals import EvalConfig, run
from plait.evals.benchmark import Sample, read_problems
from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.evaluation import Evaluation
from plait.evals.export import records
from plait.evals.failures import failure
from plait.evals.preflight import all_settings
from plait.evals.runner import job_seed, report_so_far
from plait.evals.store import Store, read_settings
from plait.runtime.engine import BlockUsage
from plait.runtime.engines.registry import MODELS
from plait.runtime.result import Finish
from plait.runtime.trace.record import BranchRecord
from plait.tests.evals.tools import engine, grid, solver


def rows(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    units = [json.loads(line) for line in lines]
    return {(u["key"]["method"], u["key"]["sample"], u["key"]["attempt"]): u["rows"] for u in units}


async def test_every_method_on_every_problem(tmp_path):
    model = engine()
    report = await run(grid(), tmp_path, engine=model)
    found = rows(tmp_path)
    problems = grid().benchmark.load()
    assert found.keys() == {(m, p.id, 0) for m in ("sequential", "SC") for p in problems}
    for (method, sample, _), (row,) in found.items():
        problem = next(p.data for p in problems if p.id == sample)
        assert row["correct"] == (problem.target <= 90), sample
        assert row["reason"] == ("correct" if row["correct"] else "no answer")
        samples = 2 if method == "SC" else 1
        assert row["total_tokens"] == samples * row["critical_tokens"] > 0
        trace = Trace.load(tmp_path / row["trace"])
        assert trace.header["settings"]["metadata"] == {"sample": sample, "attempt": 0}
        assert [thread[0] for thread in row["threads"]] == list(trace.branches)
    assert report.read_text().startswith("<!doctype html>")
    assert "| sequential |" in report.with_suffix(".md").read_text()
    assert not model.branches


async def test_other_work_goes_on_while_problems_are_drawn(tmp_path, monkeypatch):
    load, goes_on = Countdown.load, threading.Event()

    def slow(self):
        assert goes_on.wait(5)
        return load(self)

    monkeypatch.setattr(Countdown, "load", slow)
    asyncio.get_running_loop().call_soon(goes_on.set)
    await run(grid(methods=[{"method": "sequential"}]), tmp_path, engine=engine())


async def test_concurrency_is_kept(tmp_path):
    model = engine(seconds_per_token=0.001)
    await run(grid(methods=[{"method": "sequential"}], concurrency=4), tmp_path, engine=model)
    assert model.peak_running == 4


async def test_a_second_run_does_nothing(tmp_path):
    report = await run(grid(), tmp_path, engine=engine())
    before = report.read_bytes()
    idle = engine()
    await run(grid(), tmp_path, engine=idle)
    assert idle.prompts == []
    assert report.read_bytes() == before


async def test_a_grown_grid_is_another_evaluation(tmp_path):
    await run(grid(), tmp_path, engine=engine())
    with pytest.raises(InvalidInput, match=r"methods.*before"):
        await run(grid(methods=[{"method": "sequential"}]), tmp_path, engine=engine())
    with pytest.raises(InvalidInput, match="problems: "):
        await run(grid(benchmark={"name": "countdown", "numbers": 3, "count": 6, "seed": 1}), tmp_path, engine=engine())
    await run(grid(concurrency=1), tmp_path, engine=engine())


async def test_an_engine_of_ones_own_goes_by_its_name(tmp_path):
    report = await run(grid(), tmp_path, engine=engine())
    assert read_settings(tmp_path)["settings"]["model"] == "scripted"
    assert "model scripted" in report.read_text() and "model scripted" in report.with_suffix(".md").read_text()
    evaluation = Evaluation(grid(), Store(tmp_path).read(), read_problems(grid().benchmark))
    assert {row["model"] for row in records(tmp_path)} == {one.model for one in evaluation.answers()} == {"scripted"}
    report_so_far(grid(), tmp_path)
    # As it was written before.
    path = tmp_path / "settings.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "settings": {**kept["settings"], "model": "countdown"}}))
    report_so_far(grid(), tmp_path)
    await run(grid(), tmp_path, engine=engine())
    assert read_settings(tmp_path) == kept
    for other in (engine(name="another"), None):
        with pytest.raises(InvalidInput, match="model_files: "):
            await run(grid(), tmp_path, engine=other)
    # Another model of the same files is another one all the same.
    loaded = {**kept["settings"], "model": "a", "model_files": "0123"}
    path.write_text(json.dumps({**kept, "settings": loaded}))
    Store(tmp_path).read().check(loaded)
    with pytest.raises(InvalidInput, match="model: "):
        Store(tmp_path).read().check({**loaded, "model": "b"})


@pytest.mark.parametrize("cls", [Countdown, Sequential])
async def test_what_is_read_besides_stays_the_same(cls, tmp_path, monkeypatch):
    before = await run(grid(), tmp_path / "none", engine=engine())
    assert "inputs" not in read_settings(before.parent)["settings"]
    monkeypatch.setattr(cls, "inputs", lambda *_: {"table": ["a"]})
    await run(grid(), tmp_path / "some", engine=engine())
    await run(grid(), tmp_path / "some", engine=engine())
    monkeypatch.setattr(cls, "inputs", lambda *_: {"table": ["b"]})
    with pytest.raises(InvalidInput, match=r"inputs\.(methods\[0\]\.)?table: .* before"):
        await run(grid(), tmp_path / "some", engine=engine())
    assert report_so_far(grid(), tmp_path / "some").exists(), "what is done is done"
    monkeypatch.setattr(cls, "inputs", lambda *_: 1 / 0)
    with pytest.raises(InvalidInput, match="countdown, problem .*ZeroDivisionError"):
        await run(grid(), tmp_path / "other", engine=engine())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("place", "config"),
    [
        ("methods[0].reward.model", lambda other: {"methods": [searched(other)]}),
        ("methods[0].generator.reward.model", lambda other: {"methods": [nested(searched(other))]}),
        ("engine.lora", lambda other: {"engine": {"lora": other}}),
    ],
)
async def test_another_model_beside_the_first_is_another_evaluation(place, config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(MODELS / "countdown_prm", other)
    chosen = grid(**config(str(other)))
    samples = read_problems(chosen.benchmark)
    before = all_settings(chosen, samples, engine())
    assert all_settings(chosen, samples, engine()) == before
    (other / "prm.json").write_text('{"format": "plain", "good": "24", "bad": "25"}')
    after = all_settings(chosen, samples, engine())
    changed = {name for name, value in after["inputs"].items() if before["inputs"][name] != value}
    assert changed == {place} and {**after, "inputs": None} == {**before, "inputs": None}


def searched(reward):
    return {"method": "tree_search", "reward": f"prm:{reward}"}


def nested(method):
    return {"method": "self_consistency", "generator": {**method, "prompt": "?"}}


@pytest.mark.parametrize(
    ("method", "windows", "is_other"),
    [
        ({"method": "sequential", "context_limit": 301}, [400, 300], True),
        ({"method": "self_consistency", "generator": {"method": "sequential", "prompt": "?"}}, [300], True),
        ({"method": "sequential", "context_limit": 300}, [300, 400], False),
        ({"method": "sequential"}, [300], False),
        ({"method": "sequential", "context_limit": 301}, [], False),
    ],
)
async def test_windows_that_held_less_before_are_not_mixed_with_those_of_now(method, windows, is_other, tmp_path):
    config = grid(methods=[method], windows=windows)
    await run(config, tmp_path, engine=engine())
    await run(config, tmp_path, engine=engine())
    path = tmp_path / "settings.json"
    kept = json.loads(path.read_text())
    assert (kept["settings"].pop("windows_hold", None) is not None) == is_other
    path.write_text(json.dumps(kept))  # as it was written before
    if is_other:
        with pytest.raises(InvalidInput, match="windows_hold: nothing before"):
            await run(config, tmp_path, engine=engine())
    else:
        await run(config, tmp_path, engine=engine())
    assert report_so_far(config, tmp_path).exists(), "what is done is done"


async def test_results_of_other_windows_are_refused_as_damaged(tmp_path):
    report = await run(grid(windows=[300]), tmp_path, engine=engine())
    report.unlink()
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text().replace('"window":300', '"window":301'))
    with pytest.raises(InvalidInput, match=r"of the windows \[301\], not \[300\]: it is damaged"):
        await run(grid(windows=[300]), tmp_path, engine=engine())
    assert not report.exists()


async def test_rows_name_no_traces_that_the_disk_did_not_take(tmp_path, monkeypatch):
    def full(trace, path):
        raise InvalidInput("no space left")

    monkeypatch.setattr(Trace, "save", full)
    await run(grid(), tmp_path, engine=engine())
    assert {row["trace"] for (row,) in rows(tmp_path).values()} == {None}


async def test_failures_are_rows_and_are_run_again_on_request(tmp_path):
    broken = grid().benchmark.load()[2].data.target

    def script(context):
        if f" {broken} : " in context:
            raise RuntimeError("out of luck")
        return solver(context)

    config = grid(methods=[{"method": "sequential"}])
    report = await run(config, tmp_path, engine=engine(script))
    failed = [row for (row,) in rows(tmp_path).values() if row["error"]]
    assert [(row["correct"], row["error"]) for row in failed] == [(False, "RuntimeError: out of luck")]
    assert Trace.load(tmp_path / failed[0]["trace"]).end["finish"] == "failed"
    assert "out of luck" in report.read_text()
    idle = engine()
    await run(config, tmp_path, engine=idle)
    assert idle.prompts == []
    again = engine()
    await run(config, tmp_path, engine=again, retry_failed=True)
    assert len(again.prompts) == 1
    assert not [row for (row,) in rows(tmp_path).values() if row["error"]]


@pytest.mark.parametrize(
    ("cls", "name", "told"),
    [
        (Sequential, "run", "the method 'sequential' raised SystemExit: 3"),
        (Sequential, "settings", "SystemExit: 3"),
        (Countdown, "grade", "no verdict: SystemExit: 3"),
    ],
)
async def test_code_that_exits_fails_its_own_problem(cls, name, told, tmp_path, monkeypatch):
    real, calls = getattr(cls, name), iter([True])

    def once(*arguments):
        if next(calls, False):
            sys.exit(3)
        return real(*arguments)

    monkeypatch.setattr(cls, name, once)
    await run(grid(methods=[{"method": "sequential"}], concurrency=1), tmp_path, engine=engine())
    errors = [row["error"] for (row,) in rows(tmp_path).values()]
    assert errors[0].endswith(told) and errors[1:] == [None] * 5


async def test_a_job_that_takes_too_long_is_a_failure(tmp_path):
    slow = engine(seconds_per_token=30)
    await run(grid(timeout=0.05, methods=[{"method": "sequential"}]), tmp_path, engine=slow)
    assert {(row["finish"], row["reason"]) for (row,) in rows(tmp_path).values()} == {
        ("timeout", "no result within 0.05 s")
    }
    assert not slow.branches and slow.running == 0


async def test_what_a_job_cost_until_it_took_too_long_is_counted(tmp_path):
    endless = engine(lambda context: " x" * 500, seconds_per_token=0.001, ends=False)
    methods = [{"method": "sequential"}, {"label": "SC", "method": "self_consistency", "n": 2}]
    report = await run(grid(timeout=0.3, methods=methods), tmp_path, engine=endless)
    for (method, _, _), (row,) in rows(tmp_path).items():
        assert row["error"] and row["finish"] == "timeout"
        trace = Trace.load(tmp_path / row["trace"])
        sampled = sum(len(p.token_ids) for s in trace.segments for p in s.pieces if p.kind == "sampled")
        assert row["total_tokens"] == sampled > 0
        assert 0 < row["critical_tokens"] <= row["total_tokens"]
        assert (row["critical_tokens"] < row["total_tokens"]) == (method == "SC")
        assert row["measured"]["seconds"] > 0.25 and row["branches"] == (3 if method == "SC" else 1)
        assert sum(thread[3] for thread in row["threads"]) == sampled
    text = report.with_suffix(".md").read_text()
    assert "There is no verdict yet." in text and "0 of 0" in text and "6: timeout 6" in text


async def test_a_timeout_of_the_method_is_not_that_of_the_job(tmp_path):
    def script(context):
        raise TimeoutError("the model's")

    await run(grid(timeout=60, methods=[{"method": "sequential"}]), tmp_path, engine=engine(script))
    assert {row["reason"] for (row,) in rows(tmp_path).values()} == {"TimeoutError: the model's"}


@pytest.mark.parametrize(("method", "count"), [("sequential", 12), ("apr", 6)])
async def test_lack_of_memory_is_a_failure_and_no_wrong_answer(method, count, tmp_path, monkeypatch):
    """What is said of a method must not depend on how many jobs share a small store, nor on where others wait."""
    values = {
        "benchmark": {"name": "countdown", "numbers": 4, "count": count},
        "methods": [{"method": method}],
        "engine": {"kv_tokens": 1536},
    }
    await run(EvalConfig(**values, concurrency=1), tmp_path / "alone")
    alone = {key: row["correct"] for key, (row,) in rows(tmp_path / "alone").items()}
    await run(EvalConfig(**values, concurrency=count), tmp_path / "waiting")
    assert {key: row["correct"] for key, (row,) in rows(tmp_path / "waiting").items()} == alone
    values["engine"]["swap_tokens"] = 0
    crowded = EvalConfig(**values, concurrency=count)
    await run(crowded, tmp_path / "computed again")
    assert {key: row["correct"] for key, (row,) in rows(tmp_path / "computed again").items()} == alone
    monkeypatch.setattr("plait.runtime.engines.native.engine.recomputes", lambda model: False)
    report = await run(crowded, tmp_path / "crowded")
    found = {key: row for key, (row,) in rows(tmp_path / "crowded").items()}
    failed = {key for key, row in found.items() if row["error"] is not None}
    assert failed and {found[key]["finish"] for key in failed} == {"memory"}
    assert all(found[key]["reason"].startswith("out of KV memory: ") for key in failed)
    assert all(found[key]["total_tokens"] and found[key]["critical_tokens"] for key in failed)
    assert {key: row["correct"] for key, row in found.items() if key not in failed} == {
        key: correct for key, correct in alone.items() if key not in failed
    }
    text = report.with_suffix(".md").read_text()
    right = sum(alone[key] for key in alone if key not in failed)
    assert f"| {right} of {count - len(failed)} |" in text and f"| {len(failed)}: memory {len(failed)} |" in text
    assert "out of KV memory" in report.read_text()
    await run(EvalConfig(**values, concurrency=1), tmp_path / "crowded", retry_failed=True)
    assert {key: row["correct"] for key, (row,) in rows(tmp_path / "crowded").items()} == alone
    assert "none failed" in report.with_suffix(".md").read_text()


@pytest.mark.parametrize("error", [OutOfBlocks("no block"), RuntimeError("broke")])
def test_an_error_in_one_child_is_a_failure_though_the_method_goes_on(error):
    trace = Trace()
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="", level=0, finish="eos")
    assert failure(trace) is None
    child = BranchRecord(id="0.1", parent="0", origin="open", label="", level=1)
    trace.branches["0.1"] = child
    child.error = f"{type(error).__name__}: {error}"
    assert failure(trace) == (Finish.FAILED, f"branch 0.1: {child.error}")
    child.error = "PromptTooLong: 9 tokens"
    assert failure(trace) is None
    child.finish = "memory"
    assert failure(trace)[0] is Finish.MEMORY


async def test_a_problem_that_the_store_cannot_hold_is_a_failed_row(tmp_path):
    model = engine()
    model.block_usage = lambda job=None: BlockUsage(total=4, free=4, cached=0, used=0, block_size=1)
    await run(grid(), tmp_path, engine=model)
    for (row,) in rows(tmp_path).values():
        assert row["finish"] == "failed" and row["error"].startswith("OutOfBlocks: the prompt has")
    assert not model.prompts


async def test_cancelling_loses_what_is_in_flight_only(tmp_path, monkeypatch):
    two, add = asyncio.Event(), Store.add

    def counted(store, unit):
        add(store, unit)
        if len(store.units) == 2:
            two.set()

    monkeypatch.setattr(Store, "add", counted)
    config = grid(methods=[{"method": "sequential"}], benchmark={"name": "countdown", "numbers": 3, "count": 12})
    slow = engine(seconds_per_token=0.002)
    task = asyncio.create_task(run(config, tmp_path, engine=slow))
    await two.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not slow.branches
    done = rows(tmp_path)
    assert 2 <= len(done) < 12
    assert f"Unfinished: {len(done)} of 12 runs are done" in (tmp_path / "report.md").read_text()
    rest = engine()
    await run(config, tmp_path, engine=rest)
    assert len(rest.prompts) == 12 - len(done)
    assert {key: row for key, row in rows(tmp_path).items() if key in done} == done


async def test_attempts_have_seeds_of_their_own(tmp_path):
    seen = set()
    config = grid(methods=[{"method": "sequential", "attempts": 3}], benchmark={"name": "countdown", "count": 2})
    await run(config, tmp_path, engine=engine())
    for (_, sample, attempt), (row,) in rows(tmp_path).items():
        seed = Trace.load(tmp_path / row["trace"]).header["seed"]
        assert seed == job_seed(0, sample, attempt)
        seen.add(seed)
    assert len(seen) == 6
    assert "pass@2" in (tmp_path / "report.md").read_text()


async def test_windows_and_budgets(tmp_path):
    config = grid(
        methods=[{"method": "sequential"}, {"method": "apr"}],
        windows=[8, 40, 300, 400],
        budgets=[{}, {"total_tokens": 30}],
        benchmark={"name": "countdown", "numbers": 3, "count": 4},
    )
    model = engine()
    await run(config, tmp_path, engine=model)
    with Store(tmp_path).open(json.loads((tmp_path / "settings.json").read_text())["settings"], {}) as store:
        assert len(store.units) == 16
        origins: set[str] = set()
        for key, unit in store.units.items():
            assert [row.window for row in unit.rows] == [400, 300, 40, 8]
            assert unit.rows[0].origin == "run"
            assert unit.rows[3].finish == "prompt_too_long" and unit.rows[3].error is None
            assert all(row.total_tokens <= (30 if key.budget else 300) for row in unit.rows)
            origins.update(row.origin for row in unit.rows)
    assert origins == {"run", "same", "cut"}


async def test_what_is_wrong_is_said_before_any_work(tmp_path):
    for config, error, message in [
        (grid(methods=[{"method": "hogwild", "join_at": {"Nobody": 3}}]), InvalidJob, "Nobody"),
        (grid(methods=[{"method": "hogwild", "answer": "text"}]), UnsupportedByEngine, "scripted"),
    ]:
        model = engine()
        with pytest.raises(error, match=message):
            await run(config, tmp_path / message, engine=model)
        assert model.prompts == []


async def test_problems_may_come_one_by_one(tmp_path, monkeypatch):
    load = Countdown.load
    monkeypatch.setattr(Countdown, "load", lambda self: iter(load(self)))
    await run(grid(), tmp_path, engine=engine())
    assert len(rows(tmp_path)) == 12


@pytest.mark.parametrize("wrong", [lambda _: 1 / 0, lambda _: sys.exit(), lambda _: None])
async def test_problems_that_cannot_be_loaded_are_told_by_the_benchmarks_name(wrong, tmp_path, monkeypatch):
    monkeypatch.setattr(Countdown, "load", wrong)
    with pytest.raises(InvalidInput, match="^countdown: (ZeroDivisionError|SystemExit|TypeError): "):
        await run(grid(), tmp_path / "out", engine=engine())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "it is no Sample, but of type dict"),
        ({"id": "b", "question": "?", "reference": 2}, "reference: it is no text, but of type int"),
        ({"id": 2, "question": "?"}, "id: it is no text, but of type int"),
        ({"id": None, "question": "?"}, "id: it is no text, but of type NoneType"),
        ({"id": "b", "question": [{"role": "user"}]}, "question: it is no text, but of type list"),
    ],
)
async def test_problems_that_are_none_are_told_by_number_and_field(fields, told, tmp_path, monkeypatch):
    sample = Sample(**fields) if fields else fields
    monkeypatch.setattr(Countdown, "load", lambda _: [Sample(id="a", question="?"), sample])
    with pytest.raises(InvalidInput, match=f"^countdown: problem 2: {told}$"):
        await run(grid(), tmp_path / "out", engine=engine())


def broken(*_):
    raise RuntimeError("no database")


async def test_a_benchmark_that_is_not_ready_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Countdown, "check_ready", broken)
    with pytest.raises(InvalidInput, match="^countdown: RuntimeError: no database$"):
        await run(grid(), tmp_path / "out", engine=engine())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["export", "close"])
async def test_a_benchmark_that_fails_in_the_end_costs_no_report(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Countdown, name, broken)
    with pytest.raises(InvalidInput, match="^countdown: RuntimeError: no database$"):
        await run(grid(), tmp_path, engine=engine())
    assert (tmp_path / "report.html").exists() and len(rows(tmp_path)) == 12


@pytest.mark.parametrize("name", ["export", "close"])
async def test_what_stopped_the_jobs_is_said_and_not_what_a_benchmark_raises_then(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Countdown, name, broken)
    add = Store.add

    def full(self, unit):
        if self.units:
            raise KeyError("full")
        add(self, unit)

    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(KeyError, match="full"):
        await run(grid(), tmp_path, engine=engine())
    assert (tmp_path / "report.html").exists()


async def test_equal_ids_are_refused(tmp_path):
    data = tmp_path / "problems.jsonl"
    data.write_text('{"id": "a", "nums": [1, 2, 3], "target": 6}\n' * 2)
    with pytest.raises(InvalidInput, match="'a'"):
        await run(grid(benchmark={"name": "countdown", "data": str(data)}), tmp_path / "out", engine=engine())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": {"name": "chess"}}, "unknown benchmark 'chess'"),
        ({"benchmark": {"name": "countdown", "size": 3}}, "size"),
        ({"methods": []}, "methods"),
        ({"methods": [{"method": "sequential"}] * 2}, "twice"),
        ({"methods": [{"fields": {"method": "sequential"}, "attempt": 2}]}, "attempt"),
        ({"windows": [5, 5]}, "twice"),
        ({"windows": [0]}, "windows"),
        ({"budgets": [{"total_tokens": -1}]}, "total_tokens"),
        ({"timeout": 0}, "timeout"),
        ({"sead": 0}, "sead"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(InvalidInput, match=message):
        grid(**changes)


def test_the_shipped_configurations_are_valid(tmp_path):
    from pathlib import Path

    import plait
    from plait.evals.config import read_toml

    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "1 + 1?", "answer": 2, "level": 1}\n')
    paths = list((Path(plait.__file__).parent / "evals" / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        config = EvalConfig(**read_toml(path))
        # What is on the hub is given as a file.
        given = {"data": problems} if hasattr(config.benchmark, "hub") else {}
        benchmark = config.benchmark.model_copy(update={"count": 1, **given})
        for method in config.methods:
            method.build(benchmark, benchmark.load()[0], 512)
