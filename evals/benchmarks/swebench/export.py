"""The answers of an evaluation as predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ....agents.predictions import Prediction, write_predictions
from ....runtime.disk import writing
from ...benchmark import Answered
from ...names import slug

NAME_BYTES = 120


def export(folder: Path, answers: Sequence[Answered]) -> None:
    """Predictions as the official harness reads them, a file for each that it would take for one system; files of an
    earlier export are gone."""
    systems: dict[tuple[str, str], list[Prediction]] = {}
    for one in answers:
        name = " ".join(filter(None, (one.method, one.place)))
        systems.setdefault((one.method, one.place), []).append(
            Prediction(
                instance_id=one.sample,
                model_name_or_path=_short(f"plait {name}, {Path(one.model).name}"),
                model_patch=one.answer or "",
            )
        )
    files = dict(zip(_names(list(systems)), systems.values(), strict=True))
    for name, predictions in files.items():
        write_predictions(folder / name, predictions)
    # With fewer answers there were fewer systems, whose files had other names.
    with writing(folder):
        for path in (folder / "predictions.jsonl", *folder.glob("predictions-*.jsonl")):
            if path.name not in files:
                path.unlink(missing_ok=True)


def _short(name: str) -> str:
    """The harness makes a folder of the name, with more around it: long ones are cut, and told apart by a digest."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: NAME_BYTES - 12].decode(errors='ignore')}... {digest}"


def _names(systems: Sequence[tuple[str, str]]) -> list[str]:
    """A file for each method and place, numbered where what is left of them in a name does not tell all apart."""
    if len(systems) == 1:
        return ["predictions.jsonl"]
    parts = ["_".join(slug(part) for part in system if part) for system in systems]
    if len({part.casefold() for part in parts}) < len(parts):  # Not every disk tells capitals from small letters.
        parts = [f"{number}-{part}" for number, part in enumerate(parts)]
    return [f"predictions-{part}.jsonl" for part in parts]
