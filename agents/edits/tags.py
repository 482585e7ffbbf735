"""`<tag>...</tag>` in a model's answer (arXiv 2501.14723, released code: exactly one pair)."""

from __future__ import annotations

import re

from .base import EditError


def extract(text: str, *tags: str, is_cut: bool = False) -> dict[str, str]:
    """What stands in the one tag of these that the answer holds: one entry, tag -> text.

    A tag opens at the beginning of a line, if one of its openings stands there, and closes the last time it closes:
    code may hold the closing tag, too. `is_cut`: the answer ended at its limit.
    Raises `EditError` for none, several, and one that is not closed.
    """
    tag = which(text, *tags, is_cut=is_cut)
    openings = _openings(text, tag)
    if len(openings) > 1:
        lines = ", ".join(str(text.count("\n", 0, match.start()) + 1) for match in openings)
        raise EditError(f"the answer opens <{tag}> {len(openings)} times (lines {lines}): write exactly one, all in it")
    start, end = _span(text, tag, openings[0])
    if end == len(text) + 1:
        why = "the answer was cut off at its length limit: write less" if is_cut else "close it"
        raise EditError(f"<{tag}> has no </{tag}>: {why}")
    inner = text[start:end].removeprefix("\r").removeprefix("\n")
    return {tag: inner.removesuffix("\n").removesuffix("\r") if inner.endswith("\n") else inner}


def which(text: str, *tags: str, is_cut: bool = False) -> str:
    """The one tag of these that the answer opens, once or several times, and closes or not. Tags inside another one's
    text do not count. Raises `EditError` for none and for two."""
    spans = {tag: _span(text, tag, openings[0]) for tag in tags if (openings := _openings(text, tag))}
    # One that is left open may have been forgotten before the next one, unless the answer's end is not there.
    whole = [(start, end) for start, end in spans.values() if is_cut or end <= len(text)]
    found = [tag for tag, (start, _) in spans.items() if not any(a < start < b for a, b in whole)]
    if not found:
        wanted = " or ".join(f"<{tag}>...</{tag}>" for tag in tags)
        cut = " before it: it was too long; write less ahead of it" if is_cut else f": write exactly one {wanted}"
        raise EditError(f"the answer {'was cut off' if is_cut else f'has no {wanted}'}{cut}")
    if len(found) > 1:
        raise EditError(f"the answer has {' and '.join(f'<{tag}>' for tag in found)}: write exactly one of them")
    return found[0]


def _openings(text: str, tag: str) -> list[re.Match[str]]:
    return _at_lines(rf"<{re.escape(tag)}>", text)


def _at_lines(tag: str, text: str) -> list[re.Match[str]]:
    """Where a tag stands: at the beginning of lines, or if there nowhere, anywhere."""
    return [*re.finditer(rf"(?m)^[ \t]*{tag}", text)] or [*re.finditer(tag, text)]


def _span(text: str, tag: str, opening: re.Match[str]) -> tuple[int, int]:
    """Where the text of a tag begins and ends; one behind the text's end: it is not closed."""
    rest = text[opening.end() :]
    closings = _at_lines(rf"</{re.escape(tag)}>", rest)
    if not closings:
        return opening.end(), len(text) + 1
    last = closings[-1]
    return opening.end(), opening.end() + last.end() - len(f"</{tag}>")
