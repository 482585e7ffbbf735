"""Files of JSON Lines, and what names with signs such as `*` stand for."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InvalidInput
from ..runtime.plain import check_plain


def files(paths: Sequence[str]) -> list[Path]:
    """All files that these name; `*`, `?`, `[...]` and `**` stand for what they do in a shell. Raises
    `InvalidInput` for a name without any."""
    return _named(paths, Path.is_file, "file")


def folders(paths: Sequence[str]) -> list[Path]:
    """As `files`."""
    return _named(paths, Path.is_dir, "folder")


def _named(paths: Sequence[str], is_one: Callable[[Path], bool], kind: str) -> list[Path]:
    found: list[Path] = []
    for name in paths:
        # It may have such a sign in its own name.
        names = [name] if is_one(Path(name)) else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (pathlib's raises for some)
        some = [path for path in map(Path, names) if is_one(path)]
        if not some:
            raise InvalidInput(f"there is no {kind} {name}")
        found += some
    return found


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of every line. Raises `InvalidInput` for one that is no object."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            check_plain(data)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{path}:{number}: {error}") from None
        if not isinstance(data, dict):
            raise InvalidInput(f"{path}:{number}: not an object")
        yield f"{path}:{number}", data
