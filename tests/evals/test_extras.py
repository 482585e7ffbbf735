"""What benchmarks may do besides grading: prepare problems, judge by details, say more, write files."""

from __future__ import annotations

import json
import re
from typing import Literal

import pytest

from plait import InvalidInput, PlaitError
from plait.evals import EvalConfig, Verdict, register_benchmark, run
from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.config import read_toml
from plait.evals.extras import Extra
from plait.evals.report.extras import curves, number
from plait.evals.report.summary import Cell
from plait.evals.rows import Row
from plait.evals.runner import report_so_far
from plait.evals.store import read_units
from plait.tests.evals.tools import engine


@register_benchmark
class Talkative(Countdown):
    name: Literal["test_talkative"] = "test_talkative"  # type: ignore[assignment]
    """What configurations call it."""
    unprepared: tuple[str, ...] = ()
    """Ids."""
    unjudged: tuple[str, ...] = ()
    """Ids."""

    async def prepare(self, sample):
        if sample.id in self.unprepared:
            raise PlaitError("no such place")

    async def judge(self, sample, method, answer, text, details):
        if sample.id in self.unjudged:
            raise PlaitError("the judge is out")
        verdict = self.grade(sample, answer, text)
        extra = Extra(
            numbers={"wit": 0.25 if method.method == "sequential" else 0.75},
            parts={"talk": {"calls": 2, "output": 1500, "seconds": 3.25}, "thought": {"calls": 1}},
            curves={"best": [0, verdict.correct], "any": [1, 1]},
            limit="words of each",
            notes=["judged by <ear>"],
        )
        return Verdict(correct=verdict.correct, extracted=verdict.extracted, reason=verdict.reason, extra=extra)

    def export(self, folder, answers):
        (folder / "answers.json").write_text(json.dumps([[a.sample, a.method, a.place, a.answer] for a in answers]))


def config(**fields):
    methods = [
        {"label": "a", "method": "sequential"},
        {"label": "b", "method": "self_consistency", "n": 2, "attempts": 2},
    ]
    benchmark = {"name": "test_talkative", "numbers": 3, "count": 3, **fields}
    return EvalConfig(benchmark=benchmark, methods=methods, concurrency=2)


async def test_the_report_shows_them(tmp_path):
    report = await run(config(), tmp_path, engine=engine())
    units, _ = read_units(tmp_path)
    assert all(unit.rows[0].extra.parts["talk"]["seconds"] == 3.25 for unit in units.values())
    table = report.with_suffix(".md").read_text()
    head, _, a, b = [line.split(" | ") for line in table.splitlines() if line.startswith("|")][:4]
    assert (a[head.index("wit")], b[head.index("wit")]) == ("25.0 %", "75.0 %")
    assert (
        "| a | talk | 2 | 1,500 |" in table and "| b | thought | 1 | 0 |" in table and "seconds |\n| ---" not in table
    )
    assert "judged by &lt;ear> (9 of 9)" in table
    page = report.read_text()
    assert "judged by &lt;ear&gt; (9 of 9)" in page and "judged by <ear>" not in page.partition('id="data"')[0]
    assert '<td class="m">3.25</td>' in page and "best: solid, any: dashed" in page
    figure = next(part for part in page.split("<figure") if "words of each" in part)
    assert len(re.findall(r'<g class="series c[01]( v1)?"', figure)) == 4 and figure.count("<circle") == 8
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert len(answers) == 9 and {place for _, _, place, _ in answers} == {"", "attempt 0", "attempt 1"}


async def test_a_problem_that_a_benchmark_breaks_on_has_failed_and_the_others_go_on(tmp_path, monkeypatch):
    broken = config()
    first, second, third = [sample.id for sample in broken.benchmark.load()]
    cls = type(broken.benchmark)
    prompt, judge = cls.prompt, cls.judge

    def odd_prompt(self, sample, method):
        return {} if sample.id == second else prompt(self, sample, method)

    async def odd_judge(self, sample, *args):
        return 1 / (sample.id != third) and await judge(self, sample, *args)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "prompt", odd_prompt)
        patch.setattr(cls, "judge", odd_judge)
        await run(broken, tmp_path, engine=engine())
    units, _ = read_units(tmp_path)
    errors = {key.sample: unit.rows[0].error for key, unit in units.items()}
    assert errors[first] is None and errors[third] == "no verdict: ZeroDivisionError: division by zero"
    assert "no job: InvalidJob: malformed" in errors[second]
    await run(broken, tmp_path, engine=engine(), retry_failed=True)
    assert not any(unit.has_failed for unit in read_units(tmp_path)[0].values())


async def test_a_benchmark_that_breaks_on_its_first_problem_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(type(config().benchmark), "prompt", lambda *_: None)
    with pytest.raises(InvalidInput, match=r"test_talkative, problem '.*': TypeError: "):
        await run(config(), tmp_path, engine=engine())


async def test_what_cannot_be_prepared_or_judged_has_failed(tmp_path):
    ids = [sample.id for sample in config().benchmark.load()]
    model = engine()
    await run(config(unprepared=[ids[1]], unjudged=[ids[2]]), tmp_path, engine=model)
    units, _ = read_units(tmp_path)
    errors = {key.sample: unit.rows[0].error for key, unit in units.items()}
    assert errors == {
        ids[0]: None,
        ids[1]: "PlaitError: no such place",
        ids[2]: "no verdict: PlaitError: the judge is out",
    }
    tokens = {key.sample: unit.rows[0].total_tokens for key, unit in units.items()}
    assert tokens[ids[1]] == 0 and tokens[ids[2]] > 0
    assert len(json.loads((tmp_path / "answers.json").read_text())) == 3
    with pytest.raises(PlaitError, match="no such place"):
        await run(config(unprepared=[ids[0]]), tmp_path / "other", engine=engine())


async def test_rows_of_before_are_read(tmp_path):
    await run(config(), tmp_path, engine=engine())
    results = tmp_path / "results.jsonl"
    units = [json.loads(line) for line in results.read_text().splitlines()]
    for unit in units:
        for row in unit["rows"]:
            del row["extra"]
    results.write_text("".join(json.dumps(unit) + "\n" for unit in units))
    kept = json.loads((tmp_path / "settings.json").read_text())
    kept["settings"] |= {"model": config().model, "model_files": None}
    (tmp_path / "settings.json").write_text(json.dumps(kept))
    table = report_so_far(config(), tmp_path).with_suffix(".md").read_text()
    assert "wit" not in table and "talk |" not in table and "| a |" in table


def test_numbers_are_means_over_problems():
    def row(**numbers):
        extra = Extra(numbers=numbers) if numbers else None
        return Row(window=None, correct=True, extracted=None, reason="", finish="eos", counts={}, extra=extra)

    cell = Cell("m", 0, None, {"a": (row(x=1.0), row(x=0.0)), "b": (row(x=1.0), row(y=1.0)), "c": (row(),)})
    assert (number(cell, "x"), number(cell, "y"), number(cell, "z")) == (0.75, 1.0, None)


def test_a_job_that_wrote_nothing_counts_in_the_curves():
    def cell(*found):
        extras = [Extra(curves={} if one is None else {"any": one}, limit="calls") for one in found]
        row = {"window": None, "correct": True, "extracted": None, "reason": "", "finish": "eos", "counts": {}}
        return Cell("m", 0, None, {str(i): (Row(**row, extra=extra),) for i, extra in enumerate(extras)})

    figure = curves([("m", [cell([1.0, 1.0], [], [], [0.0], None)])])
    assert "25.0 %" in figure and "within 2" in figure and "50.0 %" not in figure
    assert "0.0 %" in curves([("m", [cell([], [])])]), "nor is it an error where all are so"


def test_fields_of_benchmarks_are_relative_to_the_file(tmp_path):
    (tmp_path / "eval.toml").write_text('[benchmark]\nname = "swebench"\nrepos = "mirrors"\nrecipes = "/etc/r.toml"\n')
    found = read_toml(tmp_path / "eval.toml")["benchmark"]
    assert (found["repos"], found["recipes"]) == (str(tmp_path / "mirrors"), "/etc/r.toml")
    with pytest.raises(InvalidInput):
        read_toml(tmp_path / "none.toml")
