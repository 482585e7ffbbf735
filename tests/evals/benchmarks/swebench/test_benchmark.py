"""`plait eval --benchmark swebench` on two tiny repositories: from the issue to a graded patch, predictions, report."""

from __future__ import annotations

import json
import re

import pytest

from plait import InvalidInput, InvalidJob, ScriptedEngine
from plait.agents.predictions import read_predictions
from plait.evals import EvalConfig, load, run
from plait.evals.benchmarks.swebench.benchmark import SweBench
from plait.evals.benchmarks.swebench.grading import LOCAL, CannotGrade
from plait.evals.runner import report_so_far
from plait.evals.store import read_units
from plait.runtime.cli.main import main
from plait.tests.agents.tools import SANDBOX
from plait.tests.evals.benchmarks.swebench.tools import DONE, FALSE, NOTHING, PATCHES, RIGHT, benchmark, model

IDS = {"texttools": "acme__texttools-1", "numbertools": "acme__numbertools-2"}


def config(bench, *, n=3, label="monkeys", **fields):
    method = {"label": label, "method": "code_monkeys", "n": n, "edits": "functions", "edit_calls": 3, **fields}
    return EvalConfig(benchmark=bench, methods=[method], concurrency=2)


def engine(edits, **options):
    return ScriptedEngine(model(edits, **options), context_limit=60_000)


async def test_the_right_edit_is_chosen_and_resolves(tiny, tmp_path):
    """Of a no-op, a wrong edit and the right one, twice the wrong one as often."""
    folder, rows = tiny
    bench = benchmark(folder, rows.values(), coverage=True)
    edits = {name: [FALSE[name], NOTHING[name], RIGHT[name], FALSE[name]] for name in rows}
    report = await run(config(bench, n=4), tmp_path / "out", engine=engine(edits))
    units, _ = read_units(tmp_path / "out")
    found = {key.sample: unit.rows[0] for key, unit in units.items()}
    assert found.keys() == set(IDS.values())
    for row in found.values():
        assert (row.correct, row.reason) == (True, "resolved (local)")
        assert row.extra.notes == [LOCAL]
        shares = {"context recall": 1.0, "coverage": 1.0, "one trajectory": 0.25, "most frequent": 0.0}
        assert row.extra.numbers == shares
        assert row.extra.curves == {"coverage": [1.0, 1.0, 1.0], "best by votes": [1.0, 1.0, 1.0]}
        assert {"relevance", "tests", "edits", "selection"} <= set(row.extra.parts)
        assert row.extra.parts["edits"]["calls"] == 3 * 2 + 3, "a no-op is refused, three times"
        assert row.extra.parts["edits"]["output"] > 0
    predictions = {one.instance_id: one for one in read_predictions(tmp_path / "out" / "predictions.jsonl")}
    assert predictions.keys() == set(IDS.values())
    assert all(one.model_name_or_path == "plait monkeys, scripted" for one in predictions.values())
    assert "+        raise ValueError(" in predictions[IDS["texttools"]].model_patch
    assert predictions[IDS["numbertools"]].model_patch.endswith("\n")
    table = report.with_suffix(".md").read_text()
    assert f"{LOCAL} (2 of 2)" in table and "| coverage | one trajectory | most frequent |" in table
    assert re.search(r"\| monkeys \| edits \| 9 \|", table)
    page = report.read_text()
    assert "model calls of each edit trajectory" in page and "best by votes: dashed" in page
    pandas = pytest.importorskip("pandas")
    assert json.loads(load(tmp_path / "out").extra[0])["numbers"]["coverage"] == 1 and pandas


async def test_only_wrong_edits_resolve_nothing(tiny, tmp_path):
    folder, rows = tiny
    bench = benchmark(folder, rows.values(), coverage=True)
    edits = {"texttools": [FALSE["texttools"], NOTHING["texttools"]], "numbertools": [NOTHING["numbertools"]]}
    await run(config(bench, n=2), tmp_path / "out", engine=engine(edits))
    units, _ = read_units(tmp_path / "out")
    found = {key.sample: unit.rows[0] for key, unit in units.items()}
    text, number = (found[IDS[name]] for name in ("texttools", "numbertools"))
    assert not text.correct and text.reason.startswith("unresolved; 1 of 1 FAIL_TO_PASS fail")
    assert (number.correct, number.extracted, number.reason) == (False, None, "unresolved: there is no patch")
    assert [row.extra.numbers["coverage"] for row in (text, number)] == [0, 0]
    assert number.extra.curves == {"coverage": [0, 0, 0], "best by votes": [0, 0, 0]}
    predictions = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert {one.instance_id: bool(one.model_patch) for one in predictions} == {
        IDS["texttools"]: True,
        IDS["numbertools"]: False,
    }


async def test_the_curve_rises_where_a_second_edit_is_right(tiny, tmp_path):
    folder, rows = tiny
    bench = benchmark(folder, [rows["numbertools"]], coverage=True)
    decided = [RIGHT["numbertools"], DONE]
    made = engine({"numbertools": [FALSE["numbertools"]]}, decided=decided)
    await run(config(bench, n=2), tmp_path / "out", engine=made)
    ((_, unit),) = read_units(tmp_path / "out")[0].items()
    assert unit.rows[0].correct
    assert unit.rows[0].extra.curves == {"coverage": [0, 1, 1], "best by votes": [0, 1, 1]}


async def test_several_runs_are_several_files_of_predictions(tiny, tmp_path):
    folder, rows = tiny
    bench = benchmark(folder, [rows["numbertools"]])
    both = config(bench, n=1, attempts=2).methods[0]
    grid = EvalConfig(benchmark=bench, methods=[both, config(bench, n=1, label="b/c").methods[0]], concurrency=1)
    await run(grid, tmp_path / "out", engine=engine({"numbertools": [RIGHT["numbertools"]]}))
    names = {path.name for path in (tmp_path / "out").glob("predictions*")}
    assert names == {f"predictions-{name}.jsonl" for name in ("monkeys_attempt_0", "monkeys_attempt_1", "b_c")}


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_environment_that_cannot_be_made_fails_its_jobs_alone(tiny, tmp_path, monkeypatch, is_first):
    folder, rows = tiny
    broken = {**rows["texttools"], "PASS_TO_PASS": ["of another project"]}
    both = [broken, rows["numbertools"]]
    bench = benchmark(folder, both if is_first else both[::-1])
    report = await run(config(bench, n=1), tmp_path / "out", engine=engine({"numbertools": [RIGHT["numbertools"]]}))
    found = {key.sample: unit.rows[0] for key, unit in read_units(tmp_path / "out")[0].items()}
    assert found[IDS["numbertools"]].correct
    failed = found[IDS["texttools"]]
    assert failed.finish == "failed" and "CannotGrade: acme__texttools-1: the tests do not run" in failed.error
    assert failed.total_tokens == 0, "no model was asked"
    # What is done is reported without the repositories.
    monkeypatch.setattr(SweBench, "mirror", lambda self, instance: None)
    with pytest.raises(InvalidInput, match="put mirrors into"):
        await run(config(bench, n=1), tmp_path / "other", engine=engine({}))
    report.unlink()
    assert report_so_far(config(bench, n=1), tmp_path / "out") == report and report.exists()


async def test_where_no_problem_can_be_used_the_first_says_why(tiny, tmp_path):
    folder, rows = tiny
    broken = {**rows["texttools"], "PASS_TO_PASS": ["of another project"]}
    with pytest.raises(CannotGrade, match="do not run here"):
        await run(config(benchmark(folder, [broken])), tmp_path / "first", engine=engine({}))


def test_from_the_command_line(tiny, tmp_path, capsys):
    """Mistakes are one message before any work."""
    folder, rows = tiny
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    words = ["eval", "--benchmark", "swebench", "--data", str(data), "--out", str(tmp_path / "out")]
    given = [*words, "--repos", str(folder / "mirrors"), "--method", "code_monkeys:n=2"]

    def message(*more):
        assert main([*more]) != 0
        return " ".join(capsys.readouterr().err.split())

    assert "there is no acme/numbertools, acme/texttools: give --repos DIR" in message(
        *words, "--method", "code_monkeys"
    )
    assert "no recipe for the environment of acme/numbertools 1.0 (1), acme/texttools 1.0 (1)" in message(*given)
    recipes = f"recipes={folder / 'recipes.toml'}"
    other = [*words, "--repos", str(folder / "mirrors"), "--set", recipes, "--method", "sequential"]
    assert "swebench needs the method code_monkeys" in message(*other)
    assert "instances: nobody__none-1 is not in the data" in message(*given, "--set", 'instances=["nobody__none-1"]')
    assert "unknown sandbox 'jail'" in message(*given, "--set", recipes, "--set", "sandbox=jail")
    assert not (tmp_path / "out").exists()


def test_what_is_loaded(tiny):
    folder, rows = tiny
    bench = benchmark(folder, rows.values(), instances=[IDS["numbertools"]])
    (sample,) = bench.load()
    assert (sample.id, sample.reference) == (IDS["numbertools"], PATCHES["numbertools"]["gold"])
    prompt = bench.prompt(sample, "code_monkeys")
    assert prompt["repository"] == str(folder / "mirrors" / "acme+numbertools" / "repo")
    assert prompt["project"] == "acme/numbertools 1.0" and prompt["sandbox"] == SANDBOX
    (recipe,) = bench.inputs([sample])["recipes"].values()
    assert recipe == bench.recipe(sample.data).model_dump(mode="json") and "run.py" in recipe["test"]
    assert SweBench().inputs([sample]) == {}
    assert "high" not in prompt["issue"].partition("clamp(3")[0] and "patch" not in prompt
    with pytest.raises(InvalidInput, match="sandbox: the environment is the instance's"):
        SweBench(sandbox={"sandbox": "local", "environment": {}})
    with pytest.raises((InvalidInput, InvalidJob), match="grader"):
        SweBench(grader="guess")
