"""Files and folders that a configuration names: which ones must not depend on where a later command is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ..runtime.engines.registry import shipped_models
from .benchmark import benchmark_class


def absolute(path: Path) -> str:
    """A path from the root on, without `..` where that is the same place, so that one file has one name."""
    whole = str(path.absolute())
    short = os.path.normpath(whole)
    try:
        return short if os.path.realpath(short) == os.path.realpath(whole) else whole
    except ValueError:  # a name that no file can have, which whoever opens it says
        return whole


def absolute_fields(benchmark: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`absolute_paths` of a benchmark's fields."""
    return absolute_paths(benchmark_class(benchmark.get("name")), benchmark, folder)


def absolute_paths(cls: type[BaseModel] | None, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fields of `cls` as JSON; those that are paths begin in `folder`, unless they begin elsewhere."""
    fields = {} if cls is None else cls.model_fields
    paths = {name for name, field in fields.items() if _is_path(field.annotation)}
    return {name: _absolute(value, folder) if name in paths else value for name, value in values.items()}


def absolute_model(model: str) -> str:
    """A model's name; that of a folder or file on this disk from the root on."""
    path = Path(model)
    try:
        is_here = bool(model) and model not in shipped_models() and path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return model
    return absolute(path) if is_here else model


def _is_path(annotation: object) -> bool:
    return annotation is Path or any(map(_is_path, get_args(annotation)))


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_absolute(one, folder) for one in value]
    # "~" is the owner's affair; what is no text, it refuses.
    return value if not isinstance(value, str) or value.startswith("~") else absolute(folder / value)
