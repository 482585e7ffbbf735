"""Countdown problems: the published distribution (arXiv 2504.15466, section 4), seeded, with disjoint splits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ....runtime.errors import InvalidInput
from ...records import Record, read_rows
from .solver import is_solvable

SMALLEST, LARGEST = 1, 99
TARGETS = (10, 100)
_VALIDATION_SHARE = 64
_PATIENCE = 1000
"""Draws in a row that give nothing new: hardly anything new is left."""

Key = tuple[tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Problem:
    """Make `target` from all of `nums` by + - * / without fractions."""

    nums: tuple[int, ...]
    target: int

    @property
    def key(self) -> Key:
        """Equal for equal problems, whatever the order of the numbers."""
        return tuple(sorted(self.nums)), self.target


class Row(Record):
    """A line of a file of problems."""

    nums: list[int]
    target: int

    @property
    def problem(self) -> Problem:
        return Problem(tuple(self.nums), self.target)


def is_validation(nums: Iterable[int], target: int) -> bool:
    """Does the problem belong to the validation split? Decided by its key alone: the splits cannot overlap."""
    text = f"{','.join(map(str, sorted(nums)))}={target}"
    digest = hashlib.blake2s(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _VALIDATION_SHARE == 0


def draw(rng: random.Random, size: int, accept: Callable[[Problem], bool] = lambda problem: True) -> Problem:
    """A solvable problem: numbers and target uniform, again until solvable. `accept` is asked first: it is cheaper."""
    while True:
        nums = tuple(rng.randint(SMALLEST, LARGEST) for _ in range(size))
        problem = Problem(nums, rng.randint(*TARGETS))
        if accept(problem) and is_solvable(problem.nums, problem.target):
            return problem


def validation(size: int, count: int = 1000, seed: int = 0) -> list[Problem]:
    """Different problems of the validation split. Raises `InvalidInput` where there are too few."""
    rng = random.Random(f"countdown validation {size} {seed}")
    return _different(rng, size, count, lambda p: is_validation(p.nums, p.target))


def training(size: int, count: int, seed: int = 0) -> list[Problem]:
    """Different problems, none of the validation split. Raises `InvalidInput` where there are too few."""
    rng = random.Random(f"countdown training {size} {seed}")
    return _different(rng, size, count, lambda p: not is_validation(p.nums, p.target))


def _different(rng: random.Random, size: int, count: int, accept: Callable[[Problem], bool]) -> list[Problem]:
    found: dict[Key, Problem] = {}
    repeats = 0
    while len(found) < count:
        problem = draw(rng, size, accept)
        repeats = repeats + 1 if problem.key in found else 0
        if repeats == _PATIENCE:
            raise InvalidInput(f"{count:,} problems of {size} numbers: hardly more than {len(found):,} are different")
        found.setdefault(problem.key, problem)
    return list(found.values())


def load(path: Path) -> list[Problem]:
    """Problems of a JSON Lines file with the fields `nums` and `target`. Raises `InvalidInput`."""
    return [row.problem for row in read_rows(path, Row)]
