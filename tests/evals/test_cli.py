"""`plait eval`: a file, flags, and both."""

from __future__ import annotations

import asyncio
import json

import pytest

from plait import Recorder
from plait.evals import run
from plait.runtime.cli.main import main
from plait.tests.evals.tools import engine, grid

FILE = """
model = "some-folder"
windows = [100, 300]
timeout = 9.5

[benchmark]
name = "countdown"
data = "problems.jsonl"

[[methods]]
label = "one line"
method = "sequential"
max_tokens = 7

[[budgets]]
total_tokens = 50
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command would run."""
    calls = []

    async def record(config, out, **options):
        calls.append((config, out, options["retry_failed"]))
        (tmp_path / "report.md").write_text("| table |\n")
        return tmp_path / "report.html"

    monkeypatch.setattr("plait.evals.runner.run", record)
    return calls


def test_a_file(asked, tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text(FILE)
    assert main(["eval", str(path)]) == 0
    ((config, out, retry),) = asked
    assert (str(out), retry) == ("runs/grid", False)
    assert config.benchmark.data == tmp_path / "problems.jsonl"
    assert (config.model, config.windows, config.timeout) == ("some-folder", (100, 300), 9.5)
    assert config.budgets[0].total_tokens == 50
    (method,) = config.methods
    assert (method.name, method.fields) == ("one line", {"method": "sequential", "max_tokens": 7})
    assert capsys.readouterr().out == "| table |\n"


def test_flags_go_before_the_file(asked, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(FILE)
    flags = ["--window", "64", "--model", "m", "--count", "3", "--set", "numbers=5", "--seed", "4", "--retry-failed"]
    assert main(["eval", str(path), *flags, "--method", "self_consistency:n=4,top_p=0.5,attempts=2", "--out", "o"]) == 0
    ((config, out, retry),) = asked
    assert (str(out), retry, config.model, config.windows, config.seed) == ("o", True, "m", (64,), 4)
    assert (config.benchmark.count, config.benchmark.numbers) == (3, 5)
    (method,) = config.methods
    assert (method.name, method.attempts) == ("self_consistency n=4 top_p=0.5", 2)


def test_flags_alone(asked):
    assert main(["eval", "--benchmark", "aime24", "--data", "a.jsonl", "--method", "apr:dialect=paper"]) == 0
    ((config, out, _),) = asked
    assert (str(out), config.model, config.benchmark.name) == ("runs/aime24", "countdown", "aime24")
    assert config.methods[0].fields == {"method": "apr", "dialect": "paper"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--benchmark"),
        (["/no/such/file.toml"], "/no/such/file.toml"),
        (["--benchmark", "countdown"], "methods"),
        (["--benchmark", "countdown", "--method", "sequential:n"], "'n' should be FIELD=VALUE"),
        (["--benchmark", "countdown", "--method", "sequential", "--set", "x=1"], "x"),
    ],
)
def test_refusals_are_one_line(asked, arguments, message, capsys):
    assert main(["eval", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: ") and message in err and err.count("\n") == 1
    assert asked == []


async def recorded(folder):
    await run(grid(), folder / "live", engine=Recorder(engine(), folder / "recording"))


def test_the_command_runs_and_goes_on(tmp_path, capsys):
    asyncio.run(recorded(tmp_path))
    flags = ["--set", "numbers=3", "--count", "6", "--method", "sequential", "--method", "self_consistency:n=2"]
    command = ["eval", "--benchmark", "countdown", "--model", f"replay:{tmp_path / 'recording'}", *flags]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# countdown: 6 problems") and "12/12" in err and "report.html" in err
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 12
    before = (tmp_path / "out" / "report.html").read_bytes()
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert set(settings["environment"]) == {"versions", "hardware"}
    assert main([*command, "--seed", "1", "--out", str(tmp_path / "out")]) == 1
    assert "seed: 0 before, 1 now" in capsys.readouterr().err
