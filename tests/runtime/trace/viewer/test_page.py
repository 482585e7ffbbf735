"""The viewer's page: self-contained, and drawn and worked by a real browser without a complaint."""

from __future__ import annotations

import math
import re

import pytest

from plait import Trace
from plait.runtime.cli.main import main
from plait.runtime.trace.viewer import render, script, style, trace_data
from plait.runtime.trace.viewer.page import embed
from plait.tests.browser import browser
from plait.tests.runtime.trace.viewer.samples import SAMPLES, large, sample

REMOTE = re.compile(r"https?:|//cdn|\bimport\s*\(|\bfetch\s*\(|@import|url\(", re.IGNORECASE)
COLOURS = """(() => {
  const canvas = document.querySelector('.plait-trace .sticky canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
})()"""
"""How many colours the drawing has."""
PICTURE = "document.querySelector('.sticky canvas').toDataURL()"


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chromium, tmp_path):
    """Opens a trace in the browser, and fails the test if the browser complained."""
    chromium.problems.clear()

    def show(trace, **options):
        file = tmp_path / "page.html"
        file.write_text(render(trace), encoding="utf-8")
        chromium.open(file, **options)
        return chromium

    yield show
    assert chromium.problems == []


def text(page, selector):
    return page.evaluate(f"document.querySelector({selector!r})?.textContent ?? null")


def facts(page):
    """Names and values in the panel."""
    pairs = "[...document.querySelectorAll('.details dl')].flatMap((dl) => [...dl.children])"
    cells = page.evaluate(f"{pairs}.map((cell) => cell.textContent)")
    return dict(zip(cells[::2], cells[1::2], strict=True))


def focus(page):
    page.evaluate("document.querySelector('.scroller').focus()")


def test_the_parts_refer_to_nothing_outside():
    assert not REMOTE.search(script()) and not REMOTE.search(style())
    assert script().isascii() and style().isascii()


def test_the_command_writes_the_page(tmp_path, capsys):
    sample("apr").save(tmp_path / "trace.jsonl.gz")
    assert main(["trace", "view", str(tmp_path / "trace.jsonl.gz")]) == 0
    page = tmp_path / "trace.jsonl.gz.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8") == render(Trace.load(tmp_path / "trace.jsonl.gz"))


@pytest.mark.parametrize(("name", "dark"), [*((name, False) for name in SAMPLES), ("apr", True), ("hogwild", True)])
def test_a_browser_draws_it(page, name, dark):
    opened = page(sample(name), dark=dark)
    assert opened.evaluate("document.images.length + document.querySelectorAll('script').length") == 2
    assert opened.evaluate("document.querySelectorAll('.plait-trace canvas').length") == 2
    assert opened.evaluate(COLOURS) > 20
    shade = opened.evaluate("getComputedStyle(document.querySelector('.plait-trace')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", shade))) < 384) == dark


@pytest.mark.parametrize(("name", "wanted"), [("apr", "join (as text)"), ("tree_search", "pruned or failed")])
def test_the_legend_has_what_the_trace_has(page, name, wanted):
    legends = {name: text(page(sample(name)), ".legend"), "samples": text(page(sample("samples")), ".legend")}
    assert wanted in legends[name] and wanted not in legends["samples"]


@pytest.mark.parametrize("value", [None, math.nan])
def test_figures_that_are_not_known_are_left_out(page, value):
    names = ("total_tokens", "prompt_tokens", "generated_tokens", "injected_tokens", "critical_tokens", "seconds")
    trace = sample("apr")
    trace.end["usage"] = dict.fromkeys((*names, "peak_kv_blocks"), value)
    opened = page(trace)
    assert text(opened, ".details h2") == "Job" and "Finish" in facts(opened)
    assert not {"Generated", "Injected", "Prompts", "Critical path", "KV blocks", "Seconds"} & facts(opened).keys()
    assert "critical" not in text(opened, ".figures")


@pytest.mark.parametrize("letter", ["i", "W", "\u6f22", "\U0001f9f5"])
@pytest.mark.parametrize("count", [3, 60])
def test_labels_end_before_the_count(page, letter, count):
    trace = sample("samples")
    for branch in trace.branches.values():
        branch.label = letter * count
    opened = page(trace)
    opened.evaluate(
        """(() => {
          const draw = CanvasRenderingContext2D.prototype.fillText;
          globalThis.drawn = [];
          CanvasRenderingContext2D.prototype.fillText = function (text, x, ...place) {
            const width = this.measureText(text).width;
            drawn.push([text, this.textAlign === 'right' ? x - width : x, this.textAlign === 'right' ? x : x + width]);
            return draw.call(this, text, x, ...place);
          };
        })()"""
    )
    focus(opened)
    opened.press("ArrowDown")
    drawn = opened.evaluate("drawn")
    labels = [i for i, (shown, *_) in enumerate(drawn) if shown.startswith(letter)]
    assert len(labels) >= len(trace.branches)
    # The count is drawn just before the label.
    assert all(drawn[i][2] < drawn[i - 1][1] for i in labels)
    assert count > 3 or drawn[labels[0]][0] == letter * count


def test_keys_walk_through_branches_and_tokens(page):
    opened = page(sample("apr"))
    focus(opened)
    assert text(opened, ".details h2") == "Job"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        opened.press(key)
    assert text(opened, ".details h2").startswith("0,1")
    found = facts(opened)
    assert found["Probability"] == "0.607 (logprob -0.50)" and found["Spawned by"] == "root"
    data = trace_data(sample("apr"))
    row = next(i for i, b in enumerate(data["pieces"]["branch"]) if b == 1 and data["pieces"]["kind"][i] == 2)
    assert found["Step"] == str(data["pieces"]["step"][row] + 1)
    assert opened.evaluate("document.querySelector('.t.selected').textContent") == data["pieces"]["text"][row][1]
    opened.press("Escape")
    assert text(opened, ".details h2") == "Job"


def test_a_click_selects_and_the_text_leads_on(page):
    opened = page(sample("samples"))
    opened.click(600, 208)  # The first sample's lane, in the middle of its third token.
    assert facts(opened)["Text"] == '"u"'
    opened.evaluate("document.querySelectorAll('.details .t')[3].click()")
    assert facts(opened)["Text"] == '"r"'
    opened.evaluate("document.querySelector('.details .link').click()")
    assert text(opened, ".details h2").startswith("0 ")


def test_search_finds_what_is_there(page):
    trace = sample("apr")
    opened = page(trace)
    before = opened.evaluate(PICTURE)
    focus(opened)
    opened.press("/", text="/")
    for letter in "goal":
        opened.press(letter, text=letter)
    count = sum(trace.text_of(name).lower().count("goal") for name in trace.branches)
    assert count > 1 and text(opened, ".found") == f"{count} matches"
    assert opened.evaluate(PICTURE) != before
    opened.press("Enter", text="\r")
    opened.press("Enter", text="\r")
    assert text(opened, ".found") == f"2 of {count}"
    for letter in "ies":
        opened.press(letter, text=letter)
    assert text(opened, ".found") == "no match"


def test_tools_and_states_are_drawn_and_told_of(page):
    trace = sample("repair")
    opened = page(trace)
    legend = text(opened, ".legend")
    assert "tool: failed" in legend and "states" in legend
    assert "tool" not in (text(page(sample("apr")), ".legend") + text(opened, ".figures"))
    opened = page(trace)
    assert "tool call" in text(opened, ".figures") and "interrupted" in facts(opened)["Tools"]
    focus(opened)
    opened.press("t", text="t")
    opened.press("ArrowDown")
    assert text(opened, ".details h2").startswith("repository")
    opened.press("ArrowDown")
    assert facts(opened)["Model"] == "ranker" and text(opened, ".log") is None
    opened.press("ArrowDown")
    assert text(opened, ".details h2").startswith("edit 0") and "Model" not in facts(opened)
    entries = opened.evaluate("[...document.querySelectorAll('.log .entry')].map((entry) => entry.textContent)")
    (branch,) = [name for name, record in trace.branches.items() if record.label == "edit 0"]
    own = [record for record in [*trace.states, *trace.tools] if record.branch == branch]
    assert len(entries) == len(own) and "write_initial_edit" in entries[0] and "exec_script" in entries[1]
    before = opened.evaluate(PICTURE)
    opened.evaluate("document.querySelector('.log summary').click()")
    opened.settle()
    first = min((tool for tool in trace.tools if tool.branch == branch), key=lambda tool: tool.began)
    shown = opened.evaluate("[...document.querySelectorAll('.log details[open] pre')].map((pre) => pre.textContent)")
    assert shown == [first.arguments["script"], first.output]
    assert facts(opened)["on"] == "original" and facts(opened)["Outcome"] == first.outcome
    assert opened.evaluate(PICTURE) != before and "edit 0 \u00b7 test on=original" in text(opened, ".sr-only")
    opened.evaluate("document.querySelector('[data-state]').click()")
    assert "write_initial_edit" in text(opened, ".sr-only")


@pytest.mark.parametrize("axis", ["steps", "seconds"])
def test_tools_and_states_are_found_under_the_pointer(page, axis):
    opened = page(sample("repair"))
    if axis == "seconds":
        focus(opened)
        opened.press("t", text="t")
    tips = opened.evaluate(
        """(() => {
          const canvas = document.querySelector('.sticky canvas'), tips = new Set();
          const box = canvas.getBoundingClientRect();
          for (let y = 30; y < canvas.clientHeight; y += 8) {
            for (let x = 160; x < canvas.clientWidth; x += 3) {
              canvas.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + x, clientY: box.top + y}));
              tips.add(document.querySelector('.tip').textContent);
            }
          }
          return [...tips];
        })()"""
    )
    assert any("test on=original" in tip for tip in tips) and any("exec_script" in tip for tip in tips)
    assert any("cross_execution" in tip for tip in tips) and any("exit code 0" in tip for tip in tips)


def test_search_finds_what_tools_said(page):
    trace = sample("repair")
    opened = page(trace)
    opened.evaluate(
        """(() => {
          const query = document.querySelector('input');
          query.value = 'PASSED';
          query.dispatchEvent(new Event('input'));
        })()"""
    )
    count = sum("PASSED" in tool.output for tool in trace.tools)
    assert count > 2 and text(opened, ".found") == f"{count} matches"
    opened.evaluate("document.querySelector('[title^=Next]').click()")
    assert "PASSED" in opened.evaluate("document.querySelector('.log details[open] > pre').textContent")


def test_output_of_tools_is_text(page):
    trace = sample("hostile")
    opened = page(trace)
    focus(opened)
    opened.press("ArrowDown")
    opened.evaluate("document.querySelector('.log summary').click()")
    opened.settle()
    (tool,) = trace.tools
    output = opened.evaluate("document.querySelector('.log details > pre').textContent")
    assert output == tool.output.replace("\ud800", "?")
    assert facts(opened)["__proto__"] == "x" and "<b>" in facts(opened)
    assert opened.evaluate("document.images.length + document.querySelectorAll('script').length") == 2
    assert opened.evaluate("document.querySelectorAll('.details b').length") == 0


def test_the_time_axis_changes_with_the_unit(page):
    opened = page(sample("apr"))
    focus(opened)
    before = opened.evaluate(PICTURE)
    opened.press("t", text="t")
    pressed = "[...document.querySelectorAll('[data-unit]')].map((button) => button.ariaPressed)"
    assert opened.evaluate(pressed) == ["false", "true"]
    assert opened.evaluate(PICTURE) != before
    untimed = sample("apr")
    for record in untimed.branches.values():
        record.opened = record.closed = None
    assert page(untimed).evaluate(pressed) == ["true"]


def test_several_traces_on_one_page(chromium, tmp_path):
    """As the evaluation's report does it: script and style once, traces put in and taken out again."""
    chromium.problems.clear()
    body = "<div id=a style='height: 400px'></div><div id=b style='height: 400px'></div>"
    file = tmp_path / "report.html"
    file.write_text(f"<!doctype html><style>{style()}</style>{body}<script>{script()}</script>", encoding="utf-8")
    chromium.open(file)
    for name in ("apr", "hogwild"):
        chromium.evaluate(f"globalThis.{name} = {embed(trace_data(sample(name)))}; 1")
    chromium.evaluate("globalThis.first = mountTrace(a, apr); globalThis.second = mountTrace(b, hogwild); 1")
    chromium.settle()
    assert text(chromium, "#a h1") == "apr on scripted"
    chromium.evaluate("first.destroy(); mountTrace(a, hogwild); second.destroy(); 1")
    chromium.settle()
    assert text(chromium, "#a h1").startswith("hogwild") and chromium.evaluate("b.innerHTML + b.className") == ""
    assert chromium.evaluate("Object.keys(globalThis).filter((name) => name === 'Viewer' || name === 'h').length") == 0
    assert chromium.problems == []


def test_a_large_trace_stays_fluid(page):
    """CPU time of the page's thread for a frame; what passes on the clock depends on what else runs."""
    opened = page(large(), width=1600, height=1000)
    assert text(opened, ".figures") == "500 branches \u00b7 102,600 tokens"
    opened.evaluate("document.querySelector('[title^=Whole]').click()")
    opened.call("Performance.enable", timeDomain="threadTicks")
    before = cpu_seconds(opened)
    opened.evaluate(
        """(async () => {
          const canvas = document.querySelector('.sticky canvas');
          for (let i = 0; i < 40; i++) {
            canvas.dispatchEvent(new WheelEvent('wheel', {bubbles: true, cancelable: true, clientX: 700, clientY: 400,
              ctrlKey: i % 2 === 0, deltaX: i % 2 ? 25 : 0, deltaY: i % 2 ? 0 : -20}));
            await new Promise(requestAnimationFrame);
          }
        })()"""
    )
    assert (cpu_seconds(opened) - before) / 40 < 0.05


def cpu_seconds(page):
    metrics = page.call("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
