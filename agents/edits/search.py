"""Where lines stand in a file, and what comes nearest if they do not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .base import Source
from .lines import file_lines, quote, unmarked


def positions(wanted: Sequence[str], lines: Sequence[str]) -> list[int]:
    """Where all of the wanted lines begin, from 0; exact, but for a byte order mark copied with the first line."""
    if not wanted:
        return []
    first, count = wanted[0], len(wanted)
    found = [
        at
        for at in range(len(lines) - count + 1)
        if lines[at] == first and list(lines[at : at + count]) == list(wanted)
    ]
    return found or [0] * (list(lines[:count]) == unmarked(wanted, lines))


def not_found(wanted: Sequence[str], path: str, source: Source) -> str:
    """What to say of lines that a file does not hold."""
    lines = file_lines(source.files[path])
    message = f"these lines are not in {path}"
    others = [other for other in source.shown if other != path and other in source.files]
    holding = [other for other in others if positions(wanted, file_lines(source.files[other]))]
    if holding:
        return f"{message}, but in {', '.join(holding[:3])}"
    at = _nearest(wanted, lines)
    if at is None:
        return f"{message}, nor anything like them: copy them from the file as it was shown"
    window = lines[at : at + len(wanted)]
    pairs = list(zip(wanted, window, strict=False))
    off = next((number for number, (a, b) in enumerate(pairs) if a != b), len(window) - 1)
    why = " (only the white space differs)" if all(a.split() == b.split() for a, b in pairs) else ""
    start = max(0, min(off - 3, len(window) - 10))
    return (
        f"{message}. Line {off + 1} of them differs{why}; did you mean lines {at + 1} to {at + len(window)}:\n"
        f"{quote(window[start : start + 10])}\nCopy lines exactly, with their indentation."
    )


def _nearest(wanted: Sequence[str], lines: Sequence[str]) -> int | None:
    """The window of as many lines that shares most words with the wanted ones, at least about half of them."""
    if not wanted or not lines:
        return None
    wanted = wanted[:50]  # Enough to know the place by, and quickly compared.
    words = [_words(line) for line in lines]
    count = min(len(wanted), len(lines))
    totals = [0.0] * (len(lines) - count + 1)
    for offset, line in enumerate(wanted[:count]):
        own = _words(line)
        cache: dict[frozenset[str], float] = {}
        for at in range(len(totals)):
            other = words[at + offset]
            if other not in cache:
                shared = len(own & other)
                cache[other] = shared / (len(own) + len(other) - shared) if own or other else 0.1
            # Equal lines weigh a little more than lines of the same words.
            totals[at] += cache[other] + (0.05 if lines[at + offset].strip() == line.strip() else 0.0)
    best = max(range(len(totals)), key=lambda at: (totals[at], -at))
    has_words = sum(1 for line in wanted if _words(line)) or 1
    return best if totals[best] >= 0.4 * has_words else None


def _words(line: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+|[^\w\s]", line))
