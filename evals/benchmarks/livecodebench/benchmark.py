"""LiveCodeBench's code generation (arXiv 2403.07974): problems of contests, solved in Python and judged by tests."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from pydantic import Field, PrivateAttr

from ....agents.git import git
from ....agents.repository import Repository
from ....agents.sandbox.base import Sandbox
from ....runtime.engines.native.threads import usable_cores
from ....runtime.errors import InvalidInput
from ....runtime.methods.base import Method
from ....runtime.methods.hogwild.method import Hogwild
from ...benchmark import Benchmark, Sample, Verdict, ask
from ...hub import HubSet, hub_rows
from ...records import read_rows
from ...sandboxes import SandboxField
from .judging import grade
from .problems import Problem

AT_ONCE = usable_cores()
"""Solutions run at a time: more of them would only wait for each other, as long as patience lets them."""
SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)
FENCE = "```"
WHO = {f"GIT_{role}_{what}": "plait" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class LiveCodeBench(Benchmark):
    """Right is a program, or a function, that passes all tests, hidden ones too; `data` is in LiveCodeBench's form."""

    name: Literal["livecodebench"] = "livecodebench"
    """What configurations call it."""
    release: Literal["v1", "v2", "v3", "v4", "v5", "v6"] = "v6"
    """Of the hub's problems: each release holds those before it."""
    begin: date | None = None
    """Leave out problems of contests before this day (`2024-08-01`)."""
    end: date | None = None
    """Leave out problems of contests after this day."""
    chat: bool = True
    """Put the problem as chat messages; False: as text."""
    sandbox: SandboxField
    """What solutions run in: a name (`bubblewrap`, `docker`, `local`), or a table."""
    seconds: float = Field(default=6.0, gt=0)
    """That the program of one test may compute, with its children; five times as long it may take."""
    _empty: tempfile.TemporaryDirectory[str] | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )

    def load(self) -> list[Sample]:
        if self.data is None:
            files = tuple(f"test{number}.jsonl" for number in ["", *range(2, int(self.release[1:]) + 1)])
            rows = hub_rows(HubSet(name="livecodebench/code_generation_lite", files=files), Problem)
        else:
            rows = read_rows(self.data, Problem)
        begin, end = self.begin or date.min, self.end or date.max
        rows = [row for row in rows if begin <= row.contest_date.date() <= end][: self.count]
        if not rows:
            raise InvalidInput("there are no problems of contests between begin and end")
        for row in rows:
            row.tests()
        return [Sample(id=row.id, question=row.question, data=row) for row in rows]

    async def prepare(self, sample: Sample) -> None:
        """Raises `InvalidInput` where the sandbox does not work."""
        await asyncio.to_thread(lambda: self._checked)

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        problem: Problem = sample.data
        message = WITH_STARTER if problem.starter_code else WITHOUT_STARTER
        lines = [
            f"### Question:\n{problem.question}\n",
            f"### Format: {message}",
            f"{FENCE}python\n{problem.starter_code or '# YOUR CODE HERE'}\n{FENCE}\n",
            "### Answer: (use the provided format with backticks)\n\n",
        ]
        rule = "code" if method == "hogwild" else "text"
        return ask("\n".join(lines), method, rule, chat=self.chat, system=SYSTEM)

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        return asyncio.run(self._verdict(sample, fenced(answer if answer is not None else text)))

    async def judge(
        self, sample: Sample, method: Method, answer: str | None, text: str, details: Mapping[str, Any]
    ) -> Verdict:
        is_bare = isinstance(method, Hogwild) and method.answer == "code"  # it is out of its fence
        code = answer if is_bare else fenced(answer if answer is not None else text)
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
            return await self._verdict(sample, code)

    async def _verdict(self, sample: Sample, code: str | None) -> Verdict:
        if code is None or not code.strip():
            return Verdict(correct=False, extracted=None, reason="no code")
        repository = await asyncio.to_thread(self._repository)
        reason = await grade(sample.data, code, self._checked, repository.snapshot(), self.seconds)
        return Verdict(correct=reason == "correct", extracted=code.strip(), reason=reason)

    def close(self) -> None:
        with self._lock:
            if self._empty is not None:
                self._empty.cleanup()
                self._empty = None

    @cached_property
    def _checked(self) -> Sandbox:
        """The sandbox, which works here."""
        self.sandbox.check()
        return self.sandbox

    def _repository(self) -> Repository:
        """An empty one: sandboxes run on a commit's files."""
        with self._lock:
            if self._empty is None:
                self._empty = tempfile.TemporaryDirectory(prefix="plait-")
                folder = Path(self._empty.name)
                git("init", "--quiet", folder=folder)
                git("commit", "--quiet", "--allow-empty", "--message", "empty", folder=folder, extra=WHO)
            return Repository(self._empty.name)


def fenced(text: str) -> str | None:
    """The lines between the last two that have a fence; None: there are no two."""
    lines = text.split("\n")
    marks = [number for number, line in enumerate(lines) if FENCE in line]
    return "\n".join(lines[marks[-2] + 1 : marks[-1]]) if len(marks) > 1 else None
