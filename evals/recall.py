"""Associative recall over many contexts: a synthetic task on which a small model can really be scored.

A context lists keys with their values (`: k17 v3 k200 v9`), a question asks for the value of one key (`? k200`), and no
key occurs twice. The one supporting context has to be found among all the others, which is what APE's evaluation on
retrieved documents asks for too (arXiv 2502.05431, section 5).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NUM_KEYS, NUM_VALUES = 256, 32
MOST_CONTEXTS, MOST_PAIRS = 64, 3
INSTRUCTION, CONTEXT, QUESTION = "recall", ":", "?"


@dataclass(frozen=True, slots=True)
class Recall:
    """One problem. `pairs[i]` are the (key, value) numbers of the i-th context."""

    pairs: tuple[tuple[tuple[int, int], ...], ...]
    asked: int
    """The key asked for."""

    @property
    def contexts(self) -> list[str]:
        return [" ".join([CONTEXT, *(f"k{key} v{value}" for key, value in context)]) for context in self.pairs]

    @property
    def question(self) -> str:
        return f"{QUESTION} k{self.asked}"

    @property
    def answer(self) -> str:
        return f"v{dict(pair for context in self.pairs for pair in context)[self.asked]}"


def make(rng: random.Random, contexts: int) -> Recall:
    """A problem of so many contexts (64 at most) of one to three pairs each."""
    sizes = [rng.randint(1, MOST_PAIRS) for _ in range(contexts)]
    keys = rng.sample(range(NUM_KEYS), sum(sizes))
    left = iter(keys)
    pairs = tuple(tuple((next(left), rng.randrange(NUM_VALUES)) for _ in range(size)) for size in sizes)
    return Recall(pairs, rng.choice(keys))
