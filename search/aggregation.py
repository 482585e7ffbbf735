"""From finished trajectories to one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Vote = Literal["weighted", "best", "majority"]
Aggregate = Literal["last", "min", "mean", "product"]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A finished line of reasoning."""

    text: str
    answer: str | None
    scores: tuple[float, ...]
    """Of its steps."""
    copies: int = 1

    def value(self, aggregate: Aggregate) -> float:
        """One number from the scores of the steps; 0 without any."""
        if not self.scores:
            return 0.0
        if aggregate == "last":
            return self.scores[-1]
        if aggregate == "min":
            return min(self.scores)
        return math.prod(self.scores) if aggregate == "product" else math.fsum(self.scores) / len(self.scores)


def choose(
    trajectories: Sequence[Trajectory], vote: Vote, aggregate: Aggregate
) -> tuple[Trajectory | None, dict[str, float]]:
    """The winner, and the weight of every answer.

    `weighted`: an answer weighs the sum of its trajectories' values; `majority`: their number; `best`: the largest of
    them. Ties go to the answer of more trajectories, then of the higher best value, then to the first. What wins is the
    best trajectory of that answer; trajectories without an answer have no vote.
    """
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if trajectory.answer is not None:
            groups.setdefault(trajectory.answer, []).append(trajectory)
    weights: dict[str, float] = {}
    ranks: dict[str, tuple[float, int, float]] = {}
    for answer, group in groups.items():
        count = sum(t.copies for t in group)
        best = max(t.value(aggregate) for t in group)
        total = math.fsum(t.value(aggregate) * t.copies for t in group)
        weights[answer] = {"weighted": total, "majority": float(count), "best": best}[vote]
        ranks[answer] = weights[answer], count, best
    if not groups:
        return None, {}
    winner = max(groups, key=lambda answer: ranks[answer])
    return max(groups[winner], key=lambda t: t.value(aggregate)), weights
