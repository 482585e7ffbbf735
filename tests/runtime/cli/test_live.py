"""A job in the terminal while it runs, a trace in the terminal, and tables."""

from __future__ import annotations

import io

from rich.console import Console

from plait import APR, Runtime, ScriptedEngine, Trace
from plait.runtime.cli.live import JobView, watch
from plait.runtime.cli.table import table
from plait.runtime.events import (
    BranchStarted,
    Joined,
    Pruned,
    Started,
    StateEntered,
    Stopped,
    Text,
    ToolFinished,
    ToolStarted,
)
from plait.runtime.trace.tree import MAX_DEPTH, show
from plait.tests.runtime.methods.apr.test_apr import model
from plait.tests.runtime.methods.apr.test_paper import ROOT


def console(**options):
    return Console(file=io.StringIO(), width=100, **options)


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


def test_state_and_running_tools_of_a_thread():
    view = JobView("job")
    view.feed(started("0", None, "edit 0"))
    view.feed(StateEntered(job="j", time=1.0, branch="0", state="exec_script"))
    assert "waiting" in drawn(view) and "exec_script" in drawn(view)
    for on in ("original", "edit"):
        arguments = {"on": on, "script": "print(1)\n" * 50}
        view.feed(ToolStarted(job="j", time=1.0, branch="0", tool="test", arguments=arguments))
    (line,) = drawn(view).splitlines()[1:]
    assert "tool " in line and "exec_script: test on=original and 1 more" in line and "print" not in line
    view.feed(ToolFinished(job="j", time=2.0, branch="0", tool="test", ok=True, output=""))
    assert "exec_script: test on=edit" in drawn(view) and "more" not in drawn(view)
    view.feed(ToolFinished(job="j", time=2.0, branch="0", tool="test", ok=False, output=""))
    view.feed(StateEntered(job="j", time=3.0, branch="0", state="done"))
    assert "test" not in drawn(view) and "tool" not in drawn(view) and "done" in drawn(view)


def test_a_tool_that_started_unseen_may_end():
    view = JobView("job")
    view.feed(ToolFinished(job="j", time=2.0, branch="7", tool="test", ok=True, output=""))
    assert "waiting" in drawn(view)


def test_nothing_that_a_model_wrote_steers_the_terminal():
    view = JobView("job")
    view.feed(started("0", None, "\x1b]0;label\x07"))
    view.feed(StateEntered(job="j", time=1.0, branch="0", state="\x1b[31m"))
    view.feed(ToolStarted(job="j", time=1.0, branch="0", tool="t", arguments={"x": "\x9b2J"}))
    view.feed(Text(job="j", time=1.0, branch="0", text="\x1b[2J\u202e", tokens=1))
    assert not set("\x1b\x9b\x07\u202e") & set(drawn(view))
    assert "\\x1b[2J" in drawn(view)


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


def test_a_job_begun_anew_is_drawn_anew():
    view = JobView()
    for _ in range(2):
        view.feed(Started(job="j", time=0.0, method="m", model="x"))
        view.feed(BranchStarted(job="j", time=0.0, branch="0", parent=None, label="", prompt_tokens=1))
    assert "1 thread " in view.summary()


def test_what_is_far_below_is_counted():
    view = JobView()
    for i in range(1500):
        parent = f"b{i - 1}" if i else None
        view.feed(BranchStarted(job="j", time=0.0, branch=f"b{i}", parent=parent, label="", prompt_tokens=0))
    screen = Console(file=io.StringIO(), width=400)
    screen.print(view.render())
    last = screen.file.getvalue().splitlines()[-1]
    assert f"b{MAX_DEPTH - 1}  " in last and f"{1500 - MAX_DEPTH:,} below" in last
