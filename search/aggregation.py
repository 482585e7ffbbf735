"""From finished trajectories to one answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..runtime.equality.registry import Equality, text
from .rewards.base import LARGEST

Vote = Literal["weighted", "best", "majority"]
Aggregate = Literal["last", "min", "mean", "product"]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A finished line of reasoning."""

    text: str
    answer: str | None
    scores: tuple[float, ...]
    """Of its steps. Where one is not finite the trajectory has no vote."""
    copies: int = 1

    def value(self, aggregate: Aggregate) -> float:
        """One number from the scores of the steps; 0 without any. A product stays within the largest score."""
        if not self.scores:
            return 0.0
        if aggregate == "last":
            return self.scores[-1]
        if aggregate == "min":
            return min(self.scores)
        if aggregate == "mean":
            return math.fsum(self.scores) / len(self.scores)
        product = 1.0
        for score in self.scores:
            product = max(-LARGEST, min(LARGEST, product * score))
        return product


def choose(
    trajectories: Sequence[Trajectory], vote: Vote, aggregate: Aggregate, equal: Equality = text
) -> tuple[Trajectory | None, dict[str, float]]:
    """The winner, and the weight of every answer.

    Trajectories whose answers `equal` says are equal vote together. `weighted`: an answer weighs the sum of its
    trajectories' values; `majority`: their number; `best`: the largest of them. Ties go to the answer of more
    trajectories, then of the higher best value, then to the first. An answer stands in the spelling most often
    given (ties: the first); what wins is the best trajectory that gives it. Without an answer there is no vote.
    """
    voters = [(t, t.answer) for t in trajectories if t.answer is not None and all(map(math.isfinite, t.scores))]
    groups: dict[Hashable, list[tuple[Trajectory, str]]] = {}
    for voter, label in zip(voters, equal([answer for _, answer in voters]), strict=True):
        groups.setdefault(label, []).append(voter)
    weights: dict[str, float] = {}
    winner, highest = None, (-math.inf, 0, -math.inf)
    for group in groups.values():
        spellings: Counter[str] = Counter()
        for t, answer in group:
            spellings[answer] += t.copies
        spelling = max(spellings, key=lambda answer: spellings[answer])
        best = max(t.value(aggregate) for t, _ in group)
        total = math.fsum(t.value(aggregate) * t.copies for t, _ in group)
        weights[spelling] = {"weighted": total, "majority": float(spellings.total()), "best": best}[vote]
        rank = weights[spelling], spellings.total(), best
        if winner is None or rank > highest:
            highest = rank
            winner = max((t for t, answer in group if answer == spelling), key=lambda t: t.value(aggregate))
    return winner, weights
