"""The stream of training documents: which problems, and which kinds in which shares."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, fields
from functools import partial

from ...evals.benchmarks.countdown.problems import TARGETS, Key
from ...runtime.methods.apr import compact as lang
from . import traces
from .batch import MULTIVERSE, Batch, by_length, collate
from .draws import built, drill_row, is_allowed, numbers, random_steps, roots, target_for, uniform

_PATH_WORDS = 240
"""What the search of most paths has at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of the tokens, in any unit."""

    leaf: float = 12.0
    """Threads of three numbers."""
    drill: float = 4.0
    """Rows of unrelated numbers."""
    table4: float = 4.0
    """Threads of four numbers: table, spawn, join, answer."""
    table5: float = 3.0
    seq3: float = 1.0
    seq4: float = 24.0
    """Whole searches of four numbers in one context."""
    path4: float = 8.0
    """Single paths of Multiverse searches of four numbers."""
    mv4: float = 16.0
    """Whole Multiverse searches of four numbers."""
    end4: float = 16.0
    """Their conclusions behind the ends of the paths: in a whole search few words are of the hard kind."""
    step: float = 6.0
    """Samples of single operations, of three to five numbers."""


@dataclass(slots=True)
class Documents:
    """An endless, seeded supply of documents of every kind, none of them in `excluded` or in the validation split."""

    rng: random.Random
    excluded: Container[Key] = frozenset()

    def _problem(self, draw: Callable[[], tuple[list[int], int]]) -> tuple[list[int], int]:
        while True:
            nums, target = draw()
            if is_allowed(nums, target, self.excluded):
                return nums, target

    def _searched(self, hopeless: float) -> tuple[list[int], int]:
        """A problem of four numbers for a whole search, as the published ones are drawn; `hopeless`: share of the
        problems without a solution that are kept. (What a random combination makes can mostly be made from any first
        move, and searches would end early.)"""
        rng = self.rng
        while True:
            nums, target = self._problem(lambda: (roots(rng, 4), rng.randint(*TARGETS)))
            if traces.search(nums, target) or rng.random() < hopeless:
                return nums, target

    def _with_rivals(self) -> tuple[list[int], int]:
        """A problem whose conclusion is hard, most of the time: of which two or three paths have a solution."""
        while True:
            nums, target = self._searched(0.04)
            hits = sum(traces.path(nums, target, i)[2] is not None for i in range(1, len(lang.pairs(nums)) + 1))
            if self.rng.random() < (0.15, 0.35, 1.0, 1.0, 0.5)[min(hits, 4)]:
                return nums, target

    def make(self, kind: str) -> traces.Document:
        """One document of a kind that `Mix` names."""
        rng = self.rng
        if kind == "drill":
            return traces.drill([drill_row(rng) for _ in range(4)])
        if kind == "step":
            return self._stepwise()
        size = {"leaf": 3, "seq3": 3, "table5": 5}.get(kind, 4)
        if size == lang.LEAF:
            nums, target = self._problem(
                lambda: built(rng) if rng.random() < 0.25 else ((n := numbers(rng, 3)), target_for(n, rng, 0.5))
            )
        elif kind.startswith("table"):
            nums, target = self._problem(lambda: ((n := roots(rng, size)), target_for(n, rng, 0.7)))
        else:
            nums, target = self._with_rivals() if kind == "end4" else self._searched(0.12)
        if kind == "path4":
            return traces.one_path(nums, target, rng.randint(1, len(lang.pairs(nums))))
        if kind in MULTIVERSE:
            # Behind mere ends it is soon learnt what to copy; what else the paths say distracts.
            last = int(_PATH_WORDS * rng.random() ** 2) if kind == "end4" else None
            return traces.multiverse(nums, target, last=last, retold=True)
        return traces.sequential(nums, target) if kind.startswith("seq") else traces.parallel(nums, target)

    def _stepwise(self) -> traces.Document:
        """Half of the samples reach the target and half are aimless: sampling is to stay diverse."""
        rng = self.rng
        reaches = rng.random() < 0.5
        while True:
            nums = uniform(rng, rng.choices((3, 4, 5), (1, 6, 3))[0])
            steps = random_steps(nums, rng)
            if steps is None:
                continue
            target = steps[-1][-1] if reaches else rng.randint(*TARGETS)
            if TARGETS[0] <= target <= TARGETS[1] and is_allowed(nums, target, self.excluded):
                return traces.stepwise(nums, target, steps)


def batches(documents: Documents, mix: Mix, tokens: int) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens; kinds in the mix's shares, documents of like length together."""
    rng = documents.rng
    kinds = [f.name for f in fields(Mix)]
    shares = [getattr(mix, kind) for kind in kinds]
    groups = {kind: by_length(partial(documents.make, kind), tokens, rng) for kind in kinds}
    while True:
        kind = rng.choices(kinds, shares)[0]
        yield collate(next(groups[kind]), kind)
