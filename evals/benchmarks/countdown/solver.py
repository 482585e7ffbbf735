"""Brute-force Countdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations


def combinations_of(a: int, b: int, cap: int | None = None) -> Iterator[tuple[str, int]]:
    """Equations of two numbers and their results: exact, not negative, not above `cap`."""
    a, b = max(a, b), min(a, b)
    if cap is None or a + b <= cap:
        yield f"{a}+{b}={a + b}", a + b
    yield f"{a}-{b}={a - b}", a - b
    if cap is None or a * b <= cap:
        yield f"{a}*{b}={a * b}", a * b
    if b and a % b == 0:
        yield f"{a}/{b}={a // b}", a // b


def solutions(nums: Sequence[int], target: int, cap: int | None = None) -> Iterator[tuple[str, ...]]:
    """Every order of equations that makes the target from all numbers; equal ones may repeat."""
    if len(nums) == 1:
        if nums[0] == target:
            yield ()
        return
    for i, j in combinations(range(len(nums)), 2):
        rest = [n for k, n in enumerate(nums) if k not in (i, j)]
        for equation, value in combinations_of(nums[i], nums[j], cap):
            for tail in solutions([value, *rest], target, cap):
                yield equation, *tail


def solve(nums: Sequence[int], target: int, cap: int | None = None) -> tuple[str, ...] | None:
    """One solution, or None if there is none whose intermediate results stay at or below `cap`."""
    return next(solutions(nums, target, cap), None)


def is_solvable(nums: Sequence[int], target: int) -> bool:
    """Whether `solve` would find something, in milliseconds for five numbers and less."""
    if len(nums) == 2:
        a, b = max(nums), min(nums)
        return target in (a + b, a - b, a * b) or (b != 0 and a % b == 0 and a // b == target)
    if len(nums) < 2:
        return list(nums) == [target]
    tried: set[tuple[int, ...]] = set()
    for i, j in combinations(range(len(nums)), 2):
        a, b = max(nums[i], nums[j]), min(nums[i], nums[j])
        rest = [n for k, n in enumerate(nums) if k not in (i, j)]
        for value in (a + b, a - b, a * b, a // b if b and a % b == 0 else a + b):
            left = (value, *rest)
            if left not in tried:
                tried.add(left)
                if is_solvable(left, target):
                    return True
    return False


def reachable(nums: Sequence[int], cap: int | None = None) -> set[int]:
    """Every number that can be made from all numbers."""
    known: dict[tuple[int, ...], set[int]] = {}

    def made(left: tuple[int, ...]) -> set[int]:
        if len(left) == 1:
            return set(left)
        if left not in known:
            known[left] = set()
            for i, j in combinations(range(len(left)), 2):
                rest = [n for k, n in enumerate(left) if k not in (i, j)]
                for _, value in combinations_of(left[i], left[j], cap):
                    known[left] |= made(tuple(sorted((value, *rest))))
        return known[left]

    return made(tuple(sorted(nums)))
