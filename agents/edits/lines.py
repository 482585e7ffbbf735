"""Lines of a file as an edit sees them: apart at `\\n` and nowhere else, and without the ends they have in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .base import EditError

MARK = "\ufeff"
"""The byte order mark that a file may begin with: no text of its first line, and no edit takes it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Lines `first` up to before `last`, from 0, become others."""

    first: int
    last: int
    lines: Sequence[str]
    """Without ends."""
    where: str = ""
    """What messages call it: `block 2`."""
    ends: bool | None = None
    """Whether the file then ends in a newline, for a change of its end. None: as it did, unless its last line is a new
    one, which gets a newline."""


def split(text: str) -> list[str]:
    """Lines with their ends; form feeds and the like end none."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def bare(text: str) -> list[str]:
    """Lines without `\\n` and `\\r\\n`."""
    return [line[:-1].removesuffix("\r") if line.endswith("\n") else line for line in split(text)]


def file_lines(text: str) -> list[str]:
    """The lines of a file without their ends, and without the byte order mark."""
    return bare(text.removeprefix(MARK))


def change(text: str, changes: Sequence[Change]) -> str:
    """The text with all changes, which are all relative to it; what they leave as it is keeps its bytes. Raises
    `EditError` where two of them touch the same line."""
    if text.startswith(MARK):
        old = file_lines(text)
        return MARK + change(
            text[1:], [replace(one, lines=one.lines if one.first else unmarked(one.lines, old)) for one in changes]
        )
    pieces, lines = split(text), bare(text)
    real = [one for one in changes if one.ends is not None or lines[one.first : one.last] != list(one.lines)]
    ordered = sorted(real, key=lambda one: (one.first, one.last))
    for before, after in zip(ordered, ordered[1:], strict=False):
        if after.first < before.last:
            raise EditError(f"{before.where} and {after.where} both change line {after.first + 1}: make them one")
    result: list[str] = []
    done = 0
    for one in ordered:
        first, last, new = _trimmed(lines, one)
        end = _end(pieces[first:last], pieces)
        result += [*pieces[done:first], *(line + end for line in new)]
        done = last
    result += pieces[done:]
    # Only the last line of a file may lack an end, and what was the last line may no longer be it.
    end = _end(pieces, pieces)
    whole = "".join(
        piece if piece.endswith("\n") or number == len(result) else piece + end
        for number, piece in enumerate(result, start=1)
    )
    last_one = ordered[-1] if ordered and ordered[-1].last == len(lines) else None
    if last_one is None or last_one.ends is None or not whole:
        return whole
    if last_one.ends:
        return whole if whole.endswith("\n") else whole + end
    return whole.removesuffix("\n").removesuffix("\r") if whole.endswith("\n") else whole


def unmarked(lines: Sequence[str], old: Sequence[str]) -> list[str]:
    """Lines as a model wrote them, without the byte order mark that it may have copied; lines of the file, `old`, that
    begin with one themselves keep it."""
    return [line[1:] if line.startswith(MARK) and line not in old else line for line in lines]


def _trimmed(lines: Sequence[str], one: Change) -> tuple[int, int, list[str]]:
    first, last, new = one.first, one.last, list(one.lines)
    while first < last and new and lines[first] == new[0]:
        first, new = first + 1, new[1:]
    while first < last and new and lines[last - 1] == new[-1]:
        last, new = last - 1, new[:-1]
    return first, last, new


def _end(pieces: Sequence[str], all_pieces: Sequence[str]) -> str:
    """The end that most of the lines have, or most of all lines, where these have none."""
    ended = [piece for piece in pieces if piece.endswith("\n")] or all_pieces
    windows = sum(piece.endswith("\r\n") for piece in ended)
    return "\r\n" if 2 * windows > sum(piece.endswith("\n") for piece in ended) else "\n"


def quote(lines: Sequence[str], *, most: int = 10, first: int | None = None) -> str:
    """Lines as a message shows them, with their numbers from `first` if given."""
    shown = [line if len(line) <= 160 else line[:160] + " ..." for line in lines[:most]]
    if first is not None:
        shown = [f"{number:>5} | {line}" for number, line in enumerate(shown, start=first)]
    return "\n".join([*shown, *([f"({len(lines) - most} more lines)"] if len(lines) > most else [])])
