"""Fenced code blocks of a model's answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_OPENING = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`]*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    line: int
    """Its first line of code in the text, from 1."""
    info: str
    """What stands behind the opening: `python`."""
    before: str
    """The last line above it that is not empty."""
    lines: Sequence[str]
    is_closed: bool


def fences(text: str) -> list[Fence]:
    """All of them, in order; the last may lack its end.

    One ends at a fence of its kind that is not indented deeper: those in docstrings are code.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    found, number = [], 0
    while number < len(lines):
        opening = _OPENING.match(lines[number])
        if opening is None:
            number += 1
            continue
        start = number + 1
        indent, mark, info = opening.groups()
        closing = re.compile(rf"^[ \t]{{0,{len(indent)}}}{mark[0]}{{{len(mark)},}}[ \t]*$")
        end = next((at for at in range(start, len(lines)) if closing.match(lines[at])), len(lines))
        code = lines[start:end]
        if end == len(lines) and code and not code[-1]:
            code.pop()
        found.append(
            Fence(
                line=start + 1,
                info=info.strip(),
                before=next((line for line in reversed(lines[:number]) if line.strip()), ""),
                lines=[line.removeprefix(indent) for line in code],
                is_closed=end < len(lines),
            )
        )
        number = end + 1
    return found
