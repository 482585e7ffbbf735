"""The answers of an evaluation as predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....agents.predictions import Prediction, write_predictions
from ...benchmark import Answered
from ...names import slug


def export(folder: Path, answers: Sequence[Answered]) -> None:
    """Predictions as the official harness reads them, a file for each that it would take for one system."""
    files: dict[tuple[str, str], list[Prediction]] = {}
    for one in answers:
        name = " ".join(filter(None, (one.method, one.place)))
        files.setdefault((one.method, one.place), []).append(
            Prediction(
                instance_id=one.sample,
                model_name_or_path=f"plait {name}, {Path(one.model).name}",
                model_patch=one.answer or "",
            )
        )
    for (method, place), predictions in files.items():
        part = "" if len(files) == 1 else f"-{slug(f'{method} {place}'.strip())}"
        write_predictions(folder / f"predictions{part}.jsonl", predictions)
