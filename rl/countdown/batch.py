"""From documents to batches: padding, and the masks and positions of Multiverse documents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import traces
from .model import Model
from .tokenizer import BOS, IDS, PAD

IGNORED = -100
MULTIVERSE = ("mv4", "end4")
"""Kinds of documents in the form of `traces.multiverse`."""


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

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.inputs.numel()

    @property
    def counts(self) -> dict[str, int]:
        """Labels of each kind."""
        return {self.kind: int((self.labels >= 0).sum())}

    def losses(self, model: Model) -> Tensor:
        """Summed cross-entropy of each kind of `counts`."""
        return model.loss(self.inputs, self.labels, self.positions, self.mask)[None]


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
    if kind not in MULTIVERSE:
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
    mask = traces.sees(own, other).tril()
    return replace(batch, positions=positions, mask=mask[:, None])


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
