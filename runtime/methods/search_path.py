"""The solution path that a search in the language of the APR paper ends with (arXiv 2504.15466).

A search that found the target says so twice: at the find, and at the end of the path that it then repeats.
"""

from __future__ import annotations

import re

GOAL = "Goal Reached"

MAX_DIGITS = 40
"""Of a number, here and in what judges: more than any four that a problem file may hold come to."""
INT = f"[0-9]{{1,{MAX_DIGITS}}}"
_exploring = re.compile(
    rf"Exploring Operation: ({INT}[-+*/]{INT}={INT}), Resulting Numbers: \[(?:{INT}(?:, {INT})*)?\]"
)


def after_find(text: str) -> str | None:
    """What a search that found the target says after it, the path and whatever follows; None: it has no path."""
    last = text.rfind(GOAL)
    before = text.rfind(GOAL, 0, last) if last > 0 else -1
    return text[before + len(GOAL) :].strip() if before >= 0 else None


def final_path(text: str) -> str | None:
    """The path alone, to the words that end it."""
    path = after_find(text)
    return path[: path.rfind(GOAL) + len(GOAL)] if path else None


def operations(path: str) -> list[str]:
    """The operations that a path explores, in order; lines that cannot be read are left out."""
    return _exploring.findall(path)
