"""Reading and writing what the user named: what goes wrong there is one clear message."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path

from ..errors import InvalidInput


def read_text(name: str | Path) -> str:
    """A file's text; `-` is standard input. Raises `InvalidInput`."""
    try:
        if str(name) != "-":
            return Path(name).read_text(encoding="utf-8-sig")
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")  # as a file is read, whatever the locale says
        return sys.stdin.read()
    except (OSError, ValueError) as error:  # the latter for what is no UTF-8, or can be no path
        raise InvalidInput(f"cannot read {'standard input' if str(name) == '-' else name}: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises `InvalidInput`."""
    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None
