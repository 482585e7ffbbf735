"""REBASE's allocation: a budget of samples, shared out by the softmax of the scores (arXiv 2408.00724, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

_ROUNDING = 1e-9


def balance(scores: Sequence[float], budget: int, temperature: float, copies: Sequence[int] | None = None) -> list[int]:
    """Samples per candidate, `budget` in all.

    From the best score down, ties by place, each candidate gets its share of what is left, rounded up: the form of the
    authors' code, which spends the budget exactly where the paper's rounding may miss it. `copies`: weights, as if a
    candidate stood there so many times. Scores that are not finite get nothing; all zero if no score is.
    """
    finite = [score if math.isfinite(score) else -math.inf for score in scores]
    best = max(finite, default=-math.inf)
    if best == -math.inf:
        return [0] * len(finite)
    weights = [
        n * math.exp((score - best) / temperature) for score, n in zip(finite, copies or [1] * len(finite), strict=True)
    ]
    order = sorted(range(len(finite)), key=lambda i: (-finite[i], i))
    # Sums from the tail up: subtracting from the whole would leave rounding errors where a small weight should be.
    left = [0.0] * (len(order) + 1)
    for place in range(len(order) - 1, -1, -1):
        left[place] = left[place + 1] + weights[order[place]]
    counts = [0] * len(finite)
    for place, i in enumerate(order):
        if budget <= 0 or weights[i] <= 0:
            break
        counts[i] = min(budget, math.ceil(budget * weights[i] / left[place] - _ROUNDING))
        budget -= counts[i]
    return counts


def spread(budget: int, parts: int) -> list[int]:
    """The budget in equal parts, the first ones one larger where it does not divide."""
    return [budget // parts + (i < budget % parts) for i in range(parts)]
