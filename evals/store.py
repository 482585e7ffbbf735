"""`Store`: the folder of one evaluation.

    settings.json    what was asked for, and the environment of the first run
    results.jsonl    one line per finished unit, in the order in which they ended; appended and synced
    traces/          one compressed trace per job
    report.html, report.md

A line is written when its jobs have ended and their traces are on disk, so a crash loses what was in flight and nothing
else; a line that a crash cut off is dropped on opening. Of two lines of one unit, a failure and its
retry, the later holds.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from ..runtime.errors import InvalidInput
from .rows import Key, Unit

MISSING = "nothing"


class Store:
    """An evaluation's folder, held by this process alone. Use `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units: dict[Key, Unit] = {}
        self.environment: dict[str, Any] = {}
        self._file: IO[bytes] | None = None

    def open(self, settings: dict[str, Any], environment: dict[str, Any], *, retry_failed: bool = False) -> Store:
        """Create the folder or go on with it.

        Raises `InvalidInput` when it was made with other settings, saying what differs, or when another process works
        on it. `retry_failed`: leave out the units that failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check(settings, environment)
        self._file = self._results.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(retry_failed)
        except BlockingIOError:
            self.close()
            raise InvalidInput(f"another evaluation is running in {self.folder}") from None
        except BaseException:
            self.close()
            raise
        return self

    def add(self, unit: Unit) -> None:
        """Keep a finished unit; it is on disk when this returns."""
        assert self._file is not None
        self._file.write(_line(unit))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.units[unit.key] = unit

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _results(self) -> Path:
        return self.folder / "results.jsonl"

    def _check(self, settings: dict[str, Any], environment: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            if self._results.exists():
                raise InvalidInput(f"{self.folder} has results but no settings.json: choose another folder")
            text = json.dumps({"settings": settings, "environment": environment}, indent=2) + "\n"
            write_atomically(path, text)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.environment = kept["environment"]
            changed = differences(kept["settings"], json.loads(json.dumps(settings)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path} is damaged: {error!r}") from None
        if changed:
            raise InvalidInput(
                f"{self.folder} holds an evaluation with other settings ({'; '.join(changed)}): "
                "choose another folder, or remove it"
            )

    def _read(self, retry_failed: bool) -> None:
        lines = self._results.read_bytes().split(b"\n")
        torn = lines.pop()
        for number, line in enumerate(lines, start=1):
            try:
                unit = Unit.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidInput(f"{self._results}:{number}: not a result: {error!r}") from None
            self.units[unit.key] = unit
        if retry_failed:
            self.units = {key: unit for key, unit in self.units.items() if not unit.has_failed}
        if torn:
            assert self._file is not None
            self._file.truncate(self._file.tell() - len(torn))


def _line(unit: Unit) -> bytes:
    return json.dumps(unit.to_json(), separators=(",", ":")).encode() + b"\n"


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two JSON values, one phrase each: `methods[1].n: 4 before, 8 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        parts = [(f"{where}.{name}" if where else name, old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [f"{where}: {_short(old)} before, {_short(new)} now"]
    return [phrase for name, a, b in parts for phrase in differences(a, b, name)]


def _short(value: Any) -> str:
    text = MISSING if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
