"""`Store`: the folder of one evaluation.

    settings.json    what was asked for last, and the environment and date of the first run that has results
    results.jsonl    one line per finished unit, in the order in which they ended; appended and synced
    traces/          one compressed trace per job
    report.html, report.md

A line is written when its jobs have ended and their traces are on disk, if that takes them, so a crash loses what was
in flight and nothing else; a line that a crash cut off is dropped on opening. Of two lines of one unit, a failure and
its retry, the later holds.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ..runtime.disk import lock, make_folder, write_whole, writing
from ..runtime.errors import InvalidInput
from .paths import absolute
from .rows import Key, Unit

MISSING = "nothing"
SETTINGS, RESULTS = "settings.json", "results.jsonl"
CAPACITY = ("kv_tokens", "swap_tokens", "num_threads")
"""Options of the engine that may change from one run of an evaluation to the next."""


class Store:
    """An evaluation's folder, held by this process alone. Use `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units: dict[Key, Unit] = {}
        self.settings: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.started = ""
        """When the folder was made, as ISO 8601, in UTC."""
        self._file: IO[bytes] | None = None

    def open(self, settings: dict[str, Any], environment: dict[str, Any], *, retry_failed: bool = False) -> Store:
        """Create the folder or go on with it. Without a result it is begun anew.

        Raises `InvalidInput` when its results were made with other settings, saying what differs, or when another
        process works on it. `retry_failed`: leave out the units that failed.
        """
        make_folder(self.folder)
        self._look()
        with writing(self._results):
            self._file = self._results.open("ab")
        try:
            lock(self._file, f"another evaluation is running in {self.folder}")
            self._look()  # Until now another process may have had it.
            self._begin(settings, environment)
            if retry_failed:
                self.units = {key: unit for key, unit in self.units.items() if not unit.has_failed}
        except BaseException:
            self.close()
            raise
        return self

    def add(self, unit: Unit) -> None:
        """Keep a finished unit; it is on disk when this returns. Raises `InvalidInput` where the disk takes no more and
        for a unit that could not be read back; what was there stays."""
        assert self._file is not None
        line = _line(unit)
        with writing(self._results):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.units[unit.key] = unit

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # of what could not be written before: whoever added it has heard of it
                self._file.close()
            self._file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _results(self) -> Path:
        return self.folder / RESULTS

    def read(self) -> Store:
        """Take in what is there, without holding the folder: another process may be working on it."""
        self._take(read_settings(self.folder))
        self.units, _ = read_units(self.folder)
        return self

    def _take(self, kept: dict[str, Any]) -> None:
        self.settings, self.environment = kept["settings"], kept["environment"]
        self.started = kept.get("started", "")

    def _look(self) -> None:
        """At the settings, if they are there: what another program wrote is not written over."""
        if (self.folder / SETTINGS).exists():
            self._take(read_settings(self.folder))
        elif self._results.exists() and self._results.stat().st_size:
            raise InvalidInput(f"{self.folder} has results but no {SETTINGS}: choose another folder")

    def _begin(self, settings: dict[str, Any], environment: dict[str, Any]) -> None:
        self.units, torn = read_units(self.folder)
        if self.units:
            self.check(settings)
            self._keep(settings)
        else:
            self.started = datetime.now(UTC).isoformat(timespec="minutes")
            self._write(settings, environment)
            self._take(read_settings(self.folder))
        if torn:
            assert self._file is not None
            self._file.truncate(self._file.seek(0, os.SEEK_END) - torn)  # Another process may have added to it.

    def _keep(self, settings: dict[str, Any]) -> None:
        """Of settings that passed the check: what may change holds from now on."""
        if settings != self.settings:
            self._write(settings, self.environment)
            self._take(read_settings(self.folder))

    def _write(self, settings: dict[str, Any], environment: dict[str, Any]) -> None:
        kept = {"settings": settings, "environment": environment, "started": self.started}
        write_whole(self.folder / SETTINGS, json.dumps(kept, indent=2) + "\n", sync=True)

    def check(self, settings: dict[str, Any]) -> None:
        """Raise `InvalidInput` that says what differs from the settings the folder was made with."""
        old, new = _that_matters(self.settings), _that_matters(json.loads(json.dumps(settings)))
        if _same_engine(old, new):
            old = {**old, "model": new["model"]}
        if new.get("timeout", math.inf) > old.get("timeout", math.inf):
            new["timeout"] = old["timeout"]  # What ended within less would have ended within more.
        changed = differences(old, new)
        if changed:
            raise InvalidInput(
                f"{self.folder} holds an evaluation with other settings ({'; '.join(changed)}): "
                "choose another folder, or remove it"
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """`settings`, `environment` and `started` of an evaluation's folder. Raises `InvalidInput`."""
    path = folder / SETTINGS
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(kept["settings"], dict) and isinstance(kept["environment"], dict)):
            raise TypeError("settings and environment are objects")
        if not all(isinstance(part, dict) for part in kept["environment"].values()):
            raise TypeError("versions and hardware are objects")
        if not isinstance(kept.get("started", ""), str):
            raise TypeError("started is a text")
    except FileNotFoundError:
        raise InvalidInput(f"{folder} holds no evaluation: there is no {SETTINGS}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is damaged: {error!r}") from None
    return kept


def read_units(folder: Path) -> tuple[dict[Key, Unit], int]:
    """The units in an evaluation's folder, in the order in which they first ended, and the bytes of a last line that is
    not whole. Raises `InvalidInput` naming a line that is no result."""
    path = folder / RESULTS
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    torn = lines.pop()
    units: dict[Key, Unit] = {}
    for number, line in enumerate(lines, start=1):
        try:
            unit = Unit.from_json(json.loads(line))
        except InvalidInput as error:
            raise InvalidInput(f"{path}:{number}: {error}") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInput(f"{path}:{number}: not a result: {error!r}") from None
        units[unit.key] = unit
    return units, len(torn)


def _line(unit: Unit) -> bytes:
    data = unit.to_json()
    try:
        # One line that cannot be read would cost all others.
        Unit.from_json(data)
    except InvalidInput as error:
        raise InvalidInput(f"the result of {unit.key} cannot be kept: {error}") from None
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _that_matters(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what changes no answer: what failed for want of memory may be run again with more."""
    engine = settings.get("engine")
    if not isinstance(engine, dict):
        return settings
    return {**settings, "engine": {name: value for name, value in engine.items() if name not in CAPACITY}}


def _same_engine(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Was it run on the same object? Then the configuration's model, in folders that name it and in a configuration
    alone, says nothing."""
    name = new.get("model_files")
    return name is not None and name == old.get("model_files") and name in (old.get("model"), new.get("model"))


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two JSON values, one phrase each: `methods[1].n: 4 before, 8 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        parts = [(f"{where}.{name}" if where else name, old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if _is_same(old, new) else [f"{where}: {_short(old)} before, {_short(new)} now"]
    return [phrase for name, a, b in parts for phrase in differences(a, b, name)]


def _is_same(old: Any, new: Any) -> bool:
    """Equal, or a relative path of settings that were written before paths were absolute there."""
    return old == new or (isinstance(old, str) and isinstance(new, str) and new == absolute(Path(old)))


def _short(value: Any) -> str:
    text = MISSING if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
