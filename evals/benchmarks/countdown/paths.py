"""Verdicts on searches in the language of the APR paper: ours, and what the published checkers say.

The published ones are kept for comparison with published figures. What they let pass:

- `apr` skips lines that it cannot read, and takes any line with the words for the one that reaches the goal;
- `sosp` looks at the operations listed in the last state and at the last one explored, never takes a used number away
  and never asks whether all are used. It refuses paths of one operation.

Nothing is evaluated as code, where the published checkers do; any text gives a verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from ....runtime.methods.search_path import GOAL, INT, operations
from .verify import Verdict, verify

_EXPLORING = re.compile(rf"Exploring Operation: ({INT}[-+*/]{INT}=({INT})), Resulting Numbers: \[((?:{INT}, )*{INT})\]")
_GOAL_LINE = re.compile(rf"{INT},{INT} equal: {GOAL}")
_LOOSE = re.compile(r"Exploring Operation:\s*([0-9]+)([-+*/])([0-9]+)=([0-9]+),\s*Resulting Numbers:\s*\[([^\]\n]*)\]")
_LAST = re.compile(r"Exploring Operation: ([^\n]*?=([0-9]+)), Resulting Numbers: \[[^\n]*?\]")
_LISTED = re.compile(r"Current State: [0-9]+:\[[^\n]*?\], Operations: \[([^\n]*?)\]")
_OPERATION = re.compile(rf"({INT})([-+*/])({INT})=(-?{INT})")

_RIGHT = Verdict(True, "correct")

Checker = Callable[[Sequence[int], int, str], Verdict]


def strict(nums: Sequence[int], target: int, path: str) -> Verdict:
    """Judge a solution path: its operations by the strict verifier, the numbers it lists behind each, its last line.

    Every line that explores must be readable; the path ends where the goal is reached.
    """
    lines = path.rstrip("\n").split("\n")
    steps = [(line, _EXPLORING.fullmatch(line)) for line in lines if "Exploring" in line]
    for line, step in steps:
        if step is None:
            return Verdict(False, f"not an operation: {line[:60]!r}")
    verdict = verify(nums, target, ", ".join(step[1] for _, step in steps if step))
    if not verdict:
        return verdict
    held = Counter(nums)
    for _, step in steps:
        assert step is not None
        held = held - Counter(map(int, re.findall("[0-9]+", step[1])[:2])) + Counter((int(step[2]),))
        if held != Counter(map(int, step[3].split(", "))):
            return Verdict(False, f"wrong numbers left: [{step[3][:60]}]")
    if lines[-1] != f"{target},{target} equal: {GOAL}":
        return Verdict(False, "it does not end at the goal")
    return _RIGHT


def apr(nums: Sequence[int], target: int, path: str) -> Verdict:
    """The published checker of what an APR search hands back."""
    held = list(nums)
    for line in path.splitlines():
        if step := _LOOSE.search(line):
            listed = [part.strip() for part in step[5].split(",")] if step[5].strip() else []
            if not all(re.fullmatch(INT, part) for part in (*step.group(1, 3, 4), *listed)):
                return Verdict(False, "not a number")
            a, b, c = int(step[1]), int(step[3]), int(step[4])
            left = Counter(held)
            left.subtract((a, b))
            if min(left.values()) < 0:
                return Verdict(False, f"{a} or {b} is not available")
            if not _is_right(a, step[2], b, c):
                return Verdict(False, f"wrong arithmetic: {a}{step[2]}{b}={c}")
            held = [int(part) for part in listed]
            if left + Counter((c,)) != Counter(held):
                return Verdict(False, f"wrong numbers left: {held}")
        if GOAL in line:
            return _RIGHT if held == [target] else Verdict(False, "the goal is not reached where it says so")
    return Verdict(False, "the goal is not reached")


def sosp(nums: Sequence[int], target: int, text: str) -> Verdict:
    """The published checker of a search in one line (SoS+); `text`: all of it behind the prompt."""
    goal = max(_GOAL_LINE.finditer(text), key=re.Match.start, default=None)
    explored = _LAST.findall(text[: goal.start()]) if goal else []
    if goal is None or not explored:
        return Verdict(False, "the goal is not reached")
    last, result = explored[-1]
    if not re.fullmatch(INT, result) or int(result) != target:
        return Verdict(False, "the last operation does not make the target")
    parts = text[: goal.start()].split(f"{GOAL}\n")
    listed = _LISTED.findall(parts[1]) if len(parts) > 1 else []
    if not listed:
        return Verdict(False, "no path behind the goal")
    available = set(nums)
    for operation in (*listed[-1].replace("'", "").split(", "), last):
        found = _OPERATION.fullmatch(operation)
        if found is None:
            return Verdict(False, f"not an operation: {operation[:60]!r}")
        a, b, c = int(found[1]), int(found[3]), int(found[4])
        if not _is_right(a, found[2], b, c):
            return Verdict(False, f"wrong arithmetic: {operation}")
        if not {a, b} <= available:
            return Verdict(False, f"{a} or {b} is not available")
        available.add(c)
    return _RIGHT


def said(path: str) -> str:
    """The path's operations, which is the same text for paths that differ in node ids alone."""
    return ", ".join(operations(path))


def _is_right(a: int, op: str, b: int, c: int) -> bool:
    if op == "/":
        return b != 0 and a % b == 0 and a // b == c
    return c == (a + b if op == "+" else a - b if op == "-" else a * b)
