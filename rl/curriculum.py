"""In which order samples are shown, and in which form."""

from __future__ import annotations

import random
from collections.abc import Sequence

MULTIVERSE = (0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0)
"""Shares of parallel texts, pass by pass, of the released training (arXiv 2506.09991, section 5.3 and its data)."""


def shuffled(count: int, epochs: int, seed: int) -> list[int]:
    """Numbers of samples, for several passes, each in an order of its own."""
    order: list[int] = []
    for epoch in range(epochs):
        order += random.Random(f"epoch {epoch} {seed}").sample(range(count), count)
    return order


def mixed(count: int, shares: Sequence[float], seed: int) -> list[tuple[int, bool]]:
    """(number of a sample, is it shown with its blocks) for one pass per share.

    Every pass shows every sample. Which ones have blocks goes round: two passes of a half each show all of them so.
    """
    rounds = random.Random(f"curriculum {seed}").sample(range(count), count)
    order: list[tuple[int, bool]] = []
    begin = 0
    for number, share in enumerate(shares):
        parallel = round(share * count)
        chosen = {rounds[(begin + i) % count] for i in range(parallel)}
        begin += parallel
        own = random.Random(f"pass {number} {seed}").sample(range(count), count)
        order += [(sample, sample in chosen) for sample in own]
    return order
