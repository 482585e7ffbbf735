"""Random numbers, targets and operations of training documents, as the threads of a search meet them."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence

from ...evals.benchmarks.countdown.problems import LARGEST, SMALLEST, TARGETS, Key, is_validation
from ...runtime.methods.apr import compact as lang


def is_allowed(nums: Sequence[int], target: int, excluded: Container[Key]) -> bool:
    """May the problem be trained on?"""
    return not is_validation(nums, target) and (tuple(sorted(nums)), target) not in excluded


def uniform(rng: random.Random, size: int) -> list[int]:
    return [rng.randint(SMALLEST, LARGEST) for _ in range(size)]


def _loguniform(rng: random.Random) -> int:
    return min(lang.CAP, int((lang.CAP + 1) ** rng.random()))


def _move(nums: Sequence[int], rng: random.Random) -> list[int]:
    """The numbers after a random first move."""
    return _random_step(nums, rng)[1]


def _random_step(nums: Sequence[int], rng: random.Random) -> tuple[lang.Step, list[int]]:
    """A random operation and the numbers after it: any pair, any of its results."""
    while True:
        a, b, rest = rng.choice(lang.pairs(nums))
        options = [(op, r) for op, r in zip(lang.OPS, lang.results(a, b), strict=True) if r is not None]
        if options:
            op, r = rng.choice(options)
            return (a, op, b, r), [r, *rest]


def numbers(rng: random.Random, size: int) -> list[int]:
    """Numbers that a thread of this size meets: the root's, its children's, their children's, and some of any size."""
    kind = rng.random()
    if kind < 0.12:
        return uniform(rng, size)
    if kind < 0.24:
        return [_loguniform(rng) for _ in range(size)]
    depth = 1 if kind < 0.75 or size > lang.LEAF else 2
    nums = uniform(rng, size + depth)
    for _ in range(depth):
        nums = _move(nums, rng)
    return nums


def roots(rng: random.Random, size: int) -> list[int]:
    """Mostly numbers of a published problem."""
    return uniform(rng, size) if rng.random() < 0.7 else numbers(rng, size)


def reachable(nums: Sequence[int], rng: random.Random) -> int | None:
    """A possible target that a random combination of the numbers makes; None when this one missed."""
    left = list(nums)
    while len(left) > 1:
        left = _move(left, rng)
    return left[0] if TARGETS[0] <= left[0] <= TARGETS[1] else None


def _undo(value: int, rng: random.Random) -> tuple[int, int] | None:
    """Two numbers that a random operation makes the value of, every operation equally likely."""
    op = rng.choice(lang.OPS)
    b = rng.randint(1, 2 * LARGEST) if rng.random() < 0.5 else rng.randint(1, 20)
    if op == "*":
        b = rng.choice([d for d in range(1, value + 1) if value % d == 0])
    a = {"+": value - b, "-": value + b, "*": value // b, "/": value * b}[op]
    return (a, b) if 1 <= a <= lang.CAP and value in lang.results(a, b) else None


def built(rng: random.Random) -> tuple[list[int], int]:
    """Three numbers that make a target, built from the target: else solutions by division are too rare to learn."""
    while True:
        target = rng.randint(*TARGETS)
        if (last := _undo(target, rng)) and (first := _undo(max(last), rng)):
            return [*first, min(last)], target


def random_steps(nums: Sequence[int], rng: random.Random) -> list[lang.Step] | None:
    """Random operations down to one number; None where they got stuck."""
    steps = []
    left = list(nums)
    while len(left) > 1:
        if not any(r is not None for a, b, _ in lang.pairs(left) for r in lang.results(a, b)):
            return None
        step, left = _random_step(left, rng)
        steps.append(step)
    return steps


def target_for(nums: Sequence[int], rng: random.Random, solvable: float) -> int:
    """A target that is made from the numbers with (about) the given probability, else any."""
    if rng.random() < solvable:
        for _ in range(20):
            if (target := reachable(nums, rng)) is not None:
                return target
    return rng.randint(*TARGETS)


def _drill_pair(rng: random.Random) -> tuple[int, int]:
    kind = rng.random()
    if kind < 0.35:
        return rng.randint(1, lang.CAP), rng.randint(1, lang.CAP)
    if kind < 0.55:
        b = _loguniform(rng)
        return rng.randint(1, lang.CAP // b), b  # a legal product
    if kind < 0.75:
        b = rng.randint(2, LARGEST)
        return b * rng.randint(1, lang.CAP // b), b  # a legal quotient
    return rng.randint(1, 2 * LARGEST), rng.randint(1, LARGEST)


def drill_row(rng: random.Random) -> tuple[int, int, int, int]:
    """Half of the rows are hits, most others miss narrowly: telling equal from nearly equal is learnt last."""
    kind = rng.random()
    while True:
        p, q = _drill_pair(rng)
        x = rng.choice((_loguniform(rng), rng.randint(1, LARGEST)))
        if kind > 0.85:
            return p, q, x, rng.randint(*TARGETS)
        made = rng.choice([r for r in lang.results(p, q) if r is not None])
        if kind > 0.5:
            made = max(1, made + rng.choice((-1, 1)) * rng.choice((1, 2, 3, 4, 6, 10, 20, 100, rng.randint(1, 30))))
        if options := [r for r in lang.results(made, x) if r is not None]:
            target = rng.choice(options)
            if TARGETS[0] <= target <= TARGETS[1]:
                return p, q, x, target
