"""The report: figures, plots, and the page in a real browser."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser

import pytest

from plait.evals import run
from plait.evals.report.plots import Point, Series, line_plot, log_ticks, short, ticks
from plait.tests.browser import browser
from plait.tests.evals.tools import engine, grid, solver

HOSTILE = "</script><script>throw 1</script><img src=x onerror=throw(1)>\u2028&amp;"


def hostile(context):
    return f" answer {HOSTILE} 7" if context.endswith(" 1 ;") else solver(context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A grid with wrong, hostile, failed, cut and repeated samples."""
    path = tmp_path_factory.mktemp("report")
    data = path / "problems.jsonl"
    data.write_text(
        '{"id": "a<b>&", "nums": [8, 3, 1], "target": 24}\n{"nums": [9, 2, 2], "target": 13}\n'
        '{"nums": [7, 2, 5], "target": 99}\n'
    )
    config = grid(
        benchmark={"name": "countdown", "data": str(data)},
        methods=[{"method": "sequential"}, {"label": HOSTILE, "method": "self_consistency", "n": 2, "attempts": 2}],
        windows=[20, 40, 300],
        budgets=[{}, {"total_tokens": 60}],
    )
    asyncio.run(run(config, path / "out", engine=engine(hostile)))
    return path / "out"


def test_the_table_has_a_row_per_cell(folder):
    table = [line.split(" | ") for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")]
    head, _, *rows = table
    assert len(rows) == 2 * 2 * 3
    assert {len(row) for row in table} == {len(head)}
    assert {"window", "accuracy", "pass@2", "cons@2", "parallelism", "malformed"} <= set(head)
    first = dict(zip(head, rows[2], strict=True))
    assert (first["| method"], first["window"], first["correct"]) == ("| sequential", "300", "1 of 3")
    assert first["95 %"] == "6.1 - 79.2"
    assert dict(zip(head, rows[5], strict=True))["parallelism"] == "2.0"


TREE = """new Promise((done) => {
  const wait = () => document.getElementById("tree") ? done(1) : setTimeout(wait, 5);
  wait();
})"""
"""Waits until the threads of a sample are drawn."""


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_the_page_needs_nothing_else(folder):
    text = (folder / "report.html").read_text()
    parser = Elements()
    parser.feed(text)
    links = [a for _, a in parser.seen if any(name in a for name in ("src", "href"))]
    assert links == [{"rel": "icon", "href": "data:,"}]
    assert "img" not in {tag for tag, _ in parser.seen}
    assert not re.search(r"url\(|@import|\bfetch\(|\bimport\(", text)
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_works_in_a_browser(chromium, folder, dark):
    chromium.problems.clear()
    chromium.open(folder / "report.html", dark=dark, height=1200)

    def text(selector):
        return chromium.evaluate(f"document.querySelector({selector!r}).innerText")

    def pick(method, problem):
        cell = f"document.querySelectorAll('#problems tbody tr')[{problem}].cells[{method}]"
        chromium.evaluate(f"{cell}.querySelector('button').click()")
        chromium.evaluate(TREE)

    assert chromium.evaluate("document.querySelectorAll('figure svg').length") == 4
    assert chromium.evaluate("document.querySelectorAll('#figures tbody tr').length") == 12
    assert chromium.evaluate("document.querySelectorAll('#problems tbody tr').length") == 3
    pick(1, 1)
    assert "correct" in text("#detail") and "sequential" in text("#detail")
    assert "9 + 2 + 2" not in text("#detail") and "make 13 from 9 2 2" in text("#detail")
    assert len(text("#tree").splitlines()) >= 2
    assert chromium.evaluate("document.querySelector('#viewer.plait-trace canvas') !== null")
    pick(2, 0)
    assert HOSTILE.split(">")[0] in text("#detail")
    assert chromium.evaluate("document.querySelectorAll('#tree li').length") == 3
    chromium.evaluate("(document.getElementById('search').value = '24', document.getElementById('search').oninput())")
    assert chromium.evaluate("document.querySelectorAll('#problems tbody tr').length") == 1
    chromium.evaluate("document.querySelector('#legend button').onmouseenter()")
    assert chromium.evaluate("document.querySelectorAll('.series.picked').length") == 4
    assert chromium.problems == []


def test_a_plot_places_its_points():
    points = [Point(x=x, y=y, low=y - 0.1, high=y + 0.1, note="n") for x, y in [(64, 0.2), (256, 0.6)]]
    plot = line_plot([Series(name="a & b", index=9, points=tuple(points))], x_label="<x>", is_logarithmic=True)
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in re.search('points="([^"]*)"', plot)[1].split())
    assert (x1, x2) == (52, 504) and y1 > y2
    assert 'class="series c1"' in plot and plot.count("<rect") == 2 and "a &amp; b: n" in plot and "<x>" not in plot
    assert line_plot([], x_label="x", is_logarithmic=False) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.13, 0.87, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.5, 0.5, [0.5, 0.5 + 1e-9]), (3, 17, [0, 5, 10, 15, 20])],
)
def test_ticks(low, high, expected):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) <= 8
    if high > low:
        assert found == pytest.approx(expected)


def test_log_ticks():
    assert log_ticks(100, 2048) == [64, 128, 256, 512, 1024, 2048]
    assert log_ticks(5, 5) == [4, 8]
    assert log_ticks(1, 1e6)[-1] >= 1e6 and len(log_ticks(1, 1e6)) <= 8
    assert [short(n) for n in (0.25, 512, 2048, 1500, 3e6)] == ["0.25", "512", "2k", "1.5k", "3M"]
