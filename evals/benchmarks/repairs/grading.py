"""Whether a patch fixes a repository: by its own tests and the hidden ones, in a sandbox.

Tests count as they were before the patch. Code that forges what `unittest` prints is not told from code that passes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ....agents.repository import Repository
from ....agents.sandbox.base import Execution, Sandbox
from ....agents.unified import PatchError, read_patch
from ....runtime.errors import InvalidInput
from .problems import Problem

COMMAND = ("python", "-m", "unittest", "discover")
"""Runs where the tests are, in a folder that no patch reaches; only what they import is the patched repository's."""
SHOWN = 4
"""Failed tests that a reason names."""


async def grade(problem: Problem, repository: Repository, patch: str, sandbox: Sandbox, seconds: float) -> str:
    """`correct`, or what is wrong with the patch. Raises what the sandbox raises."""
    if not patch.strip():
        return "the patch is empty"
    if removed := _removed(patch, problem.visible):
        return f"it removes tests: {', '.join(removed)}"
    limits = sandbox.limits.model_copy(update={"seconds": seconds})
    try:
        found = await sandbox.run(COMMAND, repository.snapshot(patch), files=problem.tests, limits=limits)
        return _verdict(found, problem)
    except InvalidInput as error:  # What no snapshot can be made of, such as NUL in the patch.
        return f"the patch cannot be applied: {error}"


def _removed(patch: str, tests: dict[str, str]) -> list[str]:
    try:
        files = read_patch(patch)
    except PatchError:
        return []  # It does not apply, which the sandbox will say.
    return sorted({file.old for file in files if file.old in tests and file.new != file.old and not file.is_copy})


def _verdict(found: Execution, problem: Problem) -> str:
    if found.ended == "patch":
        return "the patch does not apply"
    if found.ended != "exit":
        what = f"{found.seconds:.0f} seconds" if found.has_timed_out else f"limit of {found.ended}"
        return f"the tests were stopped at their {what}"
    ran = re.findall(r"^Ran (\d+) tests? in ", found.output, re.MULTILINE)
    if found.exit_code == 0 and ran[-1:] == [str(problem.count)]:
        return "correct"
    failed = list(dict.fromkeys(re.findall(r"^(?:FAIL|ERROR): (\S+)", found.output, re.MULTILINE)))
    if not failed:
        # Code that ends the process, for one, passes no test.
        return f"the tests did not come to their end (exit code {found.exit_code})"
    return f"{len(failed)} of {problem.count} tests fail: {_some(failed)}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
