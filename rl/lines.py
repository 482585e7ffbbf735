"""Files of JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InvalidInput


def files(paths: Sequence[str]) -> list[Path]:
    """All files that these name. Raises `InvalidInput` for a name without any."""
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        some = sorted(path.parent.glob(path.name)) if "*" in path.name else [path] if path.is_file() else []
        if not some:
            raise InvalidInput(f"there is no file {name}")
        found += map(Path, some)
    return found


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of every line. Raises `InvalidInput` for one that is no object."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{path}:{number}: {error}") from None
        if not isinstance(data, dict):
            raise InvalidInput(f"{path}:{number}: not an object")
        yield f"{path}:{number}", data
