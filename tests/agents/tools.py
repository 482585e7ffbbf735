"""A tiny repository with one bug, and models that answer by rules."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from plait import CodeMonkeys, Runtime, ScriptedEngine
from plait.agents.sandbox.base import SANDBOXES, Execution, Sandbox
from plait.tests.agents.sources import repository

SANDBOX = {"sandbox": "bubblewrap" if shutil.which("bwrap") else "local"}
"""What really runs tests here."""
PRETENDED = {"sandbox": "test_pretended"}

SLUG = '''\
"""Texts as parts of addresses."""

import re


def words(text):
    """The words of a text, in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def slugify(text):
    """The words of a text, joined by hyphens."""
    return "-".join(words(text))
'''
ISSUE = "slugify() should refuse an empty text\n\nslugify('') returns an empty slug. It should raise a ValueError."
GOOD = '''\
def slugify(text):
    """The words of a text, joined by hyphens."""
    found = words(text)
    if not found:
        raise ValueError("there is no word in the text")
    return "-".join(found)
'''
WRONG = '''\
def slugify(text):
    """The words of a text, joined by hyphens."""
    return "-".join(words(text)) or "empty"
'''
TEST = """\
import sys
from texttools import slugify

try:
    print(repr(slugify("")))
except ValueError as error:
    print("ValueError:", error)
    sys.exit(0)
sys.exit(2)
"""


def texttools(folder: Path) -> Path:
    """The repository of `ISSUE`."""
    files = {
        "texttools/__init__.py": "from .slug import slugify, words\n",
        "texttools/slug.py": SLUG,
        "texttools/numbers.py": "def double(x):\n    return 2 * x\n",
        "tests/test_slug.py": "from texttools import slugify\n\nassert slugify('A b') == 'a-b'\n",
        "README.md": "# texttools\n",
    }
    return repository(folder, files)


def edit(function: str, path: str = "texttools/slug.py", name: str = "slugify") -> str:
    """A function written anew, as the form `functions` has it."""
    return f"<edit>\n{path}::{name}\n```python\n{function}```\n</edit>"


def test(script: str) -> str:
    return f"<test>\n{script}</test>"


test.__test__ = False  # type: ignore[attr-defined]


class Model:
    """A script for `ScriptedEngine`: what the user said last decides by the first rule that fits; a rule's answers are
    given in turn, the last of them again and again."""

    def __init__(self, rules: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.rules = [(re.compile(pattern, re.DOTALL), deque(answers)) for pattern, answers in rules]
        self.asked: list[str] = []

    def __call__(self, context: str) -> str:
        said = context.rpartition("<user>")[2].removesuffix("<assistant>")
        self.asked.append(said)
        for pattern, answers in self.rules:
            if pattern.search(said):
                return answers.popleft() if len(answers) > 1 else answers[0]
        raise AssertionError(f"no rule for {said[:300]!r}")


class Pretended(Sandbox):
    """Runs nothing: a test script passes where what it says in `# passes if: WORDS` is in the patch, and otherwise ends
    with 2, or with what `# else: N` says; `# ended: WAY` is how."""

    sandbox: Literal["test_pretended"] = "test_pretended"

    def check(self) -> None:
        pass

    async def run(self, command, snapshot, *, files=None, inside=False, limits=None) -> Execution:
        await asyncio.sleep(0)
        RUNS.append((tuple(command), snapshot.patch, dict(files or {})))
        if "does not apply" in snapshot.patch:
            return Execution(exit_code=1, output="it does not apply", seconds=0.0, ended="patch")
        text = "".join((files or {}).values()) or " ".join(command)
        wanted = re.search(r"passes if: (.*)", text)
        fails = re.search(r"else: (\d+)", text)
        code = 0 if wanted is not None and wanted[1].strip() in snapshot.patch else int(fails[1]) if fails else 2
        said = re.search(r"ended: (\w+)", text)
        ended: Any = said[1] if said and code else "exit"
        return Execution(exit_code=code, output=f"output {code}\n", seconds=0.01, ended=ended)


SANDBOXES.add(Pretended)

RUNS: list[tuple[tuple[str, ...], str, dict[str, str]]] = []
"""Everything that `Pretended` was asked to run."""


async def run(model, tree: Path, *, engine=None, budget=None, trace_file=None, **fields):
    """One job on a scripted model; (result, engine)."""
    engine = engine or ScriptedEngine(model, context_limit=60_000)
    given = {"issue": ISSUE, "project": "texttools", "edits": "functions", "n": 2, "sandbox": PRETENDED, **fields}
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(CodeMonkeys(repository=tree, **given), budget=budget, trace_file=trace_file)
        result = await job
    assert not engine.branches, "nothing is left open"
    return result, engine
