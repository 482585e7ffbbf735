"""Word problems by seed, with disjoint splits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from . import groups, making, money, motion
from .story import Story, Template, Unfit

Split = Literal["validation", "train"]
TEMPLATES: dict[str, Template] = {
    template.__name__: template for room in (groups, making, money, motion) for template in room.TEMPLATES
}
MOST = 2000
"""Problems that one seed gives at most: those of the validation split do not go on for ever."""
_VALIDATION_SHARE = 8

Key = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Problem:
    template: str
    numbers: tuple[int, ...]
    """All that matter."""
    question: str
    steps: tuple[str, ...]
    """The solution; see `Story.steps`."""
    spare: tuple[int, ...]
    """Numbers of the question that the solution does not need."""

    @property
    def key(self) -> Key:
        """Equal for problems that differ in names, things and needless numbers at most."""
        return self.template, self.numbers

    @property
    def answer(self) -> int:
        return int(self.steps[-1].rpartition("=")[2])


def split_of(key: Key) -> Split:
    """Decided by the template and its numbers alone: the splits cannot overlap, whatever the names are."""
    name, numbers = key
    digest = hashlib.blake2s(f"{name} {','.join(map(str, numbers))}".encode(), digest_size=4).digest()
    return "train" if int.from_bytes(digest, "big") % _VALIDATION_SHARE else "validation"


def draw(rng: random.Random, split: Split) -> Problem:
    """A problem of the split: templates uniform, their numbers drawn again until they make sense."""
    name, template = rng.choice(list(TEMPLATES.items()))
    while True:
        story = Story(rng)
        try:
            question = template(story)
        except Unfit:
            continue
        problem = Problem(name, tuple(story.numbers), question, tuple(story.steps), tuple(story.spare))
        if split_of(problem.key) == split:
            return problem


def problems(split: Split, seed: int) -> Iterator[Problem]:
    """Different problems of a split, `MOST` of them; the same ones for the same seed. Raises `ValueError` for a split
    that does not exist."""
    if split not in get_args(Split):
        raise ValueError(f"there is no split {split!r}")
    rng = random.Random(f"word problems {split} {seed}")
    seen: set[Key] = set()
    while len(seen) < MOST:
        problem = draw(rng, split)
        if problem.key not in seen:
            seen.add(problem.key)
            yield problem
