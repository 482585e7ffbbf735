"""`Sandbox`: runs a command on a snapshot of a repository, within limits, and leaves nothing behind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ...runtime.errors import InvalidInput, PlaitError
from ...runtime.spec import Kinds, Spec
from ..repository import Snapshot

TREE, SCRATCH = "/testbed", "/tmp/repro"
"""Where the snapshot's files and the given ones are, inside (the sandbox that isolates nothing has them elsewhere)."""


class SandboxFailed(PlaitError):
    """The sandbox could not be set up: nothing of the command ran."""


class Limits(Spec):
    """What one command may use."""

    refusal = InvalidInput

    seconds: float = Field(default=100.0, gt=0)
    """Wall clock; then the whole process group is killed and what was written so far is kept."""
    memory_mb: int = Field(default=4096, ge=16)
    """Address space of each process, and memory of all together that is no file's."""
    processes: int = Field(default=128, ge=1)
    """Processes and threads at a time."""
    file_mb: int = Field(default=256, ge=1)
    """Size of one file."""
    disk_mb: int = Field(default=1024, ge=1)
    """All that the command may write to disk."""
    output_chars: int = Field(default=200_000, ge=100)
    """Characters of output that are kept: the first and the last half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What came of a command."""

    exit_code: int
    """Its own, 128 + n if signal n ended it; 1 if it was killed, or not begun."""
    output: str
    """Standard output and error together, as written; the middle is cut out where it is too long, and says so."""
    seconds: float
    ended: Literal["exit", "timeout", "memory", "disk", "patch", "deadline"] = "exit"
    """`exit`: by itself. `timeout`, `memory`, `disk`: killed at that limit. `patch`: never begun, the snapshot's patch
    does not apply. `deadline`: killed at the job's deadline or not begun any more; sandboxes know nothing of it."""

    @property
    def has_timed_out(self) -> bool:
        return self.ended == "timeout"


class Sandbox(Spec):
    """Base of all sandboxes; the fields are what a user may set."""

    refusal = InvalidInput

    sandbox: str
    """The sandbox's name; subclasses give it as the default of a `Literal`."""
    limits: Limits = Limits()
    """Of one command."""

    @classmethod
    def title(cls) -> str:
        return f"sandbox {cls.model_fields['sandbox'].default}"

    @abstractmethod
    def check(self) -> None:
        """Raise `InvalidInput` that says what to do when this sandbox cannot work on this machine. Before any work; may
        block."""

    @abstractmethod
    async def run(
        self,
        command: Sequence[str],
        snapshot: Snapshot,
        *,
        files: Mapping[str, str] | None = None,
        inside: bool = False,
        limits: Limits | None = None,
    ) -> Execution:
        """Run a command on fresh files of the snapshot.

        `python` as the first word is the environment's. `files`: name -> text, put into a scratch folder of its own,
        which is the working directory unless `inside` says that the snapshot's folder is. Environment variables are a
        fixed few and those of the sandbox's own fields: nothing of this process's. Cancelling kills the command and
        cleans up. Nothing the command does raises. Raises `InvalidInput` for a commit that cannot be read, and
        `SandboxFailed`.
        """


SANDBOXES: Kinds[Sandbox] = Kinds("sandbox", "plait.sandboxes")


def parse_sandbox(data: object) -> Sandbox:
    """The sandbox of a JSON object. Raises `InvalidInput`."""
    return SANDBOXES.make(data)
