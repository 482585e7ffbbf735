"""The command line and the terminal view."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

import plait
from plait import APR, InvalidInput, JobSpec, Recorder, Runtime, ScriptedEngine, Trace
from plait.runtime import plugins
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.live import JobView, watch
from plait.runtime.cli.main import main
from plait.runtime.cli.table import table
from plait.runtime.events import BranchStarted, Joined, Pruned, Stopped, Text
from plait.runtime.methods.registry import METHODS
from plait.runtime.trace.tree import show
from plait.tests.runtime.methods.apr.test_apr import WHOLE, model
from plait.tests.runtime.methods.apr.test_paper import ROOT


def console(**options):
    return Console(file=io.StringIO(), width=100, **options)


@pytest.fixture
async def recorded(tmp_path):
    """A recording, the job and the trace of the golden run."""
    async with Runtime(engine=Recorder(ScriptedEngine(model()), tmp_path / "recording")) as runtime:
        await (await runtime.submit(APR(prompt=ROOT), trace_file=tmp_path / "trace"))
    (tmp_path / "job.json").write_text(JobSpec(method=APR(prompt=ROOT)).model_dump_json())
    return tmp_path


def test_run_prints_the_result_as_json(recorded, capsys):
    arguments = ["run", str(recorded / "job.json"), "--model", f"replay:{recorded / 'recording'}"]
    assert main([*arguments, "--trace", str(recorded / "again")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["answer"] == WHOLE
    assert "3 threads" in err and len(Trace.load(recorded / "again").branches) == 3


def test_run_reads_standard_input(recorded, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO((recorded / "job.json").read_text()))
    assert main(["run", "-", "--model", f"replay:{recorded / 'recording'}"]) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "eos"


def test_trace_show(recorded, capsys):
    assert main(["trace", "show", str(recorded / "trace")]) == 0
    out = capsys.readouterr().out
    assert "apr on scripted 3 branches, 1,203 tokens, 1,100 on the critical path" in " ".join(out.split())
    parts = (
        "root  0",
        "0,1  1.0.0",
        "0,0  1.1.0",
        "join of 2, 1 with a result",
        "injected",
        "Goal Reached in Sub Search 1",
    )
    places = [out.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "arguments",
    [["run", "/no/such/job.json"], ["run", "-", "--model", "no-such-model"], ["trace", "show", "/no/such/trace"]],
)
def test_refusals_are_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"method": {"method": "sequential", "prompt": "q"}}'))
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: ") and err.count("\n") == 1


class Added:
    """`plait added`: count words."""

    def add_arguments(self, parser):
        parser.add_argument("words", nargs="*")

    def run(self, options):
        if "bad" in options.words:
            raise InvalidInput("not like that")
        return len(options.words)


@pytest.fixture
def commands(monkeypatch):
    """Entry points of another package: a command, one that cannot be loaded, one with the name of a built-in one."""
    others = [("added", f"{__name__}:added"), ("broken", "no_such_module"), ("run", f"{__name__}:added")]
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(added=Added()))

    def found(group):
        ours = entry_points(group=group)
        theirs = [EntryPoint(name, value, group) for name, value in others] if group == "plait.commands" else []
        return [*ours, *theirs]

    monkeypatch.setattr("plait.runtime.plugins.entry_points", found)
    monkeypatch.setattr(COMMANDS, "_things", {})
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()


@pytest.mark.usefixtures("commands")
def test_other_packages_add_commands(capsys):
    assert main(["added", "x", "y", "-v", "z"]) == 3
    assert main(["added", "bad"]) == 1
    err = capsys.readouterr().err
    assert err.endswith("\nplait: not like that\n") and "is not used: plait has one of that name" in " ".join(
        err.split()
    )
    with pytest.raises(SystemExit):
        main(["no-such-command"])
    assert "added" in capsys.readouterr().err
    assert main(["run", "/no/such/job.json"]) == 1  # built-in commands cannot be replaced
    assert "cannot read /no/such/job.json" in capsys.readouterr().err


@pytest.mark.usefixtures("commands")
def test_a_broken_package_hurts_only_its_user(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "added count words" in out and "run a job and print its result" in out
    assert "broken the command 'broken' of a package without metadata cannot be loaded" in out
    assert main(["broken"]) == 1
    assert "cannot be loaded (no_such_module): ModuleNotFoundError" in capsys.readouterr().err


def test_every_command_says_what_it_does(capsys):
    for name in COMMANDS.names():
        command = COMMANDS.find(name)
        assert (command.__doc__ or "").startswith(f"`plait {name}`: ")
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0 and "--import" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"plait {plait.__version__}\n"


def test_as_a_module():
    run = subprocess.run([sys.executable, "-m", "plait", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"plait {plait.__version__}\n"


@pytest.mark.parametrize("name", [None, *entry_points(group="plait.methods").names])
def test_schemas_are_valid_and_describe_every_field(name, capsys, monkeypatch):
    monkeypatch.setattr(METHODS, "_things", {})  # without those that tests register
    assert main(["schema", *([] if name is None else [name])]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        for field, described in part.get("properties", {}).items():
            assert described.get("description"), field


def test_the_schema_of_a_job_takes_jobs_and_nothing_else(capsys):
    assert main(["schema"]) == 0
    schema = Draft202012Validator(json.loads(capsys.readouterr().out))
    good = JobSpec(method=APR(prompt=ROOT), budget=plait.Budget(seconds=1.5), seed=3).model_dump(mode="json")
    assert schema.is_valid(good) and schema.is_valid({"method": {"method": "sequential", "prompt": "x"}})
    for wrong in ({"method": {"method": "nothing"}}, {"method": {"method": "apr"}}, {**good, "sed": 1}):
        assert not schema.is_valid(wrong)


def test_an_unknown_method_has_no_schema(capsys):
    assert main(["schema", "telepathy"]) == 1
    assert "unknown method 'telepathy'; known: apr, " in capsys.readouterr().err


def complete(line, tmp_path):
    """What a shell would offer for a line."""
    out = tmp_path / "completions"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    plait_command = Path(sys.executable).with_name("plait")
    subprocess.run([plait_command], env=environment, check=True, capture_output=True)
    return {word.strip() for word in out.read_text().split("\n")}


def test_shells_can_complete(tmp_path, capsys):
    assert {"run", "eval", "trace", "schema"} <= complete("plait ", tmp_path)
    assert {"--model", "--import", "--trace"} <= complete("plait run --", tmp_path)
    assert complete("plait trace ", tmp_path) >= {"show", "view", "export"}
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "plait" in capsys.readouterr().out


SCRIPT = """
import logging
from typing import Literal
import plait

@plait.register
class {name}(plait.Method):
    method: Literal["{name}"] = "{name}"

    async def run(self, ctx):
        logging.getLogger("plait.{name}").info("at work")
        return plait.Outcome(text="said", answer="said", finish=plait.Finish.EOS)
"""


def test_a_script_brings_its_method_along(recorded, capsys):
    tmp_path = recorded
    (tmp_path / "mine.py").write_text(SCRIPT.format(name="script_method"))
    (tmp_path / "job.json").write_text('{"method": {"method": "script_method"}}')
    command = ["run", str(tmp_path / "job.json"), "--model", f"replay:{recorded / 'recording'}"]
    assert main(command) == 1
    assert "unknown method 'script_method'" in capsys.readouterr().err
    for _ in range(2):  # a file that is named twice runs once
        assert main([*command, "--import", str(tmp_path / "mine.py"), "-v"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["answer"] == "said" and "at work" in err
    assert main(["schema", "script_method"]) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing.py", None, "FileNotFoundError"),
        ("no.such.module", None, "No module named 'no'"),
        ("syntax.py", "def", "SyntaxError"),
        ("raises.py", "1 / 0", "ZeroDivisionError"),
        ("taken.py", SCRIPT.format(name="apr"), "the method name 'apr' is taken"),
        ("exits.py", "raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_what_cannot_be_imported_is_one_clear_message(name, text, message, tmp_path, capsys):
    if text is not None:
        (tmp_path / name).write_text(text)
    target = str(tmp_path / name) if name.endswith(".py") else name
    assert main(["schema", "--import", target]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: cannot import ") and message in err and err.count("\n") == 1


def test_an_unfinished_trace_can_be_shown():
    screen = console()
    show(Trace({"method": {"method": "x"}, "model": "[m]"}), screen)
    assert "x on [m]\nunfinished: no answer" in screen.file.getvalue()


async def view_of(screen):
    async with Runtime(engine=ScriptedEngine(model())) as runtime:
        job = await runtime.submit(APR(prompt=ROOT))
        view = await watch(aiter(job), title="golden", console=screen)
        await job
    return view


async def test_live_view_draws_the_tree():
    screen = console(force_terminal=True, force_interactive=True)
    view = await view_of(screen)
    screen.print(view.render())
    drawn = screen.file.getvalue()
    for part in ("golden", "3 threads", "0,0", "0,1", "found", "no result", "eos: "):
        assert part in drawn


async def test_without_a_terminal_it_is_one_line():
    screen = console()
    await view_of(screen)
    text = " ".join(screen.file.getvalue().split())
    assert text.startswith("golden 3 threads") and "no result" not in text


def test_a_view_may_come_late_and_see_many_children():
    view = JobView()
    for i in range(40):
        view.feed(Stopped(job="j", time=1.0, branch=str(i), reason="length", tokens=3))
    view.feed(Pruned(job="j", time=2.0, branch="3", reason="low score"))
    screen = console()
    screen.print(view.render())
    assert "pruned" in screen.file.getvalue() and "40 threads" in view.summary()


def test_results_are_drawn_and_finished_subtrees_counted():
    view = JobView("job")
    view.feed(started("0", None, "root"))
    for i in range(40):
        view.feed(started(f"0.{i}", "0", f"child {i}"))
    for i in range(20):
        view.feed(started(f"0.39.{i}", "0.39", "grandchild"))
    children = tuple(f"0.{i}" for i in range(40))
    view.feed(Joined(job="j", time=1.0, branch="0", children=children, found=("0.39",), text=""))
    screen = console()
    screen.print(view.render())
    lines = screen.file.getvalue().splitlines()
    (winner,) = [line for line in lines if "child 39 " in line]
    assert "found" in winner and "20 below" in winner and "60 below" in lines[1]
    assert "... 28 more: 28 no result" in lines[-1] and len(lines) == 2 + 12 + 1
    assert len({line.index("no result") for line in lines if "child" in line and line != winner}) == 1


def test_tokens_are_counted_as_they_come():
    view = JobView("job")
    view.feed(started("0", None, "root"))
    for event in (
        Text(job="j", time=1.0, branch="0", text="one two", tokens=2),
        Text(job="j", time=1.0, branch="0", text=" three", tokens=1),
    ):
        view.feed(event)
    assert "     3 tokens  one two three" in drawn(view)
    view.feed(Stopped(job="j", time=2.0, branch="0", reason="eos", tokens=4))
    assert "done" in drawn(view) and "     4 tokens  one two three" in drawn(view)


def drawn(view):
    screen = console()
    screen.print(view.render())
    return screen.file.getvalue()


def started(branch, parent, label):
    return BranchStarted(job="j", time=0.0, branch=branch, parent=parent, label=label, prompt_tokens=0)


async def test_many_children_are_counted():
    nodes = "".join(f"\nGenerated Node #0,{i}: 27:[{i}, 3] Operation: 1+{i}=2" for i in range(30))
    starts = "".join(f"\n<Start Sub Search {i} at level 1> Moving to Node #0,{i}" for i in range(30))
    root = f"{nodes}\n<Calling Sub Searches>{starts}\n<End Calling Sub Searches>"
    async with Runtime(engine=ScriptedEngine(model(root=root), context_limit=9000)) as runtime:
        job = await runtime.submit(APR(prompt=ROOT))
        view = await watch(aiter(job), console=console())
        await job
    screen = console()
    screen.print(view.render())
    assert "... 18 more: 18 no result" in screen.file.getvalue()


def test_tables():
    screen = console()
    screen.print(table("figures", [{"method": "apr", "tokens": 12345, "seconds": 1.5}]))
    assert "12,345" in screen.file.getvalue() and "1.50" in screen.file.getvalue()
    screen.print(table("nothing", []))
