"""What holds for edits of every form, looked at last."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..definitions import parse, problem
from .base import Edit, EditError, Source


def finish(edit: Edit, source: Source) -> Edit:
    """The edit without files that stay as they are.

    Raises `EditError` when nothing is left, for a file below another one, for text that no text file holds, and for a
    Python file that was sound and no longer is.
    """
    left = {path: text for path, text in edit.items() if text is None or source.files.get(path) != text}
    if not left:
        raise EditError(
            "the edit changes nothing: the new text equals the old. Which lines are wrong, and what must they be?"
        )
    for path, text in left.items():
        if text is not None:
            _check(path, text, source)
            for parent in map(str, PurePosixPath(path).parents):
                if left.get(parent) is not None:
                    raise EditError(f"the edit makes {parent} a file, and {path} below it: a folder is no file")
    return left


def _check(path: str, text: str, source: Source) -> None:
    if "\0" in text or not _encodes(text):
        raise EditError(f"{path}: the new text holds characters that no text file holds (NUL, or half of a pair)")
    if not path.endswith((".py", ".pyi")):
        return
    wrong = problem(text)
    if wrong is not None and (path not in source.files or parse(source.files[path]) is not None):
        raise EditError(f"{path} is no valid Python after the edit: {wrong}")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
