"""The compact Countdown language: one token per number, one row of four results per pair of numbers.

Words are separated by single spaces. A thread's text is its prompt, which the runtime writes, and what the model adds::

    apr 24 : 63 9 5 2 ;                             prompt: mode, target, numbers from the largest down
    63 9 + 72 - 54 * 567 / 7 ;                      four or more numbers: a table, one row per pair of numbers;
    ...                                             `x` where a result is pruned (inexact, 0, a / 1, above `CAP`)
    spawn                                           every other result becomes a child
    join 63 - 9 = 54 , 54 + 2 = 56 , ... ; end      the runtime's: at most `MAX_JOINED` solutions of children
    answer 63 - 9 = 54 , 54 + 2 = 56 , ...          the last of them, or `none`

    apr 24 : 8 3 1 ;                                three numbers: a leaf, searched from both ends. One row per number
    8 3 + 11 - 5 * 24 / x | 24 1 + 25 - 23 * 24 hit   held out: results of the other two, and what the last number
    answer 8 * 3 = 24 , 24 / 1 = 24                 and the target make; a value on both sides is a solution

In mode `seq` the table is followed by every child's text in the same context, each behind `try a + b = c ;`. In mode
`mv` the rows of the table are the outlines of a Multiverse block; each path tries the results of one row and ends in
`answer 2: 63 - 5 = 58 , ...` (2 is its index) or in `none`, and the conclusion repeats the first answer. In mode
`step` a sample of single operations, for tree search, one per step and each with the numbers it leaves::

    step 24 : 8 3 1 ; 8 * 3 = 24 : 24 1 ; 24 * 1 = 24
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from ...errors import InvalidInput
from .dialect import Child, Joined, Spawn

CAP = 999
"""The largest number that is a token; larger results are pruned."""
LEAF = 3
"""Threads of this many numbers search by themselves; with more they spawn."""
OPS = ("+", "-", "*", "/")
PRUNED, UNMATCHED = "x", "_"
"""No result in a table or left of `|`; no result right of it. They differ so that they never look like a match."""
SPAWN, JOIN, END, ANSWER, NONE, TRY, HIT = "spawn", "join", "end", "answer", "none", "try", "hit"
MODES = ("apr", "seq", "mv", "step")
MAX_JOINED = 3

Results = tuple[int | None, int | None, int | None, int | None]


def results(a: int, b: int) -> Results:
    """What + - * / make of two positive numbers, larger one first in - and /; None where pruned.

    Below `CAP` pruning loses only solutions that multiply by 0, such as 47 + 85 * (33 - 33): a / 1 equals a * 1.
    """
    a, b = max(a, b), min(a, b)
    return (
        a + b if a + b <= CAP else None,
        a - b or None,
        a * b if a * b <= CAP else None,
        a // b if b > 1 and a % b == 0 else None,
    )


def quad(a: int, b: int, missing: str = PRUNED) -> str:
    """`a b + s - d * m / q`: a pair and its four results."""
    cells = (f"{op} {missing if r is None else r}" for op, r in zip(OPS, results(a, b), strict=True))
    return f"{a} {b} {' '.join(cells)}"


def step(a: int, op: str, b: int, c: int) -> str:
    """One equation."""
    return f"{a} {op} {b} = {c}"


def prompt(nums: Iterable[int], target: int, mode: str) -> str:
    """The whole text of a thread at birth."""
    return f"{mode} {target} : {' '.join(map(str, sorted(nums, reverse=True)))} ;"


def pairs(nums: Sequence[int]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Every pair of the numbers, larger first, and the numbers left, in the order of the table's rows."""
    nums = sorted(nums, reverse=True)
    indices = range(len(nums))
    return [(nums[i], nums[j], tuple(nums[k] for k in indices if k not in (i, j))) for i, j in combinations(indices, 2)]


def join_text(solutions: Iterable[str]) -> str:
    """The join section: at most `MAX_JOINED` solutions."""
    lines = [f"{solution} ;" for solution in solutions][:MAX_JOINED]
    return " ".join((JOIN, *lines, END))


def number(word: str) -> int | None:
    """The number that a word spells, if it has a token."""
    return int(word) if word.isascii() and word.isdigit() and len(word) <= len(str(CAP)) else None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A thread's prompt, read back."""

    mode: str
    target: int
    nums: tuple[int, ...]
    length: int
    """Words it takes."""


def read_prompt(words: Sequence[str]) -> Prompt | None:
    """The prompt that the words begin with."""
    if len(words) < 5 or words[0] not in MODES or words[2] != ":" or ";" not in words:
        return None
    end = words.index(";")
    target, nums = number(words[1]), [number(word) for word in words[3:end]]
    if target is None or not nums or None in nums:
        return None
    return Prompt(words[0], target, tuple(n for n in nums if n is not None), end + 1)


Step = tuple[int, str, int, int]


def read_steps(text: str) -> list[Step] | None:
    """The equations of a solution; None unless all of the text is that."""
    steps: list[Step] = []
    for part in text.split(" , "):
        words = part.split()
        if len(words) != 5 or words[1] not in OPS or words[3] != "=":
            return None
        a, b, c = number(words[0]), number(words[2]), number(words[4])
        if a is None or b is None or c is None:
            return None
        steps.append((a, words[1], b, c))
    return steps


def replay(nums: Iterable[int], steps: Iterable[Step]) -> int | None:
    """What is left when the equations use up all numbers; None if one is wrong or uses a number that is not there."""
    left = list(nums)
    for a, op, b, c in steps:
        for used in (a, b):
            if used not in left:
                return None
            left.remove(used)
        right = c == a + b if op == "+" else c == a - b if op == "-" else c == a * b if op == "*" else c * b == a and b
        if not right:
            return None
        left.append(c)
    return left[0] if len(left) == 1 else None


class CompactDialect:
    """`Dialect` of the language above; threads nest until `LEAF` numbers are left."""

    name: ClassVar[str] = "compact"
    spawn_end: ClassVar[str] = SPAWN
    reserved: ClassVar[dict[str, str]] = {JOIN: SPAWN}

    def root_prompt(self, nums: Sequence[int], target: int, mode: str = "apr") -> str:
        """The text that starts a search; raises `InvalidInput` for numbers that have no token."""
        if mode not in MODES:
            raise InvalidInput(f"unknown mode {mode!r}; choose from {', '.join(MODES)}")
        if len(nums) < LEAF:
            raise InvalidInput(f"a problem needs at least {LEAF} numbers, got {len(nums)}")
        if not all(1 <= n <= CAP for n in (*nums, target)):
            raise InvalidInput(f"numbers and target must lie between 1 and {CAP}")
        return prompt(nums, target, mode)

    def spawn(self, context: str, level: int) -> Spawn | None:
        """One child per result in the table, whether or not the arithmetic is right."""
        text = context.rstrip()
        words = text.split()
        if not words or words[-1] != SPAWN:
            return None
        keep = len(text[: -len(SPAWN)].rstrip())
        start = read_prompt(words)
        if start is None or len(start.nums) <= LEAF or JOIN in words:
            return Spawn(keep=keep, children=())
        rows = _split(words[start.length : -1])
        return Spawn(keep=keep, children=tuple(child for row in rows for child in _children(row, start)))

    def join(self, joined: Sequence[Joined], level: int) -> str:
        """The solutions of the first children that found one, each with the parent's move in front."""
        return self._join(joined, MAX_JOINED)

    def join_short(self, joined: Sequence[Joined], level: int) -> str:
        """Only the first solution."""
        return self._join(joined, 1)

    def _join(self, joined: Sequence[Joined], most: int) -> str:
        # A result that is no solution would let a child write the runtime's words.
        solved = [j for j in joined if j.result is not None and read_steps(j.result)]
        # Equal numbers make equal rows; their solutions are told once.
        return " " + join_text(list(dict.fromkeys(f"{j.child.label} , {j.result}" for j in solved))[:most])

    def result(self, context: str) -> str | None:
        """The equations behind the last `answer`, if the text ends with them."""
        words = context.split()
        while words and words[-1].startswith("<"):  # EOS, if the caller shows it
            words.pop()
        if ANSWER not in words:
            return None
        text = " ".join(words[len(words) - words[::-1].index(ANSWER) :])
        return text if read_steps(text) else None

    def verify(self, child: Child, result: str) -> bool:
        """Do the equations make the child's target from its numbers?"""
        start = read_prompt((child.prompt or "").split())
        steps = read_steps(result)
        return start is not None and steps is not None and replay(start.nums, steps) == start.target


def _split(words: Iterable[str]) -> list[list[str]]:
    """The words between semicolons; nothing behind the last one is no row."""
    rows: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            rows.append([])
        else:
            rows[-1].append(word)
    return rows if rows[-1] else rows[:-1]


def _children(row: Sequence[str], parent: Prompt) -> list[Child]:
    """The children of one row `a b + s - d * m / q`."""
    broken = [Child(label=" ".join(row), prompt=None)]
    if len(row) != 10 or tuple(row[2::2]) != OPS:
        return broken
    a, b = number(row[0]), number(row[1])
    left = list(parent.nums)
    if a is None or b is None or a not in left:
        return broken
    left.remove(a)
    if b not in left:
        return broken
    left.remove(b)
    children = []
    for op, word in zip(OPS, row[3::2], strict=True):
        r = number(word)
        if r is not None:
            children.append(Child(label=step(a, op, b, r), prompt=prompt([r, *left], parent.target, "apr")))
        elif word != PRUNED:
            children.append(Child(label=f"{a} {op} {b} = {word}", prompt=None))
    return children
