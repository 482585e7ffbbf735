"""How the digits of one number are set apart, and which of them recur."""

from __future__ import annotations

import re

_RECURRING = re.compile(
    r"(?<![A-Za-z.)\]}])(\.\d*)(?:\\dot\{(\d+)\}(?:(\d*)\\dot\{(\d)\})?"
    r"|\((\d+)\)(?=[,;)\]}&]|\\(?:[\\}%]|end|text)|\^\{\\circ\}|%|\Z))"
)
"""`0.\\dot{1}4285\\dot{7}`; `0.1(6)`, where nothing behind it makes that a product."""
_MARK = re.compile(r"\\!\s*")
_THOUSANDS = re.compile(
    r"(?<![\d.])(?<!(?<!\\),)(?<!\d\\,)"  # not in the midst of a number; `\,` is a space
    r"([1-9]\d{0,2})(\{,\}|\\[,;: ]|\\thinspace |~| |,)(\d{3}(?:\2\d{3})*)(?!\d|,\d|\{,\}\d)(?! ?/| \d)"
)


def overline_recurring(form: str) -> str:
    """A typeset form in which digits that recur have a line over them: `0.\\overline{6}`."""
    return _RECURRING.sub(_overlined, form)


def _overlined(match: re.Match[str]) -> str:
    front, *period = match.groups(default="")
    return rf"{front}\overline{{{''.join(period)}}}"


def join_thousands(text: str, commas: bool) -> str:
    """The source with numbers in one piece; see `tex.typeset`."""

    def join(match: re.Match[str]) -> str:
        mark = match[2]
        if mark == "," and (not commas or _is_inside(text[: match.start()])):
            return match[0]
        return match[1] + match[3].replace(mark, "")

    text = re.sub(r",\\!\s*", "{,}", text)
    return _THOUSANDS.sub(join, _MARK.sub("", text))


def _is_inside(before: str) -> bool:
    """Is a bracket open?"""
    return sum(map(before.count, ("(", "[", r"\{"))) > sum(map(before.count, (")", "]", r"\}")))
