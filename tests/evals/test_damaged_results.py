"""A results file in which a value was changed: it is refused with the line, or still makes a report and a table."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait import InvalidInput
from plait.evals import run
from plait.evals.evaluation import Evaluation
from plait.evals.export import export
from plait.evals.report.page import write_report
from plait.evals.store import Store, read_units
from plait.tests.evals.tools import engine, grid

CONFIG = grid(benchmark={"name": "countdown", "numbers": 3, "count": 2})
SAMPLES = CONFIG.benchmark.load()
VALUES: list[Any] = [
    None, True, 0, -1, 2, 3.5, -1e308, 1e308, float("nan"), float("inf"), 2**63, 2**64, 10**30, "", "x", "\ud800", [],
    [None], ["a"], {}, {"a": 1}, {"": None}, {"a": "b"}, [[]],
]  # fmt: skip


@cache
def whole():
    """The files of a finished evaluation."""
    with TemporaryDirectory() as folder:
        asyncio.run(run(CONFIG, Path(folder), engine=engine()))
        return {name: (Path(folder) / name).read_text() for name in ("settings.json", "results.jsonl")}


def places(value, path=()):
    """The path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        yield (*path, name)
        yield from places(part, (*path, name))


def damaged(folder, number, path, value):
    """Write the evaluation with another value in one line of its results."""
    units = [json.loads(line) for line in whole()["results.jsonl"].splitlines()]
    part = units[number]
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (folder / "settings.json").write_text(whole()["settings.json"])
    (folder / "results.jsonl").write_text("".join(json.dumps(unit) + "\n" for unit in units))


ROW = ("rows", 0)
PLACES = st.deferred(lambda: st.sampled_from([*places(json.loads(whole()["results.jsonl"].splitlines()[0]))]))


@settings(max_examples=25)
@given(path=PLACES, value=st.sampled_from(VALUES))
@example(path=("key", "budget"), value={"": None})
@example(path=(*ROW, "total_tokens"), value=[398])
@example(path=(*ROW, "total_tokens"), value=-1)
@example(path=(*ROW, "window"), value="x")
@example(path=(*ROW, "window"), value=7)
@example(path=(*ROW, "correct"), value=2**64)
@example(path=(*ROW, "measured", "seconds"), value=1e308)
@example(path=(*ROW, "trace"), value={})
@example(path=(*ROW, "trace"), value="\ud800")
@example(path=(*ROW, "finish"), value="\ud800")
@example(path=("rows",), value=[])
def test_a_wrong_value_anywhere(path, value):
    with TemporaryDirectory() as name:
        folder = Path(name)
        damaged(folder, 0, path, value)
        for use in (
            lambda: write_report(Evaluation(CONFIG, Store(folder).read(), SAMPLES)),
            lambda: export(folder, folder / "table.csv"),
        ):
            try:
                use()
            except InvalidInput as error:
                assert str(folder) in str(error)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("key", "budget"), {"": None}), ((*ROW, "total_tokens"), [398]), ((*ROW, "correct"), 1), ((*ROW, "threads"), {})],
)
def test_the_line_and_the_value_are_named(tmp_path, path, value):
    damaged(tmp_path, 1, path, value)
    where = ".".join(map(str, path))
    with pytest.raises(InvalidInput, match=rf"results\.jsonl:2: {where}"):
        read_units(tmp_path)


@settings(max_examples=30)
@given(name=st.sampled_from(["environment", "started", "versions", "hardware"]), value=st.sampled_from(VALUES))
@example(name="started", value=[])
@example(name="environment", value={"a": 1})
@example(name="hardware", value=None)
def test_wrong_values_beside_the_settings(name, value):
    with TemporaryDirectory() as path:
        folder = Path(path)
        damaged(folder, 0, (*ROW, "finish"), "eos")
        kept = json.loads(whole()["settings.json"])
        (kept if name in kept else kept["environment"])[name] = value
        (folder / "settings.json").write_text(json.dumps(kept))
        try:
            write_report(Evaluation(CONFIG, Store(folder).read(), SAMPLES))
        except InvalidInput as error:
            assert "settings.json" in str(error)


def test_what_a_model_may_write_is_reported_and_read(tmp_path):
    """Half a surrogate pair, as an answer may hold it, is no damage."""
    damaged(tmp_path, 0, (*ROW, "extracted"), "a\ud800")
    units, _ = read_units(tmp_path)
    assert next(iter(units.values())).rows[0].extracted == "a\ud800"
    write_report(Evaluation(CONFIG, Store(tmp_path).read(), SAMPLES))
