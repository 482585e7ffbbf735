"""A disk that is full, at every byte of every file that the package writes: one clear error, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plait import InvalidInput, Recorder, ReplayEngine, Runtime, ScriptedEngine, Sequential, Trace
from plait.agents.folder import Folder
from plait.agents.predictions import Prediction, write_predictions
from plait.evals.export import export
from plait.evals.store import Store
from plait.runtime.disk import write_whole
from plait.runtime.engines.native.context_scaling import write_scaling
from plait.tests.evals.test_store import ENVIRONMENT, SETTINGS, fill, unit

EVALUATED = {"budgets": [{}], "benchmark": {"name": "b"}, "model": "m"}
TEXT = "a line\n" * 40


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: a write takes what goes in, and the next one fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def trace(folder: Path, name: str, value: str) -> Path:
    one = Trace(header={"method": value})
    one.save(folder / name)
    return folder / name


def predictions(folder: Path, name: str, value: str) -> Path:
    write_predictions(folder / name, [Prediction(instance_id=value, model_name_or_path="m", model_patch=TEXT)] * 3)
    return folder / name


def record(folder: Path, name: str, value: str) -> Path:
    keeper = Folder(folder)
    with keeper.open({"job": 1}):
        keeper.write("part", [value, TEXT])
        assert keeper.path is not None
        return keeper.path / "part.json"


def table(folder: Path, name: str, value: str) -> Path:
    export(folder.parent / "evaluation", folder / name)
    return folder / name


def text(folder: Path, name: str, value: str) -> Path:
    write_whole(folder / name, value + TEXT)
    return folder / name


WRITERS = {
    "trace": (trace, "trace.jsonl"),
    "packed trace": (trace, "trace.jsonl.gz"),
    "predictions": (predictions, "all.jsonl"),
    "list of predictions": (predictions, "all.json"),
    "part of an agent's job": (record, ""),
    "rows": (table, "rows.csv"),
    "rows in JSON": (table, "rows.jsonl"),
    "report": (text, "report.html"),
    "calibration": (lambda folder, name, value: write_scaling(folder, 0.5, float(len(value))), ""),
}


@pytest.mark.parametrize("what", WRITERS)
def test_what_was_there_stays_until_all_of_the_new_file_is_there(what, tmp_path):
    write, name = WRITERS[what]
    with Store(tmp_path / "evaluation").open(EVALUATED, ENVIRONMENT) as store:
        store.add(unit("a"))
    folder = tmp_path / "small"
    folder.mkdir()
    path = write(folder, name, "old")
    before, files = path.read_bytes(), sorted(folder.rglob("*"))
    size = len(before)
    for room in sorted({0, 1, size // 3, size - 1}):
        with pytest.raises(InvalidInput, match="cannot (write|be written)"), full_at(room):
            write(folder, name, "new")
        assert path.read_bytes() == before and sorted(folder.rglob("*")) == files
    write(folder, name, "new")
    assert sorted(folder.rglob("*")) == files


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_results_stay_and_what_was_torn_is_done_again(part, tmp_path):
    fill(tmp_path, unit("a"))
    size = (tmp_path / "results.jsonl").stat().st_size
    with Store(tmp_path).open(SETTINGS, ENVIRONMENT) as store:
        with pytest.raises(InvalidInput, match="cannot write"), full_at(size + int(part * size)):
            store.add(unit("b"))
        assert [key.sample for key in store.units] == ["a"]
    fill(tmp_path, unit("b"), unit("c"))
    assert [key.sample for key in Store(tmp_path).read().units] == ["a", "b", "c"]


async def solve(engine, file: Path | None = None):
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Sequential(prompt="what?", max_tokens=30), trace_file=file)
        return await asyncio.wait_for(asyncio.shield(job._task), 20)


def scripted() -> ScriptedEngine:
    return ScriptedEngine(["word " * 30])


async def test_a_trace_that_finds_no_room_costs_no_result(tmp_path, caplog):
    for room in (0, 100):
        with full_at(room):
            result = await solve(scripted(), tmp_path / "trace.jsonl")
        assert result.text.startswith("word word") and "cannot" in caplog.text
        assert not list(tmp_path.iterdir())


async def test_a_recording_that_finds_no_room_says_so_and_leaves_nothing_open(tmp_path):
    file = tmp_path / "calls.jsonl"
    expected = await solve(Recorder(scripted(), file))
    size = file.stat().st_size
    for room in (0, 100, size // 2, size - 1):
        with pytest.raises(InvalidInput, match="cannot write .*calls.jsonl"), full_at(room):
            await solve(Recorder(scripted(), file))
    await solve(Recorder(scripted(), file))
    assert (await solve(ReplayEngine(file))).text == expected.text
    with pytest.raises(InvalidInput, match="cannot write"):
        Recorder(scripted(), tmp_path)
    assert json.loads(file.read_text().splitlines()[0])["type"] == "header"
