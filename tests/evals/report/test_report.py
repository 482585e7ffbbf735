"""The report: its parts, hostile texts, and the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.evals import run
from plait.evals.report.settings import phrase
from plait.evals.report.template import fill
from plait.tests.browser import browser
from plait.tests.evals.tools import engine, grid, solver

HOSTILE = "</script><script>throw 1</script><img src=x onerror=throw(1)>\u2028&amp;{{script}}$\\mathbf{{full}}$<!--"


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
    assert {"window", "accuracy", "pass@2", "cons@2", "parallelism", "# parallel", "malformed"} <= set(head)
    first = dict(zip(head, rows[2], strict=True))
    assert (first["| method"], first["window"], first["correct"]) == ("| sequential", "300", "1 of 3")
    assert first["95 %"] == "6.1 - 79.2"
    assert rows[2][6] == "" and rows[5][6].endswith(", sign-flip permutation")
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
    for name, count in [("{{script}}", 1), ("{{full}}", 1), ("{{title}}", 0), ("{{viewer}}", 0), ("{{headline}}", 0)]:
        assert (name in text) == bool(count), name  # only as the method's own label


names = st.sampled_from(["a", "b", "script", "full"])
texts = st.lists(st.sampled_from(["{{a}}", "{{b}}", "{{full}}", "{{", "}}", "{", "\\1", "$&", "\\g<0>", "x"])).map(
    "".join
)


@given(st.dictionaries(names, texts, min_size=1), st.data())
def test_values_are_put_in_as_they_are(values, data):
    parts = data.draw(st.lists(st.sampled_from(list(values)) | st.just(None), max_size=6))
    template = "".join(" { } " if name is None else f"{{{{{name}}}}}" for name in parts)
    assert fill(template, values) == "".join(" { } " if name is None else values[name] for name in parts)


def test_a_place_without_a_value_is_a_defect():
    with pytest.raises(KeyError, match="b"):
        fill("{{a}}{{b}}", {"a": "1"})


HOSTILE_PARTS = [
    "{{script}}",
    "{{full}}",
    "</script>",
    "<!--",
    "<script>",
    "]]>",
    "\\",
    "'",
    '"',
    "`",
    "$&",
    "\u2029",
    "\0",
]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE_PARTS), min_size=1, max_size=6).map("".join).filter(str.strip))
def test_hostile_texts_come_back_from_the_page(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.jsonl"
        path.write_text(json.dumps({"id": text, "problem": text, "answer": text}))
        config = grid(
            benchmark={"name": "math500", "data": str(path)},
            methods=[{"label": text, "method": "sequential", "stop": [text]}],
        )
        report = asyncio.run(run(config, Path(folder) / "out", engine=engine(lambda context: text)))
        page = report.read_text()
        assert len(report.with_suffix(".md").read_text().splitlines()) == len(MARKDOWN_LINES) + 1
    parser = Elements()
    parser.feed(page)
    assert [tag for tag, _ in parser.seen if tag in ("script", "style", "img")] == ["style", *["script"] * 5]
    data = json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["problems"] == [[text, text, text]] and data["methods"] == [text]


MARKDOWN_LINES = ["title", "", "headline", "", "head", "rule", "", "date", "versions", "machine"]


def test_the_first_line_says_what_came_out(folder):
    text = (folder / "report.html").read_text()
    line = re.search('<p id="headline">(.*?)</p>', text)[1]
    assert line.startswith(
        "sequential is best: 1 of 3, 33.3 % (6.1 - 79.2) in a window of 300 tokens without a budget."
    )
    assert line.endswith("All 18 runs are done, none failed.")
    assert re.search(r'<p class="m">Run of \d{4}-\d\d-\d\d, \d\d:\d\d UTC</p>', text)


def test_settings_can_be_read(folder):
    text = (folder / "report.html").read_text()
    methods = re.search('<table id="methods">(.*?)</table>', text, re.DOTALL)[1]
    assert "<td></td><td>sequential</td><td>1</td><td>defaults</td>" in methods
    assert "<td>self_consistency</td><td>2</td><td>n 2</td>" in methods
    facts = dict(re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", text))
    assert facts["windows"] == "20, 40, 300 tokens" and facts["budgets"] == "no limit; total_tokens 60"
    assert facts["benchmark"] == "countdown" and facts["seed"] == "0"
    nested = {"strategy": {"strategy": "ets", "floor": True}, "stop": [";", " x"], "n": 4}
    assert phrase(nested) == "strategy (strategy ets, floor True), stop [;, ' x'], n 4"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Long names, many columns, long reasons."""
    path = tmp_path_factory.mktemp("wide")
    names = ["Selbstkonsistenz" * 9, "several words in a name that goes on and on, with n=16 and temperature=0.65 " * 2]
    data = path / "problems.jsonl"
    rows = [{"id": "i" * 300, "nums": [8, 3, 1], "target": 24}, {"nums": [8, 3, 2], "target": 24}]
    data.write_text("\n".join(map(json.dumps, rows)))

    def script(context):
        if context.endswith(" 3 2 ;"):
            raise RuntimeError("out of luck")
        return hostile(context)

    methods = [{"label": name, "method": "self_consistency", "n": 2, "attempts": 9} for name in names]
    methods += [{"label": f"method number {i}", "method": "sequential"} for i in range(12)]
    config = grid(
        benchmark={"name": "countdown", "data": str(data)}, methods=methods, windows=[20, 4000],
        budgets=[{"total_tokens": 100_000, "critical_tokens": 90_000, "seconds": 3600.5, "width": 64, "depth": 3}, {}],
    )  # fmt: skip
    asyncio.run(run(config, path / "out", engine=engine(script)))
    return path / "out" / "report.html"


OVERFLOW = """[...document.querySelectorAll("main *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.right > innerWidth + 1 && !one.closest(".scroll, svg, #detail, #viewer");
}).map((one) => `${one.tagName} ${one.id} ${one.className}`)"""
"""What sticks out of the page and cannot be scrolled to."""


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_wide_tables_and_long_names_fit(chromium, wide, width):
    chromium.problems.clear()
    chromium.open(wide, width=width, height=900)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(OVERFLOW) == []
    first = "document.querySelector('#figures td').getBoundingClientRect()"
    assert chromium.evaluate(f"{first}.width") <= 281
    table = "document.querySelector('#figures')"
    assert chromium.evaluate(f"{table}.offsetWidth > {table}.parentNode.clientWidth")
    chromium.evaluate(f"{table}.parentNode.scrollLeft = 1e6")
    last = "document.querySelector('#figures tr:last-child td:last-child').getBoundingClientRect().right"
    assert chromium.evaluate(last) <= width
    assert chromium.evaluate(f"{first}.left") >= 0  # the name stays
    chromium.evaluate("document.querySelector('#problems button').click()")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.problems == []


def test_failed_samples_are_marked(chromium, wide):
    chromium.problems.clear()
    chromium.open(wide)
    chromium.evaluate("document.getElementById('show').value = 'failed'")
    chromium.evaluate("document.getElementById('show').onchange()")
    assert chromium.evaluate("document.querySelectorAll('#problems tbody tr').length") == 1
    chromium.evaluate("document.querySelector('#problems button.failed').click()")
    assert "failed: RuntimeError: out of luck" in chromium.evaluate("document.getElementById('detail').innerText")
    for name, count in [("wrong", 1), ("differ", 0), ("none", 2)]:
        chromium.evaluate(f"document.getElementById('show').value = '{name}'")
        chromium.evaluate("document.getElementById('show').onchange()")
        assert chromium.evaluate("document.querySelectorAll('#problems tbody tr').length") == count, name
    assert chromium.problems == []


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
