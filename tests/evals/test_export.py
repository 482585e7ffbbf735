"""The results of a folder as a table: CSV, JSON Lines, pandas."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import sys

import pytest

from plait import InvalidInput
from plait.evals import load, run
from plait.evals.export import COLUMNS, export, records
from plait.runtime.cli.main import main
from plait.tests.evals.tools import engine, grid, solver


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export")

    def script(context):
        if context.endswith(" 3 2 ;"):
            raise RuntimeError('broke, "badly"')
        return " answer a HALF b" if context.endswith(" 5 5 ;") else solver(context)

    data = path / "problems.jsonl"
    problems = [[8, 3, 1], [8, 3, 2], [8, 5, 5]]
    data.write_text(
        "".join(json.dumps({"id": f"p{i}", "nums": p, "target": 24}) + "\n" for i, p in enumerate(problems))
    )
    config = grid(
        benchmark={"name": "countdown", "data": str(data)},
        methods=[{"method": "sequential", "attempts": 2}],
        windows=[20, 300],
        budgets=[{}, {"total_tokens": 200}],
    )
    asyncio.run(run(config, path / "out", engine=engine(script)))
    # What some servers' models may write.
    results = path / "out" / "results.jsonl"
    results.write_text(results.read_text().replace("HALF", r"\ud800"))
    return path / "out"


def test_every_job_in_every_window_is_a_row(folder):
    rows = list(records(folder))
    assert len(rows) == 3 * 2 * 2 * 2 and all(list(row) == list(COLUMNS) for row in rows)
    assert len({(r["problem"], r["attempt"], r["budget"], r["window"]) for r in rows}) == len(rows)
    assert {(r["budget"], r["total_tokens_limit"]) for r in rows} == {(0, None), (1, 200)}
    for row in rows:
        assert row["failed"] == (row["problem"] == "p1") == (row["correct"] is None), row
    assert {r["correct"] for r in rows if r["problem"] == "p0" and r["window"] == 300} == {True}


def test_the_command_writes_files(folder, tmp_path, capsys):
    for name in ("out.csv", "out.jsonl"):
        assert main(["eval", str(folder), "--export", str(tmp_path / name)]) == 0
        assert "24 rows" in capsys.readouterr().err
    expected = list(records(folder))
    assert any("\ud800" in (row["extracted"] or "") for row in expected)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for line, row in zip(lines, expected, strict=True):
        assert line == {**row, "extracted": row["extracted"] and row["extracted"].replace("\ud800", "?")}
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(COLUMNS)
    for line, row in zip(table, lines, strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in row.items()}
    assert {line["reason"] for line in table if line["failed"] == "True"} == {'RuntimeError: broke, "badly"'}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("out", ["--export", "x.txt"], ".csv or .jsonl"),
        ("out", ["--export", "/no/such/folder/x.csv"], "cannot write"),
        (".", ["--export", "x.csv"], "holds no evaluation"),
        (".", ["--report"], "holds no evaluation"),
    ],
)
def test_refusals_are_one_line(folder, name, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(folder if name == "out" else folder.parent), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "\r"])
def test_whatever_an_answer_holds_is_in_its_cell(folder, text, tmp_path, monkeypatch):
    (row, *_) = records(folder)
    monkeypatch.setattr("plait.evals.export.records", lambda _: [{**row, "extracted": text}] * 2)
    assert export(folder, tmp_path / "out.csv") == 2
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [one["extracted"] for one in csv.DictReader(file)] == [text] * 2


def test_the_results_are_not_written_over(folder):
    with pytest.raises(InvalidInput, match="results.jsonl is read, and would be overwritten"):
        export(folder, folder / "traces" / ".." / "results.jsonl")


def test_a_pandas_table(folder):
    pandas = pytest.importorskip("pandas")
    table = load(folder)
    assert list(table.columns) == list(COLUMNS) and len(table) == 24
    assert table.failed.sum() == 8 and table.correct.isna().sum() == 8
    share = table[table.window == 300].groupby("problem").correct.mean()
    assert share["p0"] == 1 and pandas.isna(share["p1"])
    assert table.total_tokens.dtype == "int64" and table.window.dtype == "Int64"


def test_without_pandas_it_is_said_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInput, match=r"plait\[evals\]"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.pop("budgets"),
        lambda settings: settings.pop("benchmark"),
        lambda settings: settings.pop("model"),
        lambda settings: settings.update(budgets=[]),
        lambda settings: settings.update(budgets=[3, 4]),
        lambda settings: settings.update(budgets=5),
        lambda settings: settings.update(benchmark="countdown"),
        lambda settings: settings.update(benchmark=None),
    ],
)
def test_settings_that_are_not_those_of_the_results(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    kept = json.loads((copy / "settings.json").read_text())
    change(kept["settings"])
    (copy / "settings.json").write_text(json.dumps(kept))
    with pytest.raises(InvalidInput, match="do not belong together"):
        list(records(copy))
