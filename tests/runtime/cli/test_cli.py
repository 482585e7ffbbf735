"""The command line and the terminal view."""

from __future__ import annotations

import io
import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console

import plait
from plait import APR, InvalidInput, JobSpec, Recorder, Runtime, ScriptedEngine, Trace
from plait.runtime.cli.live import JobView, table, watch
from plait.runtime.cli.main import main
from plait.runtime.events import BranchStarted, Joined, Pruned, Stopped, Text
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


def added(arguments):
    if "bad" in arguments:
        raise InvalidInput("not like that")
    return len(arguments)


@pytest.fixture
def commands(monkeypatch):
    """Two commands of other packages, one of which has the name of a built-in one."""
    names = ("added", "run")
    found = [EntryPoint(name, f"{__name__}:added", "plait.commands") for name in names]
    monkeypatch.setattr(EntryPoint, "load", lambda entry: added)
    monkeypatch.setattr("plait.runtime.cli.main.entry_points", lambda group: found if group == "plait.commands" else [])


@pytest.mark.usefixtures("commands")
def test_other_packages_add_commands(capsys):
    assert main(["added", "--help", "x", "-y"]) == 3
    assert main(["added", "bad"]) == 1
    assert capsys.readouterr().err == "plait: not like that\n"
    for arguments in (["--help"], ["no-such-command"]):
        with pytest.raises(SystemExit):
            main(arguments)
        out, err = capsys.readouterr()
        assert "added" in out + err
    assert main(["run", "/no/such/job.json"]) == 1  # built-in commands cannot be replaced


def test_registered_commands_can_be_loaded():
    project = tomllib.loads((Path(plait.__file__).parent / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["plait.commands"].items():
        assert callable(EntryPoint(name, value, "plait.commands").load())


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
