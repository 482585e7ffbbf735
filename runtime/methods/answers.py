"""Taking the answer out of a text, by name of the rule.

- `text`: the whole text, stripped.
- `boxed`: the content of the last `\\boxed{...}` with balanced braces.
- `countdown`: what follows the last word `answer` (the compact Countdown language), `none` meaning no answer.
- `regex:PATTERN`: the last match; its first group where it has one.
"""

from __future__ import annotations

import re

from ..errors import InvalidInput

RULES = ("text", "boxed", "countdown", "regex:PATTERN")


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
    matches = list(re.finditer(rule.removeprefix("regex:"), text))
    if not matches:
        return None
    found: str | None = matches[-1].group(1) if matches[-1].re.groups else matches[-1].group()
    return found


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    while start >= 0:
        begin = start + len("\\boxed{")
        depth = 1
        for i in range(begin, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[begin:i].strip() or None
        start = text.rfind("\\boxed{", 0, start)
    return None


def _countdown(text: str) -> str | None:
    words = text.split()
    if "answer" not in words:
        return None
    last = len(words) - words[::-1].index("answer")
    answer = " ".join(words[last:])
    return None if answer in ("", "none") else answer
