"""The stream of training documents: which problems, which kinds in which shares, batches of like length."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...evals.countdown.problems import LARGEST, SMALLEST, TARGETS, Key, is_validation
from ...runtime.methods import dialect_compact as lang
from . import traces
from .tokenizer import BOS, IDS, PAD

IGNORED = -100
_MULTIVERSE = ("mv4", "end4")


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
    """Their conclusions behind the mere ends of the paths: in a whole search few words are of the hard kind."""
    step: float = 6.0
    """Samples of single operations, of three to five numbers."""


def _uniform(rng: random.Random, size: int) -> list[int]:
    return [rng.randint(SMALLEST, LARGEST) for _ in range(size)]


def _log_uniform(rng: random.Random) -> int:
    return min(lang.CAP, int((lang.CAP + 1) ** rng.random()))


def _move(nums: Sequence[int], rng: random.Random) -> list[int]:
    """The numbers after a random first move."""
    return _random_step(nums, rng)[1]


def _random_step(nums: Sequence[int], rng: random.Random) -> tuple[lang.Step, list[int]]:
    """A random operation and the numbers after it: any pair, any of its results."""
    while True:
        a, b, rest = rng.choice(lang.pairs(nums))
        options = [(op, r) for op, r in zip(lang.OPS, lang.results(a, b), strict=True) if r is not None]
        if options:
            op, r = rng.choice(options)
            return (a, op, b, r), [r, *rest]


def numbers(rng: random.Random, size: int) -> list[int]:
    """Numbers that a thread of this size meets: the root's, its children's, their children's, and some of any size."""
    kind = rng.random()
    if kind < 0.12:
        return _uniform(rng, size)
    if kind < 0.24:
        return [_log_uniform(rng) for _ in range(size)]
    depth = 1 if kind < 0.75 or size > lang.LEAF else 2
    nums = _uniform(rng, size + depth)
    for _ in range(depth):
        nums = _move(nums, rng)
    return nums


def roots(rng: random.Random, size: int) -> list[int]:
    """Mostly numbers of a published problem."""
    return _uniform(rng, size) if rng.random() < 0.7 else numbers(rng, size)


def reachable(nums: Sequence[int], rng: random.Random) -> int | None:
    """A possible target that a random combination of the numbers makes; None when this one missed."""
    left = list(nums)
    while len(left) > 1:
        left = _move(left, rng)
    return left[0] if TARGETS[0] <= left[0] <= TARGETS[1] else None


def _undo(value: int, rng: random.Random) -> tuple[int, int] | None:
    """Two numbers that a random operation makes the value of, every operation equally likely."""
    op = rng.choice(lang.OPS)
    b = rng.randint(1, 2 * LARGEST) if rng.random() < 0.5 else rng.randint(1, 20)
    if op == "*":
        b = rng.choice([d for d in range(1, value + 1) if value % d == 0])
    a = {"+": value - b, "-": value + b, "*": value // b, "/": value * b}[op]
    return (a, b) if 1 <= a <= lang.CAP and value in lang.results(a, b) else None


def built(rng: random.Random) -> tuple[list[int], int]:
    """Three numbers that make a target, built from the target: else solutions by division are too rare to learn."""
    while True:
        target = rng.randint(*TARGETS)
        if (last := _undo(target, rng)) and (first := _undo(max(last), rng)):
            return [*first, min(last)], target


def random_steps(nums: Sequence[int], rng: random.Random) -> list[lang.Step] | None:
    """Random operations down to one number; None where they got stuck."""
    steps = []
    left = list(nums)
    while len(left) > 1:
        if not any(r is not None for a, b, _ in lang.pairs(left) for r in lang.results(a, b)):
            return None
        step, left = _random_step(left, rng)
        steps.append(step)
    return steps


def target_for(nums: Sequence[int], rng: random.Random, solvable: float) -> int:
    """A target that is made from the numbers with (about) the given probability, else any."""
    if rng.random() < solvable:
        for _ in range(20):
            if (target := reachable(nums, rng)) is not None:
                return target
    return rng.randint(*TARGETS)


def _drill_pair(rng: random.Random) -> tuple[int, int]:
    kind = rng.random()
    if kind < 0.35:
        return rng.randint(1, lang.CAP), rng.randint(1, lang.CAP)
    if kind < 0.55:
        b = _log_uniform(rng)
        return rng.randint(1, lang.CAP // b), b  # a legal product
    if kind < 0.75:
        b = rng.randint(2, LARGEST)
        return b * rng.randint(1, lang.CAP // b), b  # a legal quotient
    return rng.randint(1, 2 * LARGEST), rng.randint(1, LARGEST)


def _drill_row(rng: random.Random) -> tuple[int, int, int, int]:
    """Half of the rows are hits, most others miss narrowly: telling equal from nearly equal is learnt last."""
    kind = rng.random()
    while True:
        p, q = _drill_pair(rng)
        x = rng.choice((_log_uniform(rng), rng.randint(1, LARGEST)))
        if kind > 0.85:
            return p, q, x, rng.randint(*TARGETS)
        made = rng.choice([r for r in lang.results(p, q) if r is not None])
        if kind > 0.5:
            made = max(1, made + rng.choice((-1, 1)) * rng.choice((1, 2, 3, 4, 6, 10, 20, 100, rng.randint(1, 30))))
        if options := [r for r in lang.results(made, x) if r is not None]:
            target = rng.choice(options)
            if TARGETS[0] <= target <= TARGETS[1]:
                return p, q, x, target


@dataclass(slots=True)
class Documents:
    """An endless, seeded supply of documents of every kind, none of them in `excluded` or in the validation split."""

    rng: random.Random
    excluded: Container[Key] = frozenset()

    def _problem(self, draw: Callable[[], tuple[list[int], int]]) -> tuple[list[int], int]:
        while True:
            nums, target = draw()
            if self._is_allowed(nums, target):
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

    def _is_allowed(self, nums: Sequence[int], target: int) -> bool:
        return not is_validation(nums, target) and (tuple(sorted(nums)), target) not in self.excluded

    def make(self, kind: str) -> traces.Document:
        """One document of a kind that `Mix` names."""
        rng = self.rng
        if kind == "drill":
            return traces.drill([_drill_row(rng) for _ in range(4)])
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
            nums, target = self._searched(0.04 if kind == "end4" else 0.12)
        if kind == "path4":
            return traces.one_path(nums, target, rng.randint(1, len(lang.pairs(nums))))
        if kind in _MULTIVERSE:
            return traces.multiverse(nums, target, ends=kind == "end4")
        return traces.sequential(nums, target) if kind.startswith("seq") else traces.parallel(nums, target)

    def _stepwise(self) -> traces.Document:
        """Half of the samples reach the target and half are aimless: sampling is to stay diverse."""
        rng = self.rng
        reaches = rng.random() < 0.5
        while True:
            nums = _uniform(rng, rng.choices((3, 4, 5), (1, 6, 3))[0])
            steps = random_steps(nums, rng)
            if steps is None:
                continue
            target = steps[-1][-1] if reaches else rng.randint(*TARGETS)
            if TARGETS[0] <= target <= TARGETS[1] and self._is_allowed(nums, target):
                return traces.stepwise(nums, target, steps)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded documents of one kind."""

    inputs: Tensor
    labels: Tensor
    kind: str
    positions: Tensor | None = None
    """[documents, time]; None: 0, 1, 2, ..."""
    mask: Tensor | None = None
    """[documents, 1, time, time] bool, True where attention is allowed; None: causal."""

    def to(self, device: str) -> Batch:
        """The same on another device."""
        positions, mask = (None if x is None else x.to(device) for x in (self.positions, self.mask))
        return Batch(self.inputs.to(device), self.labels.to(device), self.kind, positions, mask)


def encode(document: traces.Document) -> tuple[list[int], list[int]]:
    """Inputs and labels of equal length: BOS goes in front, the last word is only a label."""
    inputs = [IDS[BOS], *(IDS[word] for word in document.words[:-1])]
    return inputs, [IGNORED if label is None else IDS[label] for label in document.labels]


def pad(rows: Sequence[tuple[list[int], list[int]]], kind: str, pad_id: int) -> Batch:
    """A batch of (inputs, labels)."""
    length = max(len(inputs) for inputs, _ in rows)
    inputs = np.full((len(rows), length), pad_id, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for i, (row, row_labels) in enumerate(rows):
        inputs[i, : len(row)], labels[i, : len(row)] = row, row_labels
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), kind)


def collate(documents: Sequence[traces.Document], kind: str) -> Batch:
    """Pad on the right; causal attention needs no mask for that, Multiverse has one of its own."""
    batch = pad([encode(document) for document in documents], kind, IDS[PAD])
    if kind not in _MULTIVERSE:
        return batch
    rows, length = batch.inputs.shape
    positions = torch.zeros(rows, length, dtype=torch.int64)
    paths = torch.zeros(rows, length, dtype=torch.int64)
    for i, document in enumerate(documents):
        # BOS in front; the last word is only a label.
        n = len(document.words)
        at, path = (torch.tensor(column[:-1]) for column in traces.layout(document))
        positions[i, 1:n], paths[i, 1:n] = at + 1, path
    own, other = paths[:, :, None], paths[:, None, :]
    mask = ((own == other) | (own == 0) | (other == 0)).tril()
    return replace(batch, positions=positions, mask=mask[:, None])


def batches(documents: Documents, mix: Mix, tokens: int) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens; kinds in the mix's shares, documents of like length together."""
    rng = documents.rng
    kinds = [f.name for f in fields(Mix)]
    shares = [getattr(mix, kind) for kind in kinds]
    groups = {kind: by_length(partial(documents.make, kind), tokens, rng) for kind in kinds}
    while True:
        kind = rng.choices(kinds, shares)[0]
        yield collate(next(groups[kind]), kind)


def by_length(make: Callable[[], traces.Document], tokens: int, rng: random.Random) -> Iterator[list[traces.Document]]:
    """Endless groups of about `tokens` tokens of documents of like length."""
    ready: list[list[traces.Document]] = []
    while True:
        if not ready:
            # Enough documents for several groups, sorted by length and cut; these are then used in random order.
            pool: list[traces.Document] = []
            while sum(len(document.words) for document in pool) < 12 * tokens:
                pool += (make() for _ in range(16))
            pool.sort(key=lambda document: len(document.words))
            ready = _cut(pool, tokens)
            rng.shuffle(ready)
        yield ready.pop()


def _cut(pool: list[traces.Document], tokens: int) -> list[list[traces.Document]]:
    groups: list[list[traces.Document]] = [[]]
    for document in pool:
        if groups[-1] and (len(groups[-1]) + 1) * len(document.words) > tokens:
            groups.append([])
        groups[-1].append(document)
    return groups
