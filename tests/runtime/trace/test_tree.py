"""A trace in the terminal: what came when, tools and states included."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from plait import Trace
from plait.runtime.trace.record import BranchRecord, Piece, StateRecord, ToolRecord
from plait.runtime.trace.tree import MAX_DEPTH, OUTPUT_LINES, show
from plait.tests.runtime.trace.viewer.samples import sample


def drawn(trace, width=400):
    screen = Console(file=io.StringIO(), width=width)
    show(trace, screen)
    return screen.file.getvalue()


def places(text, *parts):
    """Where the parts stand, each after the one before."""
    found = []
    for part in parts:
        found.append(text.index(part, found[-1] + 1 if found else 0))
    return found


def test_states_and_tools_stand_where_they_were():
    trace = sample("repair")
    text = drawn(trace)
    failed = sum(tool.outcome == "failed" for tool in trace.tools)
    assert f"{len(trace.tools)} tool calls ({failed} failed, " in text.splitlines()[0]
    assert places(
        text, "repository", "prompt ", "relevance  at ", "test_and_edit  at ", "edit 0", "cross_execution  at "
    )
    branch = text[text.index("edit 0") : text.index("edit 1")]
    assert places(
        branch, "write_initial_edit  at ", "Write the edit.", "sampled ", "exec_script  at ", "tool test",
        "on=original", "tool test", "on=edit", "approve_or_revise  at ", "sampled ", "done  at ",
    )  # fmt: skip
    assert "script=import flask try: " in branch and "raise SystemExit(2)" not in branch


def test_a_trace_without_tools_has_none_of_it():
    assert "tool" not in drawn(sample("apr"))


@pytest.mark.parametrize("lines", [0, 3, OUTPUT_LINES + 5])
def test_the_end_of_the_output_is_shown(lines):
    trace = trace_with(
        ToolRecord(branch="0", tool="t", arguments={"n": 3, "long": "x" * 99}, began=1, ended=3, ok=True)
    )
    trace.tools[0].output = "".join(f"line {i}\n" for i in range(lines))
    text = drawn(trace)
    assert "tool t  ok  2.00 s  n=3  long=xxx" in text and "x..." in text
    shown = [line for line in text.splitlines() if " line " in line and "before" not in line]
    assert len(shown) == min(lines, OUTPUT_LINES) and all(f"line {lines - 1}" in line for line in shown[-1:])
    assert ("... 5 lines before" in text) == (lines > OUTPUT_LINES)


def test_nothing_of_it_steers_the_terminal():
    text = "a\x1b[2Jb\x9b1m\u202e"
    trace = trace_with(ToolRecord(branch="0", tool=text, arguments={"x": text}, began=1, output=text))
    trace.states.append(StateRecord(branch="0", state=text, time=1.0))
    trace.new_segment("0", 0, ()).pieces.append(Piece(kind="sampled", token_ids=[1], text=text))
    trace.end = {"finish": text, "answer": text}
    trace.header["model"] = text
    trace.branches["0"].label, trace.branches["0"].finish = "x", text
    assert not set("\x1b\x9b\u202e") & set(drawn(trace))
    assert drawn(trace).count("a\\x1b[2Jb\\x9b1m\\u202e") == 9


@pytest.mark.parametrize("more", [0, 1, 1500])
@pytest.mark.parametrize(("width", "depth"), [(400, MAX_DEPTH), (80, 15), (10, 1)])
def test_what_is_far_below_is_counted(width, depth, more):
    trace = Trace({"model": "m", "method": {"method": "x"}})
    for i in range(depth + more):
        parent = f"b{i - 1}" if i else None
        trace.branches[f"b{i}"] = BranchRecord(id=f"b{i}", parent=parent, origin="fork", label="", level=i)
        trace.new_segment(f"b{i}", 0, ())
    text = " ".join(drawn(trace, width).split()) + " "
    assert f"b{depth - 1} " in text and f"b{depth} " not in text
    assert text.count("more below") == bool(more) and (not more or f"... {more:,} more below" in text)


def trace_with(tool):
    trace = Trace({"model": "m", "method": {"method": "x"}})
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="", level=0)
    trace.tools.append(tool)
    return trace
