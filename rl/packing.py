"""Rows of several samples that see nothing of each other: short ones are trained as fast as long ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from .samples import Sample
from .tree_mask import TreeMask

OPEN = 16
"""Rows that wait for samples."""

_MOVED = {"segment": "segments", "row": "rows", "source": "tokens"}
"""What numbers these, so that those of a sample begin behind the others'."""


def pack(samples: Sequence[Sample]) -> Sample:
    """All of them in one row."""
    masks = [sample.mask for sample in samples]
    if len(masks) == 1:
        return samples[0]
    sizes = {
        "tokens": [len(mask) for mask in masks],
        "rows": [mask.reach.shape[0] for mask in masks],
        "segments": [mask.reach.shape[1] for mask in masks],
    }
    begins = {name: np.cumsum([0, *counts[:-1]]).tolist() for name, counts in sizes.items()}
    values = {f.name: [getattr(mask, f.name) for mask in masks] for f in fields(TreeMask)}
    for name, counted in _MOVED.items():
        values[name] = [_moved(part, at) for part, at in zip(values[name], begins[counted], strict=True)]
    tables = {name: _diagonal(values.pop(name)) for name in ("reach", "shift")}
    tokens = [token for part in values.pop("token_ids") for token in part]
    columns = {name: np.concatenate(parts) for name, parts in values.items()}
    targets = [_moved(sample.target, at) for sample, at in zip(samples, begins["tokens"], strict=True)]
    return Sample(mask=TreeMask(token_ids=tokens, **columns, **tables), target=np.concatenate(targets))


def _moved(numbers: np.ndarray, by: int) -> np.ndarray:
    """-1 says that there is none."""
    return np.where(numbers < 0, numbers, numbers + by).astype(np.int32)


def _diagonal(tables: Sequence[np.ndarray]) -> np.ndarray:
    whole = np.zeros(np.sum([table.shape for table in tables], axis=0), dtype=np.int32)
    row = column = 0
    for table in tables:
        whole[row : row + table.shape[0], column : column + table.shape[1]] = table
        row, column = row + table.shape[0], column + table.shape[1]
    return whole


def packed(samples: Sequence[Sample], length: int) -> list[Sample]:
    """Rows of at most `length` tokens, or of one longer sample: each sample goes into the fullest of the last rows that
    has room, so that their order is nearly kept."""
    rows: list[list[Sample]] = []
    opened: list[int] = []
    room: dict[int, int] = {}
    for sample in samples:
        fitting = [row for row in opened if room[row] >= len(sample)]
        if fitting:
            best = min(fitting, key=room.__getitem__)
        else:
            best = len(rows)
            rows.append([])
            opened.append(best)
            room[best] = length
        rows[best].append(sample)
        room[best] -= len(sample)
        if len(opened) > OPEN:
            opened.remove(min(opened, key=room.__getitem__))
    return [pack(row) for row in rows]
