"""`plait eval`: a file, flags, and both."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import plait
from plait import Recorder, ScriptedEngine
from plait.evals import run
from plait.evals.environment import samples_digest
from plait.evals.progress import progress
from plait.evals.store import Store
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.main import main
from plait.runtime.engines.scripted import WordTokenizer
from plait.tests.evals.tools import engine, grid, solver

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
        (tmp_path / "report.md").write_text("| table, p &lt; 0.001 |\n")
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
    assert capsys.readouterr().out == "| table, p < 0.001 |\n"


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


def test_values_with_commas_and_sweeps(asked):
    method = 'self_consistency:n=[2,4],stop=["a","b, c"],answer=regex:x+,conclusion=" so, it is "'
    assert main(["eval", "--benchmark", "countdown", "--method", method]) == 0
    ((config, _, _),) = asked
    assert [m.fields["n"] for m in config.methods] == [2, 4]
    for m in config.methods:
        rest = {"stop": ["a", "b, c"], "answer": "regex:x+", "conclusion": " so, it is "}
        assert m.fields == {"method": "self_consistency", "n": m.fields["n"], **rest}


def test_engine_options_go_before_the_file(asked, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(FILE + "\n[engine]\nkv_tokens = 64\nnum_threads = 3\n")
    flags = ["--kv-tokens", "4096", "--device", "cpu", "--dtype", "bfloat16", "--option", "max_rows=256"]
    assert main(["eval", str(path), *flags]) == 0
    ((config, _, _),) = asked
    assert config.engine == {
        "kv_tokens": 4096, "num_threads": 3, "device": "cpu", "dtype": "bfloat16", "max_rows": 256,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--benchmark"),
        (["--benchmark", "countdown", "--method", "sequential:n=1,n=2"], "'n' stands twice"),
        (["--benchmark", "countdown", "--method", "sequential:stop=[a,b]"], "'b]' should be FIELD=VALUE"),
        (["--benchmark", "countdown", "--option", "x"], "'x' should be FIELD=VALUE"),
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


@pytest.mark.parametrize(
    ("text", "flags", "name"),
    [
        ('benchmark = "countdown"', [], "benchmark"),
        ("benchmark = 3", ["--count", "1"], "benchmark"),
        ('engine = 3\n[benchmark]\nname = "countdown"', ["--kv-tokens", "512"], "engine"),
    ],
)
def test_what_is_no_table_is_said_so(asked, text, flags, name, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text)
    assert main(["eval", str(tmp_path / "c.toml"), *flags]) == 1
    assert capsys.readouterr().err == f"plait: {name} is not a table\n" and asked == []


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
    assert set(settings["environment"]) == {"versions", "hardware"} and settings["started"].endswith("+00:00")
    assert main([*command, "--seed", "1", "--out", str(tmp_path / "out")]) == 1
    assert "seed: 0 before, 1 now" in capsys.readouterr().err


async def test_a_folder_says_how_it_was_made(tmp_path, capsys, monkeypatch):
    """It goes on, and shows what is done so far, without the settings being given again."""
    two, looked, add = asyncio.Event(), asyncio.Event(), Store.add

    def counted(store, unit):
        add(store, unit)
        if len(store.units) == 2:
            two.set()

    class Held(ScriptedEngine):
        begun = 0

        async def complete(self, generation):
            self.begun += 1
            if self.begun > 2:
                await looked.wait()
            return await super().complete(generation)

    monkeypatch.setattr(Store, "add", counted)
    (tmp_path / "out").mkdir()
    config = grid(model="countdown", engine={"kv_tokens": 65536}, methods=[{"method": "sequential", "max_tokens": 8}])
    held = Held(solver, tokenizer=WordTokenizer())
    running = asyncio.create_task(run(config, tmp_path / "out", engine=held))
    await two.wait()
    # Another process may look on: the folder is held by the run.
    assert await asyncio.to_thread(main, ["eval", str(tmp_path / "out"), "--report"]) == 0
    out, err = capsys.readouterr()
    assert "Unfinished: 2 of 6 runs are done" in out and "report.html" in err
    looked.set()
    await running


def test_a_folder_goes_on(tmp_path, capsys):
    command = ["eval", "--benchmark", "countdown", "--count", "3", "--method", "sequential:max_tokens=8"]
    out = str(tmp_path / "out")
    assert main([*command, "--kv-tokens", "65536", "--out", out]) == 0
    results = tmp_path / "out" / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))
    (tmp_path / "out" / "report.html").unlink()
    assert main(["eval", out]) == 0
    assert "All 3 runs are done" in capsys.readouterr().out and (tmp_path / "out" / "report.html").exists()
    assert len(results.read_bytes().splitlines()) == 3
    assert main(["eval", out, "--seed", "7"]) == 1
    assert "seed: 0 before, 7 now" in capsys.readouterr().err


def test_nothing_done_is_nothing_to_report(tmp_path, capsys):
    with Store(tmp_path) as store:
        config = grid()
        samples = config.benchmark.load()
        problems = f"{len(samples)} problems, {samples_digest(samples)}"
        store.open({**config.settings(), "model_files": None, "problems": problems}, {"versions": {}, "hardware": {}})
    assert main(["eval", str(tmp_path), "--report"]) == 1
    assert "nothing is done" in capsys.readouterr().err


def test_interrupted_it_says_what_it_has(tmp_path):
    """Ctrl-C: a report of what is done, one line that says where, and the exit status of an interruption."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "plait",
        "eval",
        "--benchmark",
        "countdown",
        "--count",
        "400",
        "--concurrency",
        "1",
    ]
    command += ["--method", "sequential", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        results = out / "results.jsonl"
        while not results.exists() or results.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert err.splitlines()[-1] == f"interrupted; what is done is in {out}, with its report; the same command goes on"
    done = results.read_bytes().count(b"\n")
    assert f"Unfinished: {done} of 400 runs are done" in (out / "report.md").read_text()
    assert re.search(rf"countdown: {done}/400, .*/s, .* gone, .* left", err)


def test_interrupted_before_anything_is_done_it_says_so(tmp_path, capsys, monkeypatch):
    async def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("plait.evals.runner.run", interrupted)
    assert main(["eval", "--benchmark", "countdown", "--method", "sequential", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted; nothing is done yet\n"


async def test_what_the_pages_say_of_its_traces_finds_them(tmp_path):
    root = Path(plait.__file__).parent
    said = [(root / "rl" / "README.md").read_text(encoding="utf-8"), COMMANDS.find("data").__doc__]
    patterns = re.findall(r"runs/\w+/(traces\S*?\.jsonl\.gz)", " ".join(said))
    await run(grid(), tmp_path, engine=engine())
    for pattern in patterns:
        assert len(list(tmp_path.glob(pattern))) == 12, pattern
    assert len(patterns) == 3


async def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr("plait.evals.progress.LINE_SECONDS", 0.02)
    console = Console(file=io.StringIO(), force_terminal=False)
    async with progress(console, "[red]", 3, 5) as count:
        await asyncio.sleep(0.05)
        count.advance(has_failed=False)
        count.advance(has_failed=True)
    lines = console.file.getvalue().splitlines()
    assert len(lines) >= 2 and all(line.startswith("[red]: 3/5, 0:00:00 gone") for line in lines[:-1])
    assert re.fullmatch(r"\[red\]: 5/5, [\d.]+/s, 0:00:00 gone, 1 failed", lines[-1])
    async with progress(None, "x", 0, 1) as count:
        count.advance(has_failed=False)
    assert count.done == 1
