"""What tells one model from another in the same place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .registry import MODELS, shipped_models, split_scheme

_EDGE = 1 << 20
_FILES = (".safetensors", ".json", ".gguf", ".bin", ".model", ".jinja", ".txt")
_FOLDERS = ("additional_chat_templates",)
_PLACES = ("lora", "tokenizer")
"""Options of engines that may be the bare name of a folder here, or of a shipped model."""


def model_digest(model: str) -> str | None:
    """Changes with the files of a model folder, or with the one file that a model is: names, sizes, first and last MiB
    of each. None: there is no model of this name on this disk, or none that can be read."""
    _, name = split_scheme(model)
    path = MODELS / name if name in shipped_models() else Path(name)
    try:
        if name and path.is_dir():
            folders = [path, *(path / one for one in _FOLDERS if (path / one).is_dir())]
            every = [file for folder in folders for file in sorted(folder.iterdir())]
            files = {str(f.relative_to(path)): f for f in every if f.suffix in _FILES and f.is_file()}
            if not files:
                return None
        elif path.is_file():
            files = {path.name: path}
        else:
            return None
        return _digest(files)
    except (OSError, ValueError):  # a name that no file can have, a file of somebody else's
        return None


def option_digests(options: Mapping[str, Any]) -> dict[str, str]:
    """`model_digest` of those options of an engine that name something on this disk, such as an adapter: by what they
    are for, or by the look of a path, since `cuda` may be the name of a folder too."""
    found = {name: model_digest(str(value)) for name, value in options.items() if _is_place(name, value)}
    return {name: digest for name, digest in found.items() if digest is not None}


def _is_place(option: str, value: object) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and (option in _PLACES or os.sep in value))


def _digest(files: Mapping[str, Path]) -> str:
    found = hashlib.sha256()
    for called, one in files.items():
        size = one.stat().st_size
        found.update(f"{called} {size} ".encode())
        with one.open("rb") as file:
            found.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            found.update(file.read(_EDGE))
    return found.hexdigest()[:16]
