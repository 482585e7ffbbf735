"""The output folder of a training: what it was made with, and what a run that goes on may have changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.disk import make_folder, write_whole
from ..runtime.errors import InvalidInput
from ..runtime.spec import Spec
from .checkpoints import STAGING, checkpoints, remove

CONFIG = "config.json"
"""In the output folder: the fields that the training was begun with."""
MATERIAL = "material.json"
"""In the output folder: what the configuration does not tell of what a run takes, in which order."""
MODELS = ("adapter", "model")
"""In the output folder, in the end: what was trained."""
ADVICE = "give another --out, or --fresh to begin anew"
EVENTS = "runs/*_[0-9]*-[0-9]*-[0-9]*_*/events.out.tfevents.*"
"""In the output folder: what transformers writes for TensorBoard if nobody says where, in a folder for each start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The folder that a run wants. `check` it before any work and `claim` it behind all that can be wrong with the
    configuration: until then what an earlier run made is there."""

    out: Path
    config: Spec
    may_change: Sequence[str]
    """Fields that a run that goes on may have other values of."""
    outcomes: Sequence[str]
    """Files and folders that a run writes as it goes, removed where it begins anew: without a checkpoint there is
    nothing to go on from, and what they say is of another run."""
    fresh: bool
    """Remove checkpoints and models as well."""

    @property
    def begins_anew(self) -> bool:
        """Is there nothing to go on from, or is it not wanted?"""
        return self.fresh or not checkpoints(self.out)

    def check(self) -> None:
        """Raise `InvalidInput` unless it can be made, or is that of a run of this kind, and, to go on, of this one."""
        make_folder(self.out)
        self._check_model()
        least = [name for name, field in type(self.config).model_fields.items() if field.is_required()]
        known = own_config(self.out, type(self.config).model_fields, least, self._written(models=True))
        if known is not None and not self.begins_anew:
            check_same(self.out, known, self._fields(), self.may_change, advice=ADVICE)

    def _check_model(self) -> None:
        """Raise `InvalidInput` where the model to begin from is one that the run removes or writes over: going on, it
        would not be there, or be trained already."""
        model = self._fields()["model"]
        try:
            path = Path(model).resolve()
        except (OSError, RuntimeError, ValueError):  # A name that no file can have, or links in a circle.
            return
        out = self.out.resolve()
        places = [out / one.relative_to(self.out) for one in self._written(models=True)]
        if any(path.is_relative_to(place) for place in places):
            raise InvalidInput(
                f"the model {model} lies where {self.out} is to hold what is trained: give another --out"
            )

    def claim(self, num_processes: int, data: Iterable[bytes]) -> None:
        """Write the configuration down; where the run begins anew, remove what another one left first. `data`: all that
        it learns from and is judged by.

        Raises `InvalidInput` where it would go on with another number of processes or other data: what was shown is
        skipped by its place among them.
        """
        material = {"num_processes": num_processes, "data": _digest(data)}
        if not self.begins_anew and (self.out / MATERIAL).exists():
            check_same(self.out, _read(self.out / MATERIAL), material, (), advice=ADVICE)
        shutil.rmtree(self.out / STAGING, ignore_errors=True)
        if self.begins_anew and (self.out / CONFIG).exists():  # Nothing is ours where that is not.
            for old in self._written(models=self.fresh):
                if old.is_dir() and not old.is_symlink():
                    remove(old)
                else:
                    old.unlink(missing_ok=True)
            for events in list(self.out.glob(EVENTS)):
                events.unlink()
                with suppress(OSError):  # There is something else in it.
                    events.parent.rmdir()
        write_config(self.out, self._fields())
        _write(self.out / MATERIAL, material)

    def _fields(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def _written(self, *, models: bool) -> list[Path]:
        """What a run writes beside its configuration."""
        names = (MATERIAL, *self.outcomes, *(MODELS if models else ()))
        return [*checkpoints(self.out), *(self.out / name for name in names)]


def own_config(
    out: Path, fields: Collection[str], least: Collection[str], written: Iterable[Path]
) -> dict[str, Any] | None:
    """The configuration in a folder of ours: it has no other than these `fields`, and the `least` of them. None: there
    is none, nor any of what is `written` beside it. Raises `InvalidInput` where that is another's."""
    file = out / CONFIG
    if not file.exists():
        if found := [path.name for path in written if path.exists()]:
            raise InvalidInput(f"{out} holds {', '.join(found)}, but no {CONFIG}: give another --out")
        return None
    known = _read(file)
    if not isinstance(known, dict) or not set(least) <= set(known) <= set(fields):
        raise InvalidInput(f"{file} is the configuration of something else: give another --out")
    return known


def check_same(
    out: Path, known: Mapping[str, Any], fields: Mapping[str, Any], may_change: Collection[str], *, advice: str
) -> None:
    """Raise `InvalidInput`, with `advice`, unless the folder's configuration is these fields, but for those that may
    change."""
    if differ := [name for name in fields if name not in may_change and known.get(name) != fields[name]]:
        raise InvalidInput(f"{out} was made with other {', '.join(differ)}: {advice}")


def write_config(out: Path, fields: Mapping[str, Any]) -> None:
    """Write it down. Raises `InvalidInput` where that cannot be."""
    _write(out / CONFIG, fields)


def _read(file: Path) -> Any:
    """Raises `InvalidInput`."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InvalidInput(f"{file} is damaged: give another --out") from None


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    """Raises `InvalidInput`."""
    write_whole(file, json.dumps(fields, indent=1) + "\n", sync=True)


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
