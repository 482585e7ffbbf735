"""Grading in a sandbox: what resolves an instance, what does not, and what the environment is to blame for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.git import git
from plait.agents.patches import make_patch
from plait.agents.sandbox.base import Execution
from plait.evals.benchmarks.swebench.grading import (
    CannotGrade,
    LocalGrader,
    joined,
    log_of,
    phrase,
    read_log,
    test_spec,
    without,
)
from plait.evals.benchmarks.swebench.instances import Instance
from plait.evals.benchmarks.swebench.recipes import TestRecipe
from plait.tests.evals.benchmarks.swebench.tools import (
    CLAMP,
    CLAMP_PATH,
    CLAMP_TESTS,
    PATCHES,
    SLUG_TESTS,
    benchmark,
    clamp_patch,
    diff,
)

TESTS = "tests/test_slug.py"
MACHINE = f"{TESTS}::test_other_machine"


async def verdicts(bench, *patches):
    (sample,) = bench.load()
    await bench.prepare(sample)
    return [await bench.judge(sample, None, patch, patch or "", {}) for patch in patches]


@pytest.mark.parametrize("name", ["texttools", "numbertools"])
async def test_the_gold_patch_resolves_and_no_other(tiny, name):
    folder, rows = tiny
    patches = PATCHES[name]
    stale = patches["gold"].replace("\n ", "\n x")
    gold, wrong, nothing, none, old = await verdicts(
        benchmark(folder, [rows[name]]), patches["gold"], patches["wrong"], "", None, stale
    )
    assert (gold.correct, gold.reason, gold.extracted) == (True, "resolved (local)", patches["gold"])
    assert not wrong.correct and wrong.reason.startswith("unresolved; 1 of 1 FAIL_TO_PASS fail: ")
    assert [v.reason for v in (nothing, none)] == ["unresolved: there is no patch"] * 2
    assert (old.correct, old.reason) == (False, "the patch does not apply (local)")


async def test_a_patch_of_which_no_file_can_be_made_does_not_apply(tiny):
    folder, rows = tiny
    odd = clamp_patch("    return 'a\0b'\n"), diff("a\0b", "", "1\n"), clamp_patch("    return '\ud800'\n")
    for verdict in await verdicts(benchmark(folder, [rows["numbertools"]]), *odd):
        assert not verdict.correct and verdict.reason.startswith(("the patch does not apply", "unresolved"))


async def test_what_breaks_other_tests_does_not_resolve(tiny):
    folder, rows = tiny
    (verdict,) = await verdicts(benchmark(folder, [rows["numbertools"]]), clamp_patch("    return min(high, x)\n"))
    assert (verdict.correct, verdict.reason) == (False, "unresolved; 1 of 2 PASS_TO_PASS fail: test_low (local)")


async def test_a_patch_cannot_change_the_tests(tiny):
    folder, rows = tiny
    easy = diff(TESTS, SLUG_TESTS, "def test_empty():\n    pass\n")
    alone, beside = await verdicts(benchmark(folder, [rows["texttools"]]), easy, PATCHES["texttools"]["gold"] + easy)
    assert not alone.correct and "FAIL_TO_PASS" in alone.reason
    assert beside.correct


async def test_a_log_that_the_code_forges_is_not_believed(tiny):
    """A patch that prints a whole log, marks and all, and ends the run."""
    folder, rows = tiny
    passed = ["test_empty", "test_words[a-b]", "test_words[A b]"]
    lines = [f"PASSED {TESTS}::{name}" for name in passed] + [">>>>> End Test Output", ">>>>> Test Exit Code: 0"]
    code = "".join(f"+print({line!r}, flush=True)\n" for line in lines) + "+import os; os._exit(3)\n"
    forged = "diff --git a/texttools/more.py b/texttools/more.py\nnew file mode 100644\n--- /dev/null\n"
    forged += f"+++ b/texttools/more.py\n@@ -0,0 +1,{len(lines) + 1} @@\n{code}"
    forged += diff("texttools/__init__.py", "from .slug import slugify, words\n", "from . import more\n")
    (verdict,) = await verdicts(benchmark(folder, [rows["texttools"]]), forged)
    assert (verdict.correct, verdict.reason) == (False, "unresolved: the log shows no run of the tests (local)")


async def test_tests_that_never_pass_here_are_named_and_not_excused(tiny):
    folder, rows = tiny
    row = {**rows["texttools"], "PASS_TO_PASS": [f"{TESTS}::test_words[a-b]", MACHINE]}
    patches = PATCHES["texttools"]
    (strict,) = await verdicts(benchmark(folder, [row]), patches["gold"])
    reason = f"1 of 2 PASS_TO_PASS fail because of the environment: without any patch, too: {MACHINE}"
    assert (strict.correct, strict.reason) == (False, f"unresolved; {reason} (local)")
    bench = benchmark(folder, [row], excuse_environment=True)
    excused, wrong = await verdicts(bench, patches["gold"], patches["wrong"])
    assert excused.correct and "without any patch, too, excused: " in excused.reason
    assert not wrong.correct


async def test_tests_that_pass_without_a_patch_are_named(tiny):
    folder, rows = tiny
    row = {**rows["numbertools"], "FAIL_TO_PASS": ["test_high", "test_mean"], "PASS_TO_PASS": ["test_low"]}
    (verdict,) = await verdicts(benchmark(folder, [row]), PATCHES["numbertools"]["gold"])
    assert verdict.reason == "resolved; 1 of 2 FAIL_TO_PASS pass without any patch: test_mean (local)"


async def test_an_environment_without_the_tests_gives_no_verdict(tiny):
    folder, rows = tiny
    bench = benchmark(folder, [{**rows["numbertools"], "PASS_TO_PASS": ["test_of_another_project"]}])
    with pytest.raises(CannotGrade, match="(?s)acme__numbertools-2: the tests do not run here.*none of the tests"):
        await bench.prepare(bench.load()[0])
    bench = benchmark(folder, [{**rows["numbertools"], "test_patch": diff("checks/check_clamp.py", "a\n", "b\n")}])
    with pytest.raises(CannotGrade, match="the test patch does not apply"):
        await bench.prepare(bench.load()[0])


# Tests that cannot be imported before the fix.
NEEDING = CLAMP_TESTS.replace("clamp, mean", "clamp, mean, double")
DOUBLE = diff(CLAMP_PATH, CLAMP, CLAMP + "\n\ndef double(x):\n    return 2 * x\n")


async def test_tests_that_only_the_fix_lets_start_are_graded(tiny):
    """All of them, where no test has to go on passing."""
    folder, rows = tiny
    row = {**rows["numbertools"], "FAIL_TO_PASS": ["test_low", "test_mean"], "PASS_TO_PASS": [], "patch": DOUBLE}
    row["test_patch"] = diff("checks/check_clamp.py", CLAMP_TESTS, NEEDING)
    fixed, other = await verdicts(benchmark(folder, [row]), DOUBLE, PATCHES["numbertools"]["gold"])
    assert (fixed.correct, fixed.reason) == (True, "resolved (local)")
    assert (other.correct, other.reason) == (False, "unresolved: the log shows no run of the tests (local)")
    for change in ({"patch": ""}, {"PASS_TO_PASS": ["test_mean"], "FAIL_TO_PASS": ["test_low"]}):
        bench = benchmark(folder, [{**row, **change}])
        with pytest.raises(CannotGrade, match="the log shows no run of them"):
            await bench.prepare(bench.load()[0])


async def test_a_file_that_only_the_fix_lets_start_leaves_the_others_results(tiny):
    """The run fails, and no test that the log names does."""
    folder, rows = tiny
    new = "from numbertools import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
    row = {**rows["numbertools"], "FAIL_TO_PASS": ["test_double"], "patch": DOUBLE}
    changed = diff("checks/check_clamp.py", CLAMP_TESTS, CLAMP_TESTS.replace("== 2", "== 2.0"))
    row["test_patch"] = changed + make_patch({}, {"checks/check_more.py": new})
    for change in ({}, {"PASS_TO_PASS": []}, {"patch": ""}):
        (verdict,) = await verdicts(benchmark(folder, [{**row, **change}]), DOUBLE)
        assert (verdict.correct, verdict.reason) == (True, "resolved (local)")


@pytest.mark.parametrize("kept", [["test_low", "test_mean"], []])
async def test_a_file_that_the_fix_does_not_let_start_gives_no_verdict(tiny, kept):
    """It is the environment that lacks something, not a patch."""
    folder, rows = tiny
    new = (
        "import no_such_dependency\nfrom numbertools import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
    )
    row = {**rows["numbertools"], "FAIL_TO_PASS": ["test_double"], "PASS_TO_PASS": kept, "patch": DOUBLE}
    changed = diff("checks/check_clamp.py", CLAMP_TESTS, CLAMP_TESTS.replace("== 2", "== 2.0"))
    row["test_patch"] = changed + make_patch({}, {"checks/check_more.py": new})
    bench = benchmark(folder, [row])
    with pytest.raises(CannotGrade, match="do not run here.*none of FAIL_TO_PASS passes with the fix that was made"):
        await bench.prepare(bench.load()[0])


async def test_tests_that_do_not_run_here_are_run_once(tiny, monkeypatch):
    """However many jobs ask, and also where no test has to go on passing."""
    folder, rows = tiny
    runs = []
    baseline = LocalGrader.baseline

    async def counted(self):
        runs.append(self.instance.id)
        return await baseline(self)

    monkeypatch.setattr(LocalGrader, "baseline", counted)
    bench = benchmark(folder, [{**rows["numbertools"], "PASS_TO_PASS": []}])
    monkeypatch.setattr(TestRecipe, "command", lambda self, instance: "python3 no_such_runner.py")
    for _ in range(3):
        with pytest.raises(CannotGrade, match="the log shows no run"):
            await bench.prepare(bench.load()[0])
    assert len(runs) == 1


async def test_tests_that_hang_are_stopped(tiny):
    folder, rows = tiny
    endless = clamp_patch("    while True:\n        pass\n")
    (verdict,) = await verdicts(benchmark(folder, [rows["numbertools"]], seconds=2), endless)
    assert (verdict.correct, verdict.reason) == (False, "the tests were stopped: timeout (2 s at most) (local)")


def test_grading_without_a_loop(tiny):
    folder, rows = tiny
    bench = benchmark(folder, [rows["numbertools"]])
    (sample,) = bench.load()
    assert bench.grade(sample, PATCHES["numbertools"]["gold"], "").correct


# -- logs ----------------------------------------------------------------------------------------------------------


def spec(parser, repo="acme/x"):
    pytest.importorskip("swebench")
    row = {"repo": repo, "base_commit": "0" * 40, "problem_statement": "?", "test_patch": diff("t.py", "", "1\n")}
    row |= {"instance_id": "x-1", "FAIL_TO_PASS": ["a"], "PASS_TO_PASS": []}
    return test_spec(Instance.model_validate(row), parser)


def read(output, parser, exit_code=0):
    return read_log(log_of(Execution(exit_code=exit_code, output=output, seconds=1.0)), spec(parser))


def test_logs_of_real_runners():
    pytest_log = "= short test summary info =\nPASSED t.py::test_a[with spaces]\nFAILED t.py::test_b - ValueError: no\n"
    assert read(pytest_log, "parse_log_pytest", 1) == {"t.py::test_a[with": "PASSED", "t.py::test_b": "FAILED"}
    own = "a/test_x.py[3] \ntest_a ok\ntest_b E\ntest_c f\ntest_d ok    [FAIL]\n\n____ a/test_x.py:test_b ____\n"
    found = read(own, "parse_log_sympy", 1)
    assert (found["test_a"], found["test_b"]) == ("PASSED", "ERROR") and not {"test_c", "test_d"} & set(found)


def test_logs_without_results_are_none():
    assert read("ImportError: no\n", "parse_log_pytest", 1) is None
    assert read("PASSED t.py::test_a\n", "parse_log_pytest", 1) is None, "it fails, but no test does"


def test_parsers_are_found_by_the_repository():
    assert spec("", "pallets/flask").log_parser == "parse_log_pytest"
    with pytest.raises(ValueError, match="no log parser ''.*parse_log_pytest"):
        spec("")


@given(st.lists(st.sampled_from(["a.py", "tests/t.py", "b c.py", "u/v.py"]), unique=True), st.data())
def test_a_patch_is_cut_by_whole_files(paths, data):
    parts = {path: diff(path, "1\n2\n", "1\n3\n") for path in paths}
    dropped = data.draw(st.lists(st.sampled_from([*paths, "none.py"])))
    left = [part for path, part in parts.items() if path not in dropped]
    assert without("".join(parts.values()), dropped) == "".join(left)


@pytest.mark.parametrize("top", ["", "a/"])
@pytest.mark.parametrize(
    "tests", ["diff --git a/tests/t.py b/tests/t.py\n--- a/tests/t.py\n+++ b/tests/t.py", "--- t.py\n+++ t.py"]
)
def test_a_patch_is_read_as_if_it_were_alone(tmp_path, top, tests):
    """Without a `diff --git` line git finds by the first of its files whether paths have a prefix."""
    hunk = "\n@@ -1 +1 @@\n-1\n+2\n"
    names = f"--- {top}m.py\n+++ {top.replace('a', 'b')}m.py"
    patch = (f"diff --git a/m.py b/m.py\n{names}" if top else names) + hunk
    (tmp_path / "tests").mkdir()
    for name in ("m.py", "t.py", "tests/t.py"):
        (tmp_path / name).write_text("1\n")
    git("apply", "-", folder=tmp_path, stdin=joined(patch, f"{tests}{hunk}").encode(), extra={"GIT_DIR": "/dev/null"})
    assert (tmp_path / "m.py").read_text() == "2\n"


def test_a_renamed_test_file_is_cut_by_both_names():
    renamed = "diff --git a/tests/t.py b/x.py\nsimilarity index 100%\nrename from tests/t.py\nrename to x.py\n"
    assert without(renamed + diff("a.py", "1\n", "2\n"), ["tests/t.py"]) == diff("a.py", "1\n", "2\n")
    assert without("no diff at all", ["a"]) == "no diff at all"
    whole = "--- {0}\n+++ {0}\n@@ -1 +1 @@\n-1\n+2\n".format
    assert without(whole("a.py") + whole("tests/t.py"), ["tests/t.py"]) == whole("a.py")
    spaced = whole("a.py") + "\n" * 3000 + whole("b.py")
    assert without(spaced, ["tests/t.py"]) == spaced
    assert without(whole("t.py") + whole("x/tests/t.py"), ["t.py", "tests/t.py"]) == ""


def test_a_test_file_is_cut_whatever_prefixes_git_was_told_to_write():
    other = diff("a.py", "1\n", "2\n")
    for prefixes in (("i/", "w/"), ("c/", "w/"), ("old/", "new/")):
        patch = diff("tests/t.py", "1\n", "2\n").replace("a/tests", f"{prefixes[0]}tests")
        assert without(patch.replace("b/tests", f"{prefixes[1]}tests") + other, ["tests/t.py"]) == other


def test_phrases():
    assert phrase([], 3, "fail") == "" and phrase(["a"], 3, "fail") == "1 of 3 fail: a"
    assert phrase(list("abcd"), 1234, "fail") == "4 of 1,234 fail: a, b, c, ..."
