"""Training documents of the Countdown process reward model: samples of mode `step`, every step with its verdict.

After a step that the target can still be reached from (by the moves and the caps of the dialect) the label is `+`, else
`-`; after the last step, which leaves one number, the two say whether the sample is right. A step that is not a legal
move of the numbers in front of it spoils the sample: `-` from there on. The verdict is read at the step's last token,
`;` or EOS, from the logits of the two words (the convention of Math-Shepherd, arXiv 2312.08935).
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...evals.benchmarks.countdown.problems import LARGEST, SMALLEST, TARGETS, Key
from ...runtime.methods.apr import compact as lang
from .draws import is_allowed, numbers
from .tokenizer import PAD
from .traces import EOS, Document, after, stepwise

GOOD, BAD = "+", "-"
LIVING = 0.8
"""Share of the steps that keep the target in reach, among those that could: then about half of all labels are good."""
SPOILT = 0.15
"""Share of the samples with steps in which one word is wrong."""
SHORT = 0.4
"""Share of those that end after their first step, whose verdict is by far the hardest."""
BARE = 0.4
"""Share of the samples that are just three numbers, judged as they stand: the same question in few tokens."""
SIZES = {3: 1, 4: 7, 5: 1}
"""Numbers of a problem, and how often."""


@lru_cache(maxsize=1 << 17)
def _partners(x: int, target: int) -> frozenset[int]:
    """The numbers that make the target together with `x`."""
    near = {target - x, target + x, x - target, target * x}
    near |= {target // x} if target % x == 0 else set()
    near |= {x // target} if x % target == 0 else set()
    return frozenset(n for n in near if 1 <= n <= lang.CAP and target in lang.results(n, x))


_results = lru_cache(maxsize=1 << 18)(lang.results)


def can_reach(nums: Sequence[int], target: int) -> bool:
    """Can the target be made from all the numbers by moves of the dialect?"""
    if len(nums) == 1:
        return nums[0] == target
    if len(nums) == 2:
        return nums[0] in _partners(nums[1], target)
    if len(nums) == 3:
        a, b, c = nums
        return not (
            _partners(a, target).isdisjoint(_results(b, c))
            and _partners(b, target).isdisjoint(_results(a, c))
            and _partners(c, target).isdisjoint(_results(a, b))
        )
    return any(can_reach(left, target) for _, left in moves(nums))


def moves(nums: Sequence[int]) -> Iterator[tuple[lang.Step, tuple[int, ...]]]:
    """Every legal operation and the numbers it leaves."""
    for a, b, rest in lang.pairs(nums):
        for op, r in zip(lang.OPS, _results(a, b), strict=True):
            if r is not None:
                yield (a, op, b, r), (r, *rest)


def draw_steps(
    nums: Sequence[int], target: int, rng: random.Random, living: float = LIVING
) -> list[tuple[lang.Step, bool]]:
    """Operations down to one number, each with whether the target is in reach after it; fewer if they get stuck.

    `living`: share of the steps that keep it in reach, among those that could.
    """
    left = tuple(nums)
    steps: list[tuple[lang.Step, bool]] = []
    alive = can_reach(left, target)
    while len(left) > 1:
        options = list(moves(left))
        if not options:
            break
        rng.shuffle(options)
        # The first of the wanted kind: a uniform draw among those.
        wanted = alive and rng.random() < living
        step, left = next((o for o in options if alive and can_reach(o[1], target) == wanted), options[0])
        alive = alive and can_reach(left, target)
        steps.append((step, alive))
    return steps


def spoil(words: Sequence[str], rng: random.Random) -> list[str]:
    """A step with one word changed: mostly a number, by a little, as a model would."""
    changed = list(words)
    numbers = [i for i, word in enumerate(words) if word.isdigit()]
    while changed == list(words):
        i, kind = rng.choice(numbers), rng.random()
        n = int(words[i])
        if kind < 0.5:
            near = n + rng.choice((-1, 1)) * rng.choice((1, 2, 3, 5, 10, 20, 100))
            changed[i] = str(min(max(1, near), lang.CAP))
        elif kind < 0.75:
            changed[i] = words[rng.choice(numbers)]
        elif kind < 0.9:
            changed[i] = str(rng.randint(SMALLEST, LARGEST))
        else:
            changed[1] = rng.choice(lang.OPS)
    return changed


def foreign(
    nums: Sequence[int], target: int, steps: Sequence[tuple[lang.Step, bool]], first: int, rng: random.Random
) -> Document:
    """The first of the steps, then a search of its own with one number taken for another: `-` from there on. For
    judging: policies do that more than anything else that is illegal."""
    left = list(nums)
    for step, _ in steps[:first]:
        left = after(left, step)
    place = rng.randrange(len(left))
    # About half of them hit the target: else their ends would be bad for that reason alone.
    for _ in range(20):
        wrong = sorted([*left[:place], _another(left[place], rng), *left[place + 1 :]], reverse=True)
        if can_reach(wrong, target):
            break
    tail = stepwise(wrong, target, [step for step, _ in draw_steps(wrong, target, rng, 0.95)]).words
    words = stepwise(nums, target, [step for step, _ in steps[:first]]).words
    return _judged([*words, *tail[tail.index(";") + 1 :]], [alive for _, alive in steps[:first]])


def _another(number: int, rng: random.Random) -> int:
    """What it may be taken for: half of the time something near."""
    while True:
        other = number + rng.choice((-1, 1)) * rng.choice((1, 2, 3, 5, 10, 20))
        if other < 1 or other > lang.CAP or rng.random() < 0.5:
            other = rng.randint(SMALLEST, LARGEST)
        if other != number:
            return other


@dataclass(slots=True)
class Samples:
    """An endless, seeded supply of labelled samples; roots as in `mix.Documents`."""

    rng: random.Random
    excluded: Container[Key] = frozenset()

    def draw(self, size: int) -> tuple[list[int], int]:
        """A problem, uniform; nine of ten with a solution."""
        rng = self.rng
        while True:
            nums = [rng.randint(SMALLEST, LARGEST) for _ in range(size)]
            target = rng.randint(*TARGETS)
            if is_allowed(nums, target, self.excluded) and (rng.random() < 0.1 or can_reach(nums, target)):
                return nums, target

    def _bare(self) -> Document:
        """Three numbers as a first step leaves them; the target is in reach in half of the samples."""
        rng, wanted = self.rng, self.rng.random() < 0.5
        while True:
            nums, target = numbers(rng, lang.LEAF), rng.randint(*TARGETS)
            if can_reach(nums, target) == wanted and is_allowed(nums, target, self.excluded):
                words = stepwise(nums, target, ()).words
                return Document([*words, PAD], [*[None] * len(words), GOOD if wanted else BAD])

    def make(self) -> Document:
        """One labelled sample."""
        rng = self.rng
        if rng.random() < BARE:
            return self._bare()
        size = rng.choices(list(SIZES), list(SIZES.values()))[0]
        nums, target = self.draw(size)
        steps = draw_steps(nums, target, rng)
        if size > lang.LEAF and rng.random() < SHORT:
            del steps[size - lang.LEAF :]
        spoilt = rng.randrange(len(steps)) if rng.random() < SPOILT else None
        return labelled(nums, target, steps, spoilt, rng)


def labelled(
    nums: Sequence[int], target: int, steps: Sequence[tuple[lang.Step, bool]], spoilt: int | None, rng: random.Random
) -> Document:
    """The sample as a document whose labels are the verdicts; the step `spoilt` is changed to something illegal."""
    words = stepwise(nums, target, [step for step, _ in steps]).words
    if spoilt is not None:
        ends = _ends(words)
        first = words.index(";") + 1 if spoilt == 0 else ends[spoilt - 1] + 1
        words[first : ends[spoilt]] = spoil(words[first : ends[spoilt]], rng)
    return _judged(words, [alive for _, alive in steps[:spoilt]])


def _ends(words: Sequence[str]) -> list[int]:
    """Where the steps end."""
    return [i for i in range(words.index(";") + 1, len(words)) if words[i] in (";", EOS)]


def _judged(words: Sequence[str], alive: Sequence[bool]) -> Document:
    """The sample with a verdict behind every step; those that `alive` does not reach are bad."""
    # A label stands where the word behind the step would: the last one needs a place of its own.
    document = Document([*words, PAD], [None] * (len(words) + 1))
    for k, end in enumerate(_ends(words)):
        document.labels[end + 1] = GOOD if k < len(alive) and alive[k] else BAD
    return document
