"""Taking the answer out of a text, by name of the rule.

- `text`: the whole text, stripped.
- `boxed`: the content of the last `\\boxed{...}` (or `\\fbox{...}`) with balanced braces, or the number, fraction or
  letter of one without.
- `countdown`: what follows the last word `answer` (the compact Countdown language), `none` meaning no answer.
- `equations`: all equations `a + b = c`, joined by commas (its mode `step`).
- `path`: the operations of the solution path that a text in the language of the APR paper ends with, joined by commas.
- `regex:PATTERN`: the last match; its first group where it has one. No answer where that is blank, or where the search
  takes too long.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterable

import regex

from ..equality import numbers
from ..equality.registry import Equality
from ..errors import InvalidInput
from .search_path import final_path, operations

# Of `\\boxed{` too, as texts have it that were escaped once too often; other escaped braces are no braces to TeX.
BOX = r"\\{1,2}(?:boxed|fbox)\s*\{"
_BRACE = re.compile(rf"{BOX}|\\.|[{{}}]", re.DOTALL)
_ONE = r"(?:\{[^{}]*\}|\s?\d)"
_BARE = re.compile(
    r"\\{1,2}(?:boxed|fbox)\s*([+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?"
    rf"|\\{{1,2}}(?:[dtc]?frac{_ONE}{_ONE}|sqrt{_ONE}|pi(?![A-Za-z]))|[A-Za-z](?![A-Za-z]))"
)
"""A box without braces. TeX puts its next token into it; who writes `\\boxed 73` means both digits."""
_COUNTED = re.compile(r"[\d+*/^<>-]|\\(?:frac|cdot|times|div|sqrt|pm)")
"""What says, around a box in a box, that the outer one holds more than the inner."""

_EQUATION = re.compile(r"(?<!\d)\d++ *+[-+*/] *+\d++ *+= *+\d++")
"""Linear in the text, however long its numbers."""

_SECONDS = 0.5
"""A pattern is somebody's program, and the text a model's."""
_MAX_PATTERN = 2_000

RULES = ("text", "boxed", "countdown", "equations", "path", "regex:PATTERN")


def check_rule(rule: str) -> str:
    """Raise `InvalidInput` unless `extract` knows the rule; returns it."""
    if rule.startswith("regex:"):
        pattern = rule.removeprefix("regex:")
        if len(pattern) > _MAX_PATTERN:
            raise InvalidInput(f"answer rule: a pattern of {len(pattern)} characters; it may have {_MAX_PATTERN}")
        try:
            regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise InvalidInput(f"answer rule {rule[:80]!r}: {error}") from None
    elif rule not in RULES:
        raise InvalidInput(f"unknown answer rule {rule[:80]!r}; known: {', '.join(RULES)}")
    return rule


def extract(rule: str, text: str) -> str | None:
    """The answer, or None where the text has none. Raises `InvalidInput` as `check_rule` does."""
    if rule == "text":
        return text.strip() or None
    if rule == "boxed":
        return _boxed(text)
    if rule == "countdown":
        return _countdown(text)
    if rule == "equations":
        return " , ".join(_EQUATION.findall(text)) or None
    if rule == "path":
        return ", ".join(operations(final_path(text) or "")) or None
    return _last_match(check_rule(rule).removeprefix("regex:"), text)


def matches(pattern: str, text: str) -> list[regex.Match[str]]:
    """All matches of a pattern that `check_rule` knows; none where the search takes too long."""
    try:
        return list(regex.finditer(pattern, text, timeout=_SECONDS))
    except TimeoutError:
        return []


def _last_match(pattern: str, text: str) -> str | None:
    found = matches(pattern, text)
    if not found:
        return None
    last: str | None = found[-1].group(1) if found[-1].re.groups else found[-1].group()
    return last if last and not last.isspace() else None


def majority(answers: Iterable[str | None], equal: Equality = numbers.classes) -> tuple[str | None, Counter[str]]:
    """The answer given most often, ties by the first given, and the votes; None does not vote (arXiv 2203.11171).

    Answers that `equal` says are equal vote for one, under the spelling most often given (ties: the first).
    """
    given = [answer for answer in answers if answer is not None]
    groups: dict[Hashable, Counter[str]] = {}
    for answer, label in zip(given, equal(given), strict=True):
        groups.setdefault(label, Counter())[answer] += 1
    # Both dict and Counter keep the order of first occurrence, and max takes the first of equals.
    votes = Counter({max(group, key=lambda answer: group[answer]): group.total() for group in groups.values()})
    return max(votes, key=lambda answer: votes[answer], default=None), votes


def boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of the text's `\\boxed{...}` and `\\fbox{...}` with balanced braces begin and end, by their
    beginning. Of boxes in boxes the outermost, or the one in it where there is no more than words around that.

    Linear in the text, whatever its braces. There may be space before the brace.
    """
    opened: list[int | None] = []
    found = []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            if opened and (begin := opened.pop()) is not None:
                found.append((begin, match.start()))
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end() if match[0] != "{" else None)
    counted = [match.start() for match in _COUNTED.finditer(text)]
    outer: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if not outer or begin > outer[-1][1]:
            outer.append((begin, end))
        elif bisect(counted, begin - 1) == bisect(counted, outer[-1][0] - 1) and (
            bisect(counted, end) == bisect(counted, outer[-1][1])
        ):
            outer[-1] = (begin, end)
    return outer


def bare_box(text: str, begin: int = 0) -> str | None:
    """What the last box without braces from `begin` on holds, of a text that goes no further."""
    held: list[str] = _BARE.findall(text, begin)
    return held[-1] if held else None


def _boxed(text: str) -> str | None:
    found = boxes(text)
    if (bare := bare_box(text, found[-1][1] if found else 0)) is not None:
        return bare
    return text[slice(*found[-1])].strip() or None if found else None


def _countdown(text: str) -> str | None:
    words = text.split()
    if "answer" not in words:
        return None
    last = len(words) - words[::-1].index("answer")
    answer = " ".join(words[last:])
    return None if answer in ("", "none") else answer
