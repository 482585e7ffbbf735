"""`Folder`: what jobs keep on disk, so that one that was killed goes on where it stopped.

HASH/                 one job, by what makes it the same one
  job.json            that
  states/NAME.json    each state machine, as it was after its last transition
  costs/STAGE.json    what a stage cost, as it was then
  runs/HASH.json      every execution, by what was run on what
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..runtime.disk import lock, replace_file, writing
from ..runtime.errors import InvalidInput
from ..runtime.mistakes import mistakes

R = TypeVar("R", bound=BaseModel)


class Folder:
    """JSON values of one job that are whole or not there; without a path, it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        """`path`: of the folder of all jobs."""
        self._jobs = path
        self.path: Path | None = None
        """The job's own, while it is open."""

    @contextlib.contextmanager
    def open(self, job: dict[str, Any]) -> Iterator[None]:
        """The place of the job that this describes, held by this process alone: begun anew, or gone on with. Raises
        `InvalidInput` if it is held, or cannot be written."""
        if self._jobs is None:
            yield
            return
        text = json.dumps(job, sort_keys=True)
        path = self._jobs / hashlib.sha256(text.encode()).hexdigest()[:16]
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = (path / "lock").open("w")
        except OSError as error:
            raise InvalidInput(f"cannot write to {path}: {error}") from None
        with file:
            lock(file, f"this job is being worked on already, in {path}")
            self.path = path
            try:
                if self.read("job") is None:
                    self.write("job", job)
                yield
            finally:
                self.path = None

    def read(self, name: str) -> Any:
        """The value of this name; None: there is none. Raises `InvalidInput` for a damaged file."""
        if self.path is None:
            return None
        file = self.path / f"{name}.json"
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{file} is damaged: {error}; remove it to do that part again") from None

    def read_as(self, record: type[R], name: str) -> R | None:
        """`read`, as a record. Raises `InvalidInput` for what is none."""
        kept = self.read(name)
        try:
            return None if kept is None else record.model_validate(kept)
        except ValidationError as error:
            raise InvalidInput(f"{self.path}: {name}.json is damaged: {mistakes(error)[0][1]}") from None

    def count(self, part: str) -> int:
        """How many values there are whose names begin with `part/`."""
        return 0 if self.path is None else sum(1 for _ in (self.path / part).glob("*.json"))

    def write(self, name: str, value: Any) -> None:
        """Keep a value: it is on disk, whole, when this returns. Raises `InvalidInput` if the disk does not take it;
        what was there stays."""
        if self.path is None:
            return
        file = self.path / f"{name}.json"
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(value).encode(), sync=True)
