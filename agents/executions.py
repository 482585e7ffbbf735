"""`Executions`: test scripts on snapshots, each pair run once in a job, whoever asks and however often."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..runtime.errors import InvalidInput
from ..runtime.jobs.branch import TracedBranch
from ..runtime.mistakes import mistakes
from .folder import Folder
from .repository import Snapshot
from .sandbox.base import Execution, Sandbox

SCRIPT = "reproduce.py"
"""What a test is called where it runs."""
SHOWN_CHARS = 8192
"""Of an output, that a model is shown and a trace keeps."""
_EXECUTION = TypeAdapter(Execution)


class Executions:
    """Runs on the snapshots of one commit. What is the same is run once: a result holds for the job."""

    def __init__(
        self,
        sandbox: Sandbox,
        snapshot: Callable[[str], Snapshot],
        folder: Folder,
        *,
        seconds: float,
        at_once: int,
        deadline: float | None = None,
    ) -> None:
        """`snapshot`: patch -> what it makes of the repository. `at_once`: executions at a time. `deadline`: in the
        event loop's time; what it ends is not kept."""
        self._sandbox = sandbox
        self._snapshot = snapshot
        self._folder = folder
        self._limits = sandbox.limits.model_copy(update={"seconds": seconds})
        self._deadline = deadline
        self._slots = asyncio.Semaphore(at_once)
        self._running: dict[str, asyncio.Lock] = {}
        self._done: dict[str, Execution] = {}
        self.count = 0
        """That were really run."""

    def load(self) -> None:
        """Go on with the count of earlier runs of the job: what they kept."""
        self.count = self._folder.count("runs")

    async def test(
        self, script: str, patch: str, branch: TracedBranch, *, on: str, test: str | None = None
    ) -> Execution:
        """A test script on the repository with a patch. `on`, `test`: what the trace calls these two."""
        return await self._run(("python", SCRIPT), {SCRIPT: script}, patch, branch, {"test": test or "own", "on": on})

    async def check(self, command: Sequence[str], patch: str, branch: TracedBranch, *, on: str) -> Execution:
        """A command inside the repository with a patch."""
        return await self._run(command, {}, patch, branch, {"command": " ".join(command), "on": on})

    async def _run(
        self,
        command: Sequence[str],
        files: dict[str, str],
        patch: str,
        branch: TracedBranch,
        arguments: dict[str, str],
    ) -> Execution:
        asked = json.dumps([command, files, patch, self._limits.model_dump()], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()[:32]
        with branch.tool("test" if files else "check", **arguments, **files) as call:
            # Whoever asks for a run that is under way waits for it; if that one is cancelled, the next takes over.
            async with self._running.setdefault(key, asyncio.Lock()):
                found = self._done.get(key) or self._kept(key)
                if found is None:
                    found = await self._execute(key, command, files, patch)
            call.ok = found.exit_code == 0
            call.output = f"exit code {found.exit_code}{how(found)}\n{shorten(found.output)}"
        return found

    async def _execute(self, key: str, command: Sequence[str], files: dict[str, str], patch: str) -> Execution:
        async with self._slots:
            limits, is_short = self._limits, False
            if self._deadline is not None:
                left = self._deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return Execution(exit_code=1, output="", seconds=0.0, ended="deadline")
                if is_short := left < limits.seconds:
                    limits = limits.model_copy(update={"seconds": left})
            found = await self._sandbox.run(
                command, self._snapshot(patch), files=files, inside=not files, limits=limits
            )
        self.count += 1
        if is_short and found.has_timed_out:
            return replace(found, ended="deadline")
        self._folder.write(f"runs/{key}", asdict(found))
        self._done[key] = found
        return found

    def _kept(self, key: str) -> Execution | None:
        kept = self._folder.read(f"runs/{key}")
        try:
            return None if kept is None else _EXECUTION.validate_python(kept)
        except ValidationError as error:
            why = mistakes(error)[0][1]
            raise InvalidInput(f"{self._folder.path}: runs/{key}.json is damaged: {why}; remove it") from None


async def all_of(runs: Iterable[Coroutine[Any, Any, Execution]]) -> list[Execution]:
    """All of them, side by side. The first exception cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def how(execution: Execution) -> str:
    """What else there is to say of how it ended."""
    if execution.ended == "exit":
        return ""
    said = {
        "timeout": f"stopped after {execution.seconds:.0f} s",
        "memory": "stopped: it used too much memory",
        "disk": "stopped: it wrote too much to disk",
        "patch": "not run: the patch does not apply",
        "deadline": "not finished: there is no time left",
    }
    return f" ({said[execution.ended]})"


def shorten(output: str, chars: int = SHOWN_CHARS) -> str:
    """The first and last half of an output that is too long, and how much was left out."""
    if len(output) <= chars:
        return output
    half = chars // 2
    return f"{output[:half]}\n[... {len(output) - 2 * half} characters left out ...]\n{output[-half:]}"
