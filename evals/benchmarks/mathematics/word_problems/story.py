"""`Story`: what a template tells: it draws names and numbers, and keeps every step of the solution."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 100_000
"""No quantity of a story is larger."""


class Unfit(Exception):
    """These numbers make no sensible story."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    he: str
    his: str

    def __str__(self) -> str:
        return self.name


_WOMEN = "Ada Beth Clara Dina Elena Farah Grace Hana Ines Julia Kavya Leila Maya Nora Olga Priya Rosa Sofia Tara Yuki"
_MEN = "Adam Ben Carlos David Emil Felix Goran Hugo Ivan Jonas Karim Leo Marco Nils Omar Pablo Ravi Samir Tom Viktor"
PEOPLE = (
    *(Person(name, "she", "her") for name in _WOMEN.split()),
    *(Person(name, "he", "his") for name in _MEN.split()),
)


class Story:
    """Draws one story. All arithmetic raises `Unfit` where the result is no whole number from 1 to `LARGEST`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.numbers: list[int] = []
        """All that matter, in the order in which they were drawn; with the template's name they are the problem."""
        self.steps: list[str] = []
        """The solution, such as `6*12=72`: sums and products of whole numbers, from left to right; the last result is
        the answer."""
        self.spare: list[int] = []
        """Numbers in the text that the solution does not need."""

    def number(self, low: int, high: int, step: int = 1) -> int:
        """One of low, low + step, ..., high."""
        return self.choice(*range(low, high + 1, step))

    def choice(self, *values: int) -> int:
        self.numbers.append(self._rng.choice(values))
        return self.numbers[-1]

    def needless(self, low: int, high: int) -> int:
        """A number that stands in the text and does not matter."""
        self.spare.append(self._rng.randint(low, high))
        return self.spare[-1]

    def word(self, *words: str) -> str:
        return self._rng.choice(words)

    def person(self) -> Person:
        return self.people(1)[0]

    def people(self, count: int) -> list[Person]:
        """Different ones."""
        return self._rng.sample(PEOPLE, count)

    def add(self, *values: int) -> int:
        return self._step(sum(values), "+".join(map(str, values)))

    def subtract(self, value: int, *values: int) -> int:
        return self._step(value - sum(values), "-".join(map(str, (value, *values))))

    def multiply(self, a: int, b: int) -> int:
        return self._step(a * b, f"{a}*{b}")

    def divide(self, value: int, by: int) -> int:
        return self.share(value, 1, by)

    def share(self, value: int, numerator: int, denominator: int) -> int:
        """numerator/denominator of a value."""
        result, rest = divmod(value * numerator, denominator)
        if rest:
            raise Unfit
        times = f"*{numerator}" if numerator != 1 else ""
        return self._step(result, f"{value}{times}/{denominator}")

    def percent(self, value: int, percent: int) -> int:
        return self.share(value, percent, 100)

    def _step(self, result: int, expression: str) -> int:
        self.steps.append(f"{expression}={result}")
        return fit(result)


def fit(value: int) -> int:
    """The value itself; raises `Unfit` if no story has such a quantity."""
    if not 1 <= value <= LARGEST:
        raise Unfit
    return value


Template = Callable[[Story], str]
"""Tells a story: draws its numbers, takes the steps that solve it, and returns the question."""


_IRREGULAR = {"loaf": "loaves", "shelf": "shelves", "person": "people", "child": "children"}


def plural(noun: str) -> str:
    """Of the last word."""
    for one, many in _IRREGULAR.items():
        if noun.endswith(one):
            return noun.removesuffix(one) + many
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def some(count: int, noun: str) -> str:
    """`1 box`, `3 boxes`."""
    return f"{count} {noun if count == 1 else plural(noun)}"


def an(noun: str) -> str:
    """`a box`, `an apple`; by the letter, so no `hour` and no `unicycle`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
