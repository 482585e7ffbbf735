"""The report: what failed, hung or missed its bar is in it, and costs nothing of the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from plait.benchmarks.gpu import link, report
from plait.benchmarks.gpu.lines import FLOOR, Book, Line, read


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_hanging_topic_is_ended_with_its_children(tmp_path):
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '300']); print(p.pid, flush=True); p.wait()"
    start = time.monotonic()
    done = report.run_topic("floor", python(code), 2.0, tmp_path / "log")
    assert done.error == "ended after 2 s" and time.monotonic() - start < 30
    for _ in range(100):
        try:
            os.kill(int(done.last_line), 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        # Whoever adopted it may not have read its status yet.
        state = subprocess.run(["ps", "-o", "stat=", "-p", done.last_line], capture_output=True, text=True).stdout
        assert state.strip().startswith("Z")


def test_a_failing_topic_leaves_its_last_line(tmp_path):
    done = report.run_topic("floor", python("print(1); raise SystemExit('no such | card')"), 60.0, tmp_path / "log")
    assert (done.error, done.last_line) == ("exit status 1", "no such | card")


def test_time_is_shared_by_those_that_come_later(tmp_path, monkeypatch):
    limits = {}

    def run_topic(topic, command, limit, log):
        limits[topic] = limit
        log.write_text("")
        return report.Done(topic=topic, command="", seconds=0.0)

    monkeypatch.setattr(report, "run_topic", run_topic)
    report.run_all(report.commands("", tmp_path / "out", True), 540.0, tmp_path)
    assert "tests" not in limits
    # Each takes no time: the last one has all of it.
    assert limits["parallel"] == pytest.approx(540, abs=20)
    assert limits["floor"] < 30


def test_the_page_is_honest():
    lines = [
        Line(topic="attention", what="a", who=FLOOR, value=0.5),
        Line(topic="attention", what="a", value=1.0, bar="at least 75% of the floor", is_met=False),
        Line(topic="attention", what="a", who="SDPA", error="OutOfMemoryError: a | b"),
        Line(topic="attention", what="b", error="wrong: relative error nan"),
    ]
    done = [report.Done(topic="attention", command="python -m x", seconds=3.0, error="ended after 3 s", last_line="q")]
    page = report.page(lines, done, "title", "head")
    assert "0 of 1 bars met, 2 measurements failed" in page
    assert (
        "| a | 0.5 ms | 1 ms | 50% | failed: OutOfMemoryError: a / b | **not met**: at least 75% of the floor |" in page
    )
    assert "| b |  | failed: wrong: relative error nan |  |  |  |" in page
    assert "ended after 3 s: `q`" in page


def test_commands_have_no_places_of_this_machine():
    command = report.commands("", report.ROOT / "x.jsonl", True)["floor"]
    assert report.shown([*command, "--seconds", "9"]) == "python -m plait.benchmarks.gpu.floor --dry"


def test_a_failing_part_costs_nothing_of_the_rest(tmp_path):
    file = tmp_path / "lines.jsonl"
    book = Book("topic", file)
    with book.attempt("first"):
        raise RuntimeError("one\ntwo")
    with book.attempt("second"):
        book.add("second", value=2.0)
    file.write_text(file.read_text() + '{"topic": "to')
    assert [(line.what, line.error, line.value) for line in read(file)] == [
        ("first", "RuntimeError: two", None),
        ("second", "", 2.0),
    ]


def test_what_does_not_fit_the_time_is_not_begun():
    book, begun = Book("topic", seconds=5.0), []
    with book.attempt("slow"):
        book.need(60.0)
        begun.append(1)
    with book.attempt("fast"):
        book.need(1.0)
        begun.append(2)
    assert begun == [2] and [line.what for line in book.lines] == ["slow"] and "not begun" in book.lines[0].error


def test_a_linked_checkout_is_found_with_its_entry_points(tmp_path):
    link.link(tmp_path, report.ROOT)
    link.link(tmp_path, report.ROOT)
    code = (
        "import plait, importlib.metadata as m; print(plait.__file__);"
        "print(sorted(e.name for e in m.entry_points(group='plait.dialects')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    file, names = done.stdout.split("\n")[:2]
    assert file == str(tmp_path / "plait" / "__init__.py") and names == "['compact', 'paper']"
