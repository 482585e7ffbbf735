"""Taking the answer out of a text, by name of the rule.

- `text`: the whole text, stripped.
- `boxed`: the content of the last `\\boxed{...}` with balanced braces.
- `countdown`: what follows the last word `answer` (the compact Countdown language), `none` meaning no answer.
- `equations`: all equations `a + b = c`, joined by commas (its mode `step`).
- `regex:PATTERN`: the last match; its first group where it has one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ..errors import InvalidInput

_BRACE = re.compile(r"\\boxed\{|[{}]")

_EQUATION = re.compile(r"\d+ *[-+*/] *\d+ *= *\d+")

RULES = ("text", "boxed", "countdown", "equations", "regex:PATTERN")


def check_rule(rule: str) -> str:
    """Raise `InvalidInput` unless `extract` knows the rule; returns it."""
    if rule.startswith("regex:"):
        try:
            re.compile(rule.removeprefix("regex:"))
        except re.error as error:
            raise InvalidInput(f"answer rule {rule!r}: {error}") from None
    elif rule not in RULES:
        raise InvalidInput(f"unknown answer rule {rule!r}; known: {', '.join(RULES)}")
    return rule


def extract(rule: str, text: str) -> str | None:
    """The answer, or None where the text has none."""
    if rule == "text":
        return text.strip() or None
    if rule == "boxed":
        return _boxed(text)
    if rule == "countdown":
        return _countdown(text)
    if rule == "equations":
        return " , ".join(_EQUATION.findall(text)) or None
    matches = list(re.finditer(rule.removeprefix("regex:"), text))
    if not matches:
        return None
    found: str | None = matches[-1].group(1) if matches[-1].re.groups else matches[-1].group()
    return found


def majority(answers: Iterable[str | None]) -> tuple[str | None, Counter[str]]:
    """The answer given most often, ties by the first given, and the votes; None does not vote (arXiv 2203.11171)."""
    votes = Counter(answer for answer in answers if answer is not None)
    # Counter keeps the order of first occurrence, and max takes the first of equals.
    return max(votes, key=lambda key: votes[key], default=None), votes


def boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of the text's `\\boxed{...}` with balanced braces begin and end, by their beginning.

    Linear in the text, whatever its braces.
    """
    opened: list[int | None] = []
    found = []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if match[0] != "{" else None)
        elif opened and (begin := opened.pop()) is not None:
            found.append((begin, match.start()))
    return sorted(found)


def _boxed(text: str) -> str | None:
    found = boxes(text)
    return text[slice(*found[-1])].strip() or None if found else None


def _countdown(text: str) -> str | None:
    words = text.split()
    if "answer" not in words:
        return None
    last = len(words) - words[::-1].index("answer")
    answer = " ".join(words[last:])
    return None if answer in ("", "none") else answer
