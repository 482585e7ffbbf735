"""SWE-bench predictions: one patch an instance, in the format that its harness reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.disk import replace_file
from ..runtime.errors import InvalidInput

_SUFFIXES = (".json", ".jsonl")
_GENERIC = ("all_preds", "preds", "predictions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    instance_id: str
    model_name_or_path: str
    """The system that made it."""
    model_patch: str
    """Unified diff; empty: none was found."""


def write_predictions(path: Path | str, predictions: Iterable[Prediction]) -> None:
    """Write them as JSON Lines (`.jsonl`) or one JSON list (`.json`), so that no reader ever sees half a file.

    Patches keep their final newline: without it the last hunk does not apply. Raises `InvalidInput`.
    """
    path = Path(path)
    rows = [asdict(prediction) for prediction in predictions]
    if path.suffix not in _SUFFIXES:
        raise InvalidInput(f"{path}: predictions are written to a file named .jsonl or .json")
    text = json.dumps(rows, indent=1) + "\n" if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows)
    try:
        replace_file(path, text.encode(), sync=True)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error}") from None


def read_predictions(path: Path | str) -> list[Prediction]:
    """The predictions of one file: JSON Lines, a JSON list, or a JSON object by instance.

    A file that names no model is named for itself. Raises `InvalidInput` with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not a file of predictions: {error}") from None
    found: dict[str, Prediction] = {}
    for where, row in _rows(path, text):
        prediction = _prediction(row, where, _system(path))
        if prediction.instance_id in found:
            raise InvalidInput(f"{where}: a second prediction for {prediction.instance_id}")
        found[prediction.instance_id] = prediction
    return list(found.values())


def read_systems(path: Path | str) -> dict[str, list[Prediction]]:
    """System -> its predictions, of one file or of all files in a folder and the folders in it.

    A system's name is its file's; of files like `all_preds.jsonl`, their folder's. Raises `InvalidInput`.
    """
    path = Path(path)
    if not path.is_dir():
        return {_system(path): read_predictions(path)}
    files = sorted(file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix in _SUFFIXES)
    if not files:
        raise InvalidInput(f"{path} holds no predictions: put .jsonl or .json files there")
    systems: dict[str, list[Prediction]] = {}
    for file in files:
        if _system(file) in systems:
            raise InvalidInput(f"{file}: another file is named {_system(file)!r}, too: rename one")
        systems[_system(file)] = read_predictions(file)
    return systems


def _system(path: Path) -> str:
    path = path.absolute()
    return path.parent.name if path.stem in _GENERIC else path.stem


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Where each prediction stands, and its JSON."""
    if path.suffix == ".jsonl":
        # At "\n" alone: JSON may hold other separators of lines inside strings.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", _load(line, path, number)
        return
    data = _load(text, path, 1)
    if isinstance(data, list):
        yield from ((f"{path}: entry {number}", row) for number, row in enumerate(data, start=1))
    elif isinstance(data, dict):
        for name, row in data.items():
            yield f"{path}: {name}", {"instance_id": name, **(row if isinstance(row, dict) else {"model_patch": row})}
    else:
        raise InvalidInput(f"{path}: write a list of predictions, or an object of them by instance")


def _load(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}:{line + error.lineno - 1}: not JSON: {error.msg}") from None
    except ValueError:
        raise InvalidInput(f"{path}:{line}: a number is too long") from None
    except RecursionError:
        raise InvalidInput(f"{path}:{line}: JSON nested too deep") from None


def _prediction(row: Any, where: str, system: str) -> Prediction:
    if not isinstance(row, dict):
        raise InvalidInput(f"{where}: a prediction is an object with instance_id and model_patch")
    if "model_patch" not in row:
        raise InvalidInput(f"{where}: model_patch is missing")
    instance, model, patch = row.get("instance_id"), row.get("model_name_or_path", system), row["model_patch"]
    if not isinstance(instance, str) or not instance:
        raise InvalidInput(f"{where}: instance_id must be a text")
    if not isinstance(model, str) or not isinstance(patch, str | None):
        raise InvalidInput(f"{where}: model_name_or_path and model_patch must be texts")
    return Prediction(instance_id=instance, model_name_or_path=model, model_patch=patch or "")
