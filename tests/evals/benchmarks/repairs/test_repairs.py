"""The five repositories and their grades."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile

import pytest

from plait import CodeMonkeys, InvalidInput, ScriptedEngine, Sequential
from plait.agents.patches import make_patch
from plait.agents.repository import Repository
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.benchmarks.repairs import grading
from plait.evals.benchmarks.repairs.problems import read_problems

PROBLEMS = read_problems()
COMMITS = {
    "bookings": "269f5c9bea9f392e200751ad5eeed577f966a08d",
    "cache": "9c809402a2071203dd71b6652907fb6eb31e297e",
    "tables": "47f012afc2aedca437403256edd47edee624bfd1",
    "till": "fa8489ac987410ad2c7774cd5629c3c5449f9eee",
    "units": "1ad3574e82180e19a5dd0e32dd4544c9d6de0a62",
}

each = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
sandboxes = pytest.mark.parametrize(
    "sandbox",
    [
        "local",
        pytest.param(
            "bubblewrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
        ),
    ],
)


@pytest.fixture
def benchmark(tmp_path):
    return parse_benchmark({"name": "repairs", "cache": tmp_path / "cache", "sandbox": "local"})


@pytest.fixture
def grade(benchmark):
    def of(name, answer):
        sample = next(sample for sample in benchmark.load() if sample.id == name)
        verdict = benchmark.grade(sample, answer, answer or "")
        assert verdict.correct == (verdict.reason == "correct")
        return verdict.reason

    return of


def python(folder, *arguments):
    return subprocess.run([sys.executable, "-B", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


def test_kinds_of_bugs():
    kinds = {"off by one", "missing check", "wrong operator", "swapped arguments", "missing case"}
    assert {problem.kind for problem in PROBLEMS} == kinds and len(PROBLEMS) == 5


@each
def test_sizes(problem):
    code = {path: text for path, text in problem.files.items() if path.endswith(".py") and path not in problem.visible}
    modules = [path for path in code if "/" in path and not path.endswith("__init__.py")]
    assert 3 <= len(modules) <= 6
    assert 60 <= sum(text.count("\n") for text in code.values()) <= 250
    assert problem.fixed.keys() <= code.keys() and not problem.hidden.keys() & problem.visible.keys()
    changed = [line for line in problem.gold.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert 1 <= len(changed) <= 3


@each
def test_the_bug_shows_in_the_issue_and_the_hidden_tests_alone(problem, tmp_path):
    tree = problem.repository(tmp_path).path
    done = python(tree, "-m", "unittest")
    assert done.returncode == 0, done.stderr
    for name, text in problem.hidden.items():
        (tree / name).write_text(text)
        done = python(tree, "-m", "unittest", name.removesuffix(".py"))
        failed = done.stderr.count("\nFAIL: ") + done.stderr.startswith("FAIL: ")
        assert done.returncode == 1 and "ERROR" not in done.stderr and 3 <= failed, done.stderr
    (tree / "issue.txt").write_text(problem.issue)
    done = python(tree, "-m", "doctest", "issue.txt")
    assert done.returncode == 0 and ">>>" in problem.issue, done.stdout


@each
def test_the_issue_does_not_say_where(problem):
    (path,) = problem.fixed
    assert path not in problem.issue and path.rpartition("/")[2] not in problem.issue


@each
@sandboxes
def test_grades(problem, sandbox, tmp_path):
    benchmark = parse_benchmark({"name": "repairs", "cache": tmp_path, "sandbox": sandbox})
    (sample,) = [sample for sample in benchmark.load() if sample.id == problem.name]
    assert sample.question == problem.issue and sample.reference == problem.gold
    right = benchmark.grade(sample, problem.gold, problem.gold)
    assert (right.correct, right.reason, right.extracted) == (True, "correct", problem.gold.strip())
    noop = make_patch(problem.files, {"README.md": problem.files["README.md"] + "More.\n"})
    wrong = benchmark.grade(sample, noop, noop)
    assert not wrong.correct and f" of {problem.count} tests fail: test_" in wrong.reason


def test_no_patch(grade):
    assert grade("till", None) == "no patch"
    assert grade("till", " \n") == "the patch is empty"


@pytest.mark.parametrize(
    "answer",
    [
        "I could not do it.",
        "--- a/till/coupon.py\n+++ b/till/coupon.py\n@@ -1 +1 @@\n-no such line\n+x\n",
        "\0",
        "\ud800",
    ],
)
def test_what_does_not_apply(grade, answer):
    assert grade("till", answer) == "the patch does not apply"


def patched(name, edit, *, fixed=True):
    (problem,) = [problem for problem in PROBLEMS if problem.name == name]
    return make_patch(problem.files, {**(problem.fixed if fixed else {}), **edit})


def test_tests_count_as_they_were(grade):
    deleted = {"tests/test_till.py": None}
    assert grade("till", patched("till", deleted)) == "it removes tests: tests/test_till.py"
    assert grade("till", patched("till", deleted, fixed=False)) == "it removes tests: tests/test_till.py"
    emptied = {"tests/test_till.py": "", "test_hidden.py": "", "tests/test_hidden.py": "raise SystemExit(0)\n"}
    assert grade("till", patched("till", emptied)) == "correct"
    assert grade("till", patched("till", emptied, fixed=False)).startswith("4 of 12 tests fail: ")


def test_a_fix_that_breaks_other_things(grade):
    patch = patched("till", {"till/tax.py": "def included_tax(gross, rate):\n    return 0 * gross\n"})
    assert grade("till", patch) == "1 of 12 tests fail: test_subtotal_and_tax"


def test_code_that_ends_the_process(grade):
    patch = patched("till", {"till/tax.py": "import os\nos._exit(0)\n"})
    assert grade("till", patch) == "the tests did not come to their end (exit code 0)"


def test_code_that_hangs(tmp_path):
    benchmark = parse_benchmark({"name": "repairs", "cache": tmp_path, "sandbox": "local", "seconds": 2})
    (sample,) = [sample for sample in benchmark.load() if sample.id == "till"]
    patch = patched("till", {"till/tax.py": "while True:\n    pass\n"})
    assert benchmark.grade(sample, patch, "").reason == "the tests were stopped at their 2 seconds"


async def test_tests_that_hang_can_be_cancelled(benchmark, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    sample = next(sample for sample in benchmark.load() if sample.id == "till")
    patch = patched("till", {"till/tax.py": "import time\nopen('begun', 'w').close()\ntime.sleep(1000)\n"})
    judging = asyncio.create_task(benchmark.judge(sample, Sequential(prompt="p"), patch, patch, {}))
    while not list((tmp_path / "temporary").rglob("begun")):  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(0.05)
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert not list((tmp_path / "temporary").iterdir())


def test_commits_are_the_same_everywhere(tmp_path):
    assert {problem.name: problem.repository(tmp_path).commit for problem in PROBLEMS} == COMMITS


def test_what_is_there_is_used_again(tmp_path):
    first = PROBLEMS[0].repository(tmp_path)
    (first.path / "README.md").write_text("somebody's own\n")
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *author, "commit", "-qam", "on top"], cwd=first.path, check=True)
    again = PROBLEMS[0].repository(tmp_path)
    assert (again.path, again.commit) == (first.path, first.commit) and len(list(tmp_path.iterdir())) == 1
    assert Repository(first.path).commit != first.commit


def test_prompt(benchmark):
    for sample in benchmark.load():
        fields = benchmark.prompt(sample, "code_monkeys")
        assert set(fields) == {"repository", "commit", "issue", "project", "sandbox", "seconds"}
        assert Repository(fields["repository"]).commit == fields["commit"]
        assert fields["issue"] == sample.question and fields["sandbox"]["sandbox"] == "local"
    with pytest.raises(InvalidInput, match="for the method code_monkeys, not for sequential"):
        benchmark.prompt(sample, "sequential")


def test_settings(tmp_path, monkeypatch):
    assert len(parse_benchmark({"name": "repairs", "count": 2}).load()) == 2
    with pytest.raises(InvalidInput, match="leave out data"):
        parse_benchmark({"name": "repairs", "data": tmp_path / "x.jsonl"}).load()
    with pytest.raises(InvalidInput, match="unknown sandbox 'cell'"):
        parse_benchmark({"name": "repairs", "sandbox": "cell"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    benchmark = parse_benchmark({"name": "repairs", "sandbox": {"sandbox": "local", "limits": {"memory_mb": 512}}})
    assert benchmark.prompt(benchmark.load()[0], "code_monkeys")["repository"].startswith(str(tmp_path / "plait"))
    assert parse_benchmark(benchmark.model_dump(mode="json")) == benchmark


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot make the repository"):
        PROBLEMS[0].repository(tmp_path / "file")


async def test_an_evaluation(tmp_path):
    """A model that knows two of three fixes."""

    def model(context):
        problem = next(problem for problem in PROBLEMS if problem.issue.strip() in context)
        if problem.name == "cache":
            return "I do not know."
        files = "".join(f'<file path="{path}">\n{text}</file>\n' for path, text in problem.fixed.items())
        return f"<edit>\n{files}</edit>"

    config = EvalConfig(
        benchmark={"name": "repairs", "cache": tmp_path / "cache", "sandbox": "local", "count": 3},
        methods=[{"method": "code_monkeys", "n": 1, "edits": "files", "scan": 0, "test_calls": 0, "edit_calls": 1}],
    )
    await run(config, tmp_path / "out", engine=ScriptedEngine(model, context_limit=60_000))
    units = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    reasons = {unit["key"]["sample"]: unit["rows"][0]["reason"] for unit in units}
    assert reasons == {"bookings": "correct", "cache": "no patch", "tables": "correct"}


async def test_what_an_evaluation_keeps_of_a_job_is_of_its_method_and_budget_alone(tmp_path):
    """Else the job of one would go on with that of another, or find it held."""

    async def rows(name, **fields):
        methods = [{"method": "code_monkeys", "n": 2, "executions": count, **fields} for count in (1, 2)]
        config = EvalConfig(
            benchmark={"name": "repairs", "cache": tmp_path / "cache", "sandbox": "local", "count": 1},
            methods=[{**one, "edits": "files", "scan": 0, "test_calls": 0, "edit_calls": 1} for one in methods],
            budgets=[{}, {"total_tokens": 200}],
        )
        await run(config, tmp_path / name, engine=ScriptedEngine(fixed, context_limit=60_000))
        units = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        units.sort(key=lambda unit: (unit["key"]["method"], unit["key"]["budget"]))
        return [[row[field] for field in ("correct", "total_tokens", "error")] for u in units for row in u["rows"]]

    def fixed(context):
        (problem,) = [problem for problem in PROBLEMS if problem.issue.strip() in context]
        files = "".join(f'<file path="{path}">\n{text}</file>\n' for path, text in problem.fixed.items())
        return f"<edit>\n{files}</edit>"

    kept, expected = await rows("kept", folder=str(tmp_path / "jobs")), await rows("not kept")
    assert kept == expected and {correct for correct, _, _ in expected} == {True, False}
    assert await rows("again", folder=str(tmp_path / "jobs")) != expected  # Nothing is asked again.


async def test_a_verdict_says_what_the_choice_is_measured_against(benchmark, monkeypatch):
    sample = next(sample for sample in benchmark.load() if sample.id == "till")
    problem, fields = sample.data, benchmark.prompt(sample, "code_monkeys")
    wrong = make_patch(problem.files, {"README.md": "nothing\n"})
    histories = [[("edit", wrong), ("edit", problem.gold)], [("edit", wrong)], [("misparse", ""), ("edit", wrong)]]
    details = {
        "candidates": [{"patch": wrong}, {"patch": problem.gold}],
        "edit_trajectories": [
            {"history": [{"kind": kind, "text": text} for kind, text in history]} for history in histories
        ],
        "test_trajectories": [],
        "costs": {"stages": {"edits": {"calls": 5, "input": 7, "cached": 2, "output": 3, "seconds": 0.5}}},
    }
    graded = []

    async def count(problem, cache, patch, *rest):
        graded.append(patch)
        return await grading.grade(problem, cache, patch, *rest)

    monkeypatch.setattr("plait.evals.benchmarks.repairs.benchmark.grade", count)
    verdict = await benchmark.judge(sample, CodeMonkeys(**fields), wrong, wrong, details)
    assert sorted(graded) == sorted([wrong, problem.gold])
    assert not verdict.correct and verdict.extra is not None
    assert verdict.extra.numbers == {"coverage": 1.0, "one trajectory": pytest.approx(1 / 3), "most frequent": 0.0}
    assert verdict.extra.curves["coverage"] == [0.0, 1.0] and verdict.extra.parts["edits"]["output"] == 3
