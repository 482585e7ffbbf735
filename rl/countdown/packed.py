"""Documents of all kinds in rows of one length, for a GPU: nearly no padding, and shapes that never change.

A token sees what stands before it in its own document; in a Multiverse document as `traces.sees` says.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from ...evals.benchmarks.countdown.problems import Key
from . import traces
from .batch import IGNORED, MULTIVERSE, encode
from .mix import Documents, Mix
from .model import Model
from .tokenizer import IDS, PAD
from .workers import in_turn

KINDS = tuple(f.name for f in fields(Mix))
TOKENS, LABELS, POSITIONS, DOCUMENTS, PATHS, KIND = range(6)
"""What a row says of each place, in this order. Places without a document belong to document -1."""
_FILL = (IDS[PAD], IGNORED, 0, -1, 0, 0)

Columns = NDArray[np.int16]
"""[`TOKENS` to `KIND`, time] of one document, or [.., rows, time]."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of documents."""

    columns: Tensor
    """[`TOKENS` to `KIND`, rows, time]."""
    counts: dict[str, int]
    """Labels of each kind."""
    tokens: int
    """Places that hold a document."""
    flex: bool
    """Mask by FlexAttention, which skips what is masked but has to be compiled, or by a tensor?"""

    def to(self, device: str) -> Packed:
        """The same on another device."""
        columns = self.columns
        if torch.device(device).type == "cuda":
            columns = columns.pin_memory()
        return replace(self, columns=columns.to(device, non_blocking=True))

    def mask(self) -> BlockMask | Tensor:
        """What may be seen, on the device of the columns."""
        documents, paths = self.columns[DOCUMENTS].int(), self.columns[PATHS].int()
        rows, length = documents.shape

        def allowed(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own, other = paths[row, query], paths[row, key]
            together = documents[row, query] == documents[row, key]
            allowed: Tensor = (query >= key) & together & traces.sees(own, other)
            return allowed

        if self.flex:
            make: Any = create_block_mask
            made: BlockMask = make(allowed, rows, None, length, length, device=self.columns.device)
            return made
        row = torch.arange(rows, device=documents.device)[:, None, None]
        place = torch.arange(length, device=documents.device)
        return allowed(row, row, place[:, None], place)[:, None]

    def losses(self, model: Model) -> Tensor:
        """Summed cross-entropy of each kind of `counts`."""
        columns = self.columns.long()
        losses = model.token_losses(columns[TOKENS], columns[LABELS], columns[POSITIONS], self.mask())
        return losses.new_zeros(len(KINDS)).index_add(0, columns[KIND].flatten(), losses)


def columns(document: traces.Document, kind: str) -> Columns:
    """One document, as number 0."""
    inputs, labels = encode(document)
    length = len(inputs)
    found = np.zeros((len(_FILL), length), dtype=np.int16)
    found[TOKENS], found[LABELS], found[KIND] = inputs, labels, KINDS.index(kind)
    if kind in MULTIVERSE:
        positions, paths = traces.layout(document)
        # BOS in front; the last word is only a label.
        found[POSITIONS, 1:], found[PATHS, 1:] = np.array(positions[:-1]) + 1, paths[:-1]
    else:
        found[POSITIONS] = np.arange(length)
    return found


class Packer:
    """Puts documents into rows: each into the fullest open row that has room, as few places stay empty so."""

    OPEN = 32
    """Rows that wait for documents."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._open: list[list[Columns]] = []
        self._room: list[int] = []

    def add(self, document: Columns) -> Columns | None:
        """A row that is full, if this made one. Documents that are longer than a row are left out."""
        size = document.shape[1]
        if size > self.length:
            return None
        fitting = [i for i, room in enumerate(self._room) if room >= size]
        if fitting:
            best = min(fitting, key=self._room.__getitem__)
        else:
            best = len(self._open)
            self._open.append([])
            self._room.append(self.length)
        self._open[best].append(document)
        self._room[best] -= size
        if len(self._open) <= self.OPEN:
            return None
        fullest = min(range(len(self._room)), key=self._room.__getitem__)
        del self._room[fullest]
        return self._row(self._open.pop(fullest))

    def _row(self, documents: list[Columns]) -> Columns:
        row = np.empty((len(_FILL), self.length), dtype=np.int16)
        row[:] = np.array(_FILL)[:, None]
        at = 0
        for number, document in enumerate(documents):
            end = at + document.shape[1]
            row[:, at:end] = document
            row[DOCUMENTS, at:end] = number
            at = end
        return row


def draw_kind(rng: random.Random, mix: Mix, sizes: dict[str, float]) -> str:
    """A kind of which the next document is to be, so that kinds have the mix's shares of the tokens."""
    return rng.choices(KINDS, [getattr(mix, kind) / sizes[kind] for kind in KINDS])[0]


def mean_sizes(documents: Documents, count: int = 100) -> dict[str, float]:
    """Mean tokens of a document of each kind."""
    return {kind: sum(len(documents.make(kind).words) for _ in range(count)) / count for kind in KINDS}


def rows(documents: Documents, mix: Mix, length: int, sizes: dict[str, float]) -> Iterator[Columns]:
    """Endless rows of documents in the mix's shares of the tokens."""
    packer = Packer(length)
    while True:
        kind = draw_kind(documents.rng, mix, sizes)
        row = packer.add(columns(documents.make(kind), kind))
        if row is not None:
            yield row


def blocks(
    seed: str, mix: Mix, excluded: frozenset[Key], length: int, count: int, sizes: dict[str, float]
) -> Generator[Columns]:
    """Endless stacks of `count` rows."""
    made = rows(Documents(random.Random(seed), excluded), mix, length, sizes)
    while True:
        yield np.stack(list(itertools.islice(made, count)), axis=1)


def batch(block: Columns, flex: bool) -> Packed:
    """Rows that `blocks` made."""
    counted = np.bincount(block[KIND][block[LABELS] >= 0], minlength=len(KINDS))
    counts = dict(zip(KINDS, counted.tolist(), strict=True))
    return Packed(torch.from_numpy(block), counts, int((block[DOCUMENTS] >= 0).sum()), flex)


def stream(
    mix: Mix, excluded: frozenset[Key] = frozenset(), *, length: int = 2048, workers: int = 0, flex: bool = False
) -> Callable[[random.Random, int], Generator[Packed]]:
    """Rows of documents in the mix's shares, none of them in `excluded`; `workers`: processes that make them, 0: none
    but this one. Documents longer than a row are left out."""

    def make(rng: random.Random, tokens: int) -> Generator[Packed]:
        sizes = mean_sizes(Documents(random.Random("sizes"), excluded))
        seed = rng.random()
        given = [(f"{seed} {i}", mix, excluded, length, max(1, tokens // length), sizes) for i in range(workers or 1)]
        with closing(in_turn(blocks, given) if workers else blocks(*given[0])) as made:
            for block in made:
                yield batch(block, flex)

    return make
