"""Reading and writing what the user named: what goes wrong there is one clear message."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import InvalidInput


def read_text(name: str | Path) -> str:
    """A file's text; `-` is standard input. Raises `InvalidInput`."""
    if str(name) == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {name}: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises `InvalidInput`."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None
