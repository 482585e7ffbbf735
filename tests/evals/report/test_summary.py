"""Figures of the report without a page: cells, comparisons, the first line, plots."""

from __future__ import annotations

import re

import pytest

from plait.evals.report.columns import columns, interval
from plait.evals.report.headline import headline
from plait.evals.report.plots import Point, Series, line_plot, log_ticks, short, ticks
from plait.evals.report.summary import cells, compare
from plait.evals.rows import Key, Row, Unit
from plait.evals.stats import mcnemar, wilson


def unit(method, sample, **changes):
    values = {"correct": True, "extracted": "1", "reason": "correct", "finish": "eos", "counts": {}, "window": None}
    row = Row(**{**values, **changes})
    return Unit(key=Key(method=method, budget=0, sample=sample, attempt=0), rows=(row,))


def test_failed_rows_are_neither_right_nor_wrong():
    failure = {"correct": False, "error": "out", "finish": "memory", "total_tokens": 8}
    units = [
        *(unit("a", str(i), correct=i < 4, total_tokens=2) for i in range(8)),
        *(unit("b", str(i), **(failure if i < 2 else {"correct": i < 6, "total_tokens": 2})) for i in range(8)),
    ]
    found = cells({one.key: one for one in units}, [("a", 1), ("b", 1)], 1, [None], [str(i) for i in range(8)])
    a, b = found
    assert (a.correct, a.num_judged, b.correct, b.num_judged) == (4, 8, 4, 6)
    assert b.accuracy == pytest.approx(4 / 6) and b.interval == wilson(4, 6)
    assert b.total_tokens == (2 * 8 + 6 * 2) / 8
    compared = compare(b, a)
    assert (compared.problems, compared.test) == (6, "exact McNemar")
    assert compared.difference.mean == pytest.approx(2 / 6) and compared.p == mcnemar([True] * 2, [False] * 2) == 0.5
    texts = {column.title: column.text(b) for column in columns(found, "a", ["no budget"], False)}
    assert texts["correct"] == "4 of 6" and texts["failed"] == "2: memory 2"
    assert texts["less a, 95 %, p"].endswith("p = 0.500, exact McNemar, 6 in common")
    line = headline(found, "a", ["no budget"], 16, 20)
    assert line.startswith("b is best: 4 of 6, 66.7 %") and "Unfinished: 16 of 20 runs are done" in line
    assert "memory 2" in line and "--retry-failed" in line


def test_num_parallel_is_the_mean_of_the_jobs_ratios():
    sizes = {"0": (300, 100), "1": (150, 100), "2": (0, 0)}
    units = [unit("a", sample, total_tokens=n, critical_tokens=m) for sample, (n, m) in sizes.items()]
    (cell,) = cells({one.key: one for one in units}, [("a", 1)], 1, [None], list(sizes))
    assert cell.num_parallel == (3 + 1.5) / 2 and cell.parallelism == 450 / 200
    texts = {column.title: column.text(cell) for column in columns([cell], "a", ["no budget"], False)}
    assert texts["# parallel"] == "2.25"
    (none,) = cells({units[2].key: units[2]}, [("a", 1)], 1, [None], ["2"])
    assert none.num_parallel is None


def test_when_everything_failed_there_is_nothing_to_say():
    units = [unit(m, "0", correct=False, error="e", finish="failed") for m in "ab"]
    found = cells({one.key: one for one in units}, [("a", 1), ("b", 1)], 1, [None], ["0"])
    assert compare(*found) is None and found[0].accuracy is None
    texts = {column.title: column.text(found[0]) for column in columns(found, "b", ["no budget"], False)}
    assert (texts["correct"], texts["accuracy"], texts["95 %"], texts["failed"]) == ("0 of 0", "", "", "1: failed 1")
    assert headline(found, "a", ["no budget"], 2, 2).startswith("There is no verdict yet. All 2 runs are done")


def test_none_of_eight_is_no_certainty():
    found = cells(
        {one.key: one for one in (unit("a", str(i), correct=False) for i in range(8))},
        [("a", 1)], 1, [None], [str(i) for i in range(8)],
    )  # fmt: skip
    assert interval(found[0]) == "0.0 - 32.4"
    assert headline(found, "a", ["no budget"], 8, 8).startswith("a solves: none of 8, 0.0 % (0.0 - 32.4).")


def test_a_plot_places_its_points():
    points = [Point(x=x, y=y, low=y - 0.1, high=y + 0.1, note="n") for x, y in [(64, 0.2), (256, 0.6)]]
    plot = line_plot([Series(name="a & b", index=9, points=tuple(points))], x_label="<x>", is_logarithmic=True)
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in re.search('points="([^"]*)"', plot)[1].split())
    assert (x1, x2) == (64, 504) and y1 > y2
    assert 'class="series c1"' in plot and plot.count("<rect") == 2 and "a &amp; b: n" in plot and "<x>" not in plot
    assert re.findall('<text class="label"[^>]*>([^<]*)<', plot) == ["&lt;x&gt;", "accuracy"]
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
