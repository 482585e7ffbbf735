"""The strict verifier: does a text solve a Countdown problem?

It accepts equations (`63-9=54, 54+2=56`, also on lines of their own, spaces and blank lines anywhere) and one
expression (`(63-9)+2`, optionally `= 56`), one comma or semicolon behind them or none. All numbers are used exactly
once, every division is exact, no intermediate result is negative or a fraction. Nothing is ever evaluated as code; any
string gives a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ....runtime.methods.search_path import MAX_DIGITS

_MAX_TEXT, _MAX_DEPTH = 4000, 50
_EQUATION = re.compile(r"([0-9]+)\s*([-+*/])\s*([0-9]+)\s*=\s*([0-9]+)")
_SEPARATOR = re.compile(r"\s*[,;\n]\s*")
"""Between two equations; blank lines may stand around it."""
_CLOSING = re.compile(r"\s*[,;]\Z")
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()=])")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Truthy if correct."""

    ok: bool
    reason: str
    """`correct`, or what is wrong first."""

    def __bool__(self) -> bool:
        return self.ok


class _Wrong(Exception):
    """Carries the reason."""


def verify(nums: Sequence[int], target: int, text: str) -> Verdict:
    """Judge the text, equations if it has several `=` or a comma, else an expression."""
    try:
        if len(text) > _MAX_TEXT:
            raise _Wrong("too long")
        text = _CLOSING.sub("", text.strip())
        if not text:
            raise _Wrong("empty")
        if any(len(digits) > MAX_DIGITS for digits in re.findall("[0-9]+", text)):
            raise _Wrong("number too large")
        parts = _SEPARATOR.split(text)
        if all(_EQUATION.fullmatch(part) for part in parts):
            _check_equations(nums, target, parts)
        elif len(parts) > 1:
            bad = next(part for part in parts if not _EQUATION.fullmatch(part))
            raise _Wrong(f"not an equation: {bad[:40]!r}")
        else:
            _check_expression(nums, target, text)
    except _Wrong as wrong:
        return Verdict(False, str(wrong))
    return Verdict(True, "correct")


def _apply(op: str, a: int, b: int) -> int:
    if op == "+":
        return a + b
    if op == "-":
        if a < b:
            raise _Wrong(f"negative result: {a}-{b}")
        return a - b
    if op == "*":
        if a * b >= 10**MAX_DIGITS:
            raise _Wrong("number too large")
        return a * b
    if b == 0 or a % b:
        raise _Wrong(f"inexact division: {a}/{b}")
    return a // b


def _check_equations(nums: Sequence[int], target: int, parts: Sequence[str]) -> None:
    left = list(nums)
    for part in parts:
        match = _EQUATION.fullmatch(part)
        assert match is not None
        a, op, b, c = int(match[1]), match[2], int(match[3]), int(match[4])
        for used in (a, b):
            if used not in left:
                raise _Wrong(f"{used} is not available")
            left.remove(used)
        if _apply(op, a, b) != c:
            raise _Wrong(f"wrong arithmetic: {part}")
        left.append(c)
    if len(left) != 1:
        raise _Wrong("numbers left over")
    if left[0] != target:
        raise _Wrong(f"makes {left[0]}, not {target}")


def _check_expression(nums: Sequence[int], target: int, text: str) -> None:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _Wrong(f"unexpected {text[at:].strip()[:1]!r}")
        tokens.append(match[1])
        at = match.end()
    if "=" in tokens:
        claim = tokens[tokens.index("=") + 1 :]
        if claim != [str(target)]:
            raise _Wrong("the right-hand side is not the target")
        tokens = tokens[: tokens.index("=")]
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.at < len(tokens):
        raise _Wrong(f"unexpected {tokens[parser.at]!r}")
    if sorted(parser.numbers) != sorted(nums):
        raise _Wrong("not exactly the given numbers")
    if value != target:
        raise _Wrong(f"makes {value}, not {target}")


class _Parser:
    """Recursive descent over + - * / and parentheses."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens, self.at = tokens, 0
        self.numbers: list[int] = []

    def _next(self, allowed: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in allowed:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def sum(self, depth: int) -> int:
        value = self.product(depth)
        while op := self._next("+-"):
            value = _apply(op, value, self.product(depth))
        return value

    def product(self, depth: int) -> int:
        value = self.atom(depth)
        while op := self._next("*/"):
            value = _apply(op, value, self.atom(depth))
        return value

    def atom(self, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise _Wrong("nested too deeply")
        if self.at >= len(self.tokens):
            raise _Wrong("ends too early")
        token = self.tokens[self.at]
        self.at += 1
        if token == "(":
            value = self.sum(depth + 1)
            if not self._next(")"):
                raise _Wrong("unbalanced parentheses")
            return value
        if not token.isdigit():
            raise _Wrong(f"unexpected {token!r}")
        self.numbers.append(int(token))
        return int(token)
