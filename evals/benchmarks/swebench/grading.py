"""Grading without SWE-bench's images: the instance's tests in a sandbox, read and judged by the swebench package.

It is not the official harness: the environment is another one, and a patch has to apply exactly, by `git apply`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ....agents.patches import is_empty
from ....agents.repository import Repository
from ....agents.sandbox.base import Execution, Sandbox
from ....agents.unified import PatchError, read_patch
from ....runtime.errors import InvalidInput
from ...benchmark import ProblemUnusable
from .instances import END, START, Instance

LOCAL = "graded locally, not by the official harness of SWE-bench"
MARK = ">>>>>"
"""What every mark of the harness begins with."""
OUTPUT_CHARS = 100_000_000
"""Of the tests' output: the results stand anywhere in it."""
SHOWN = 3
"""Names of tests in a reason."""


class CannotGrade(ProblemUnusable):
    """There is no verdict, for a reason that is not the patch's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """What the tests gave."""

    __test__ = False

    statuses: Mapping[str, str] | None
    """Test -> `PASSED`, `FAILED`, ...; None: there is nothing to be read."""
    named: Mapping[str, str] | None = None
    """What the log names, where the run failed and none of that did, so that `statuses` is None."""
    problem: str = ""
    """Why not: `timeout` and the like, `patch`; empty: the log shows no run of tests."""
    tail: str = ""
    """The end of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What fails and passes in this environment without any patch."""

    failing: frozenset[str] = frozenset()
    """Of PASS_TO_PASS."""
    passing: frozenset[str] = frozenset()
    """Of FAIL_TO_PASS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The judgement of one patch."""

    resolved: bool
    reason: str


class LocalGrader:
    """Grades patches of one instance."""

    def __init__(
        self, instance: Instance, repository: Repository, sandbox: Sandbox, command: str, parser: str, seconds: float
    ) -> None:
        """`parser`: of logs, by its name in the swebench package; empty: the repository's. Raises `InvalidInput` if
        there is none."""
        self.instance = instance
        self.repository = repository
        self.sandbox = sandbox
        self.command = command
        self.seconds = seconds
        self.spec = test_spec(instance, parser)

    async def baseline(self) -> Baseline:
        """Raises `CannotGrade` where the environment does not run the tests."""
        run = await self._run("")
        statuses = run.named if run.statuses is None else run.statuses
        found = report(statuses or {}, self.spec)
        if failed := await self._failure(run, statuses is not None, found["PASS_TO_PASS"]["success"]):
            raise CannotGrade(f"{self.instance.id}: the tests do not run here without any patch: {failed}\n{run.tail}")
        passing = () if statuses is None else found["FAIL_TO_PASS"]["success"]
        return Baseline(failing=frozenset(found["PASS_TO_PASS"]["failure"]), passing=frozenset(passing))

    async def _failure(self, run: TestRun, is_shown: bool, kept: Sequence[str]) -> str:
        """What keeps the environment from grading, by the run without any patch; empty: nothing does. `is_shown`: the
        log names tests. `kept`: tests of PASS_TO_PASS that pass in it."""
        if run.problem == "patch":
            return "the test patch does not apply"
        if run.problem:
            return f"they were stopped: {run.problem} ({self.seconds:g} s at most)"
        if self.instance.PASS_TO_PASS and not kept:
            return "none of the tests passes that pass elsewhere" if is_shown else "the log shows no run of them"
        if run.statuses is not None:
            return ""
        # It may be the fix that lets any of them start, or a file of them.
        if is_shown:
            is_broken = not is_empty(self.instance.patch) and not await self._runs_with_the_fix()
            return (
                "they fail and no test does, and none of FAIL_TO_PASS passes with the fix that was made"
                if is_broken
                else ""
            )
        return "" if await self._runs_with_the_fix() else "the log shows no run of them, nor with the fix that was made"

    async def _runs_with_the_fix(self) -> bool:
        """Does a test pass with the row's own fix? Not known without one."""
        run = TestRun(statuses=None) if is_empty(self.instance.patch) else await self._run(self.instance.patch)
        return run.statuses is not None and bool(report(run.statuses, self.spec)["FAIL_TO_PASS"]["success"])

    async def grade(self, patch: str, baseline: Baseline, *, excuse: bool) -> Grade:
        """`excuse`: leave out tests of PASS_TO_PASS that fail without any patch."""
        run = await self._run(patch)
        if run.problem == "patch":
            return Grade(resolved=False, reason="the patch does not apply")
        if run.problem:
            return Grade(resolved=False, reason=f"the tests were stopped: {run.problem} ({self.seconds:g} s at most)")
        if run.statuses is None:
            return Grade(resolved=False, reason="unresolved: the log shows no run of the tests")
        found = report(run.statuses, self.spec)
        fixed, kept = len(self.instance.FAIL_TO_PASS), len(self.instance.PASS_TO_PASS)
        broken = found["PASS_TO_PASS"]["failure"]
        own = [test for test in broken if test not in baseline.failing]
        others = [test for test in broken if test in baseline.failing]
        environment = "PASS_TO_PASS fail because of the environment: without any patch, too" + ", excused" * excuse
        said = [
            phrase(found["FAIL_TO_PASS"]["failure"], fixed, "FAIL_TO_PASS fail"),
            phrase(own, kept, "PASS_TO_PASS fail"),
            phrase(others, kept, environment),
            phrase(sorted(baseline.passing), fixed, "FAIL_TO_PASS pass without any patch"),
        ]
        if excuse:
            found["PASS_TO_PASS"]["failure"] = own
        resolved = is_resolved(found)
        return Grade(
            resolved=resolved, reason="; ".join(["resolved" if resolved else "unresolved", *filter(None, said)])
        )

    async def _run(self, patch: str) -> TestRun:
        """The tests on the commit with a patch, over which the test patch goes."""
        whole = joined(without(patch, self.instance.test_paths), self.instance.test_patch)
        limits = self.sandbox.limits.model_copy(update={"seconds": self.seconds, "output_chars": OUTPUT_CHARS})
        command = ("/bin/sh", "-c", self.command)
        try:
            execution = await self.sandbox.run(command, self.repository.snapshot(whole), inside=True, limits=limits)
        except InvalidInput:
            if not patch:
                raise
            return TestRun(statuses=None, problem="patch")  # What no snapshot can be made of, such as NUL in it.
        tail = execution.output[-1000:]
        if execution.ended != "exit":
            return TestRun(statuses=None, problem=execution.ended, tail=tail)
        statuses = await asyncio.to_thread(read_log, log_of(execution), self.spec)
        named = None
        if statuses is None:
            named = await asyncio.to_thread(read_log, log_of(execution, is_checked=False), self.spec)
        return TestRun(statuses=statuses, named=named, tail=tail)


def phrase(tests: Sequence[str], of: int, what: str) -> str:
    """`2 of 59 PASS_TO_PASS fail: a, b`; empty if there are none."""
    if not tests:
        return ""
    names = ", ".join(tests[:SHOWN]) + (", ..." if len(tests) > SHOWN else "")
    return f"{len(tests):,} of {of:,} {what}: {names}"


def joined(patch: str, test_patch: str) -> str:
    """Both as one, for git to read the patch as it does alone. A file without a `diff --git` line may tell it that all
    paths behind have no prefix: what has such files goes behind."""
    try:
        lines = test_patch.split("\n")
        is_git = all(lines[file.line - 1].startswith("diff --git ") for file in read_patch(test_patch))
    except PatchError:
        is_git = False
    return test_patch + patch if is_git else patch + test_patch


def without(patch: str, paths: Sequence[str]) -> str:
    """A patch less its changes to these files, whole files of it; as it is where it cannot be read."""
    try:
        files = read_patch(patch)
    except PatchError:
        files = []
    if not files:
        return patch
    lines = [f"{line}\n" for line in patch.removesuffix("\n").split("\n")]
    ends = [file.line - 1 for file in files[1:]] + [len(lines)]
    parts = [
        "".join(lines[file.line - 1 : end])
        for file, end in zip(files, ends, strict=True)
        if not {file.old, file.new} & set(paths)
    ]
    left = "".join(parts)
    # Less one file, git may find other paths in those behind it.
    return left if left == patch else without(left, paths)


# -- what the swebench package does ------------------------------------------------------------------------------


def log_of(execution: Execution, *, is_checked: bool = True) -> str:
    """A log as the harness writes it. Marks that the code under test printed are none. `is_checked`: a run that fails
    must show a test that fails, else a patch forged it; runners do not call a file that they cannot import a test."""
    output = execution.output.replace(MARK, ">>>> >")
    code = f"{_harness().TEST_EXIT_CODE}: {execution.exit_code}\n" if is_checked else ""
    return f"{START}\n{output}\n{END}\n{code}"


def read_log(log: str, spec: Any) -> dict[str, str] | None:
    """Test -> status, by the parser of the instance; None: the log shows no run of tests."""
    with tempfile.TemporaryDirectory(prefix="plait-") as folder:
        path = Path(folder) / "test_output.txt"
        # Read by the harness in the system's encoding.
        with path.open("w", errors="replace", newline="") as file:
            file.write(log)
        statuses, is_found = _harness().get_logs_eval(spec, str(path))
    return dict(statuses) if is_found else None


def report(statuses: Mapping[str, str], spec: Any) -> dict[str, dict[str, list[str]]]:
    """`FAIL_TO_PASS` and `PASS_TO_PASS` -> `success` and `failure` -> tests."""
    harness = _harness()
    gold = {"FAIL_TO_PASS": spec.FAIL_TO_PASS, "PASS_TO_PASS": spec.PASS_TO_PASS}
    kind = harness.EvalType(spec.eval_type)
    found: dict[str, dict[str, list[str]]] = harness.get_eval_tests_report(statuses, gold, eval_type=kind)
    return found


def is_resolved(found: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    """Do all tests of both lists pass?"""
    harness = _harness()
    return bool(harness.get_resolution_status(found) == harness.ResolvedStatus.FULL.value)


def test_spec(instance: Instance, parser: str) -> Any:
    """What the package knows of an instance. Raises `InvalidInput` for a parser that it has not."""
    from swebench.harness.log_parsers import PARSER_REGISTRY
    from swebench.harness.log_parsers.python import MAP_REPO_TO_PARSER_PY
    from swebench.types import TestSpec

    own = MAP_REPO_TO_PARSER_PY.get(instance.repo)
    name = parser or instance.log_parser or (own.__name__ if own else "")
    if name not in PARSER_REGISTRY:
        known = ", ".join(sorted(name for name in PARSER_REGISTRY if "pytest" in name or "django" in name))
        raise InvalidInput(
            f"{instance.id}: the swebench package has no log parser {name!r}: give its recipe one ({known}, ...)"
        )
    return TestSpec(
        instance_id=instance.id,
        image=instance.image,
        eval_script_list=[],
        repo=instance.repo,
        version=instance.version,
        FAIL_TO_PASS=list(instance.FAIL_TO_PASS),
        PASS_TO_PASS=list(instance.PASS_TO_PASS),
        log_parser=name,
        eval_type=instance.eval_type or "pass_and_fail",
    )


test_spec.__test__ = False  # type: ignore[attr-defined]


@cache
def _harness() -> Any:
    """Loaded when it is needed: it takes seconds."""
    from swebench.harness import grading

    return grading


def check_package() -> None:
    """Raise `InvalidInput` where the swebench package is not installed. Blocks for seconds."""
    try:
        import swebench.harness.grading  # noqa: F401
    except ImportError as error:
        raise InvalidInput(f"grading needs the swebench package: pip install 'plait[swebench]' ({error})") from None
