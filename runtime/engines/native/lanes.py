"""Lanes (ParScale, arXiv 2505.10475): several streams of one model that read the same tokens and give one.

A lane is nothing that store, scheduler or views know of: to attention the lanes of a row are more heads, so whatever
becomes of a segment (forks, merges, live views, groups, eviction) becomes of all its lanes. What tells them apart are
learned keys and values in front of everything. These keys have no position: a query meets them as it is rotated, at any
place, so they are one more span, never shifted, in blocks of the pool that are nobody's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ....attention import AttentionPlan, int8
from .pool import KVPool
from .weights import Lanes


class Prefixes:
    """The prefixes of all lanes, in the pool of whoever runs the model."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._pool: KVPool | None = None
        """Where they are."""

    def forget(self) -> None:
        """They have changed."""
        self._pool = None

    def attach(self, plan: AttentionPlan, pool: KVPool) -> AttentionPlan:
        """The plan in which every row sees them, too."""
        if not pool.pinned:
            return plan
        if self._pool is not pool:
            self._write(pool)
            self._pool = pool
        length = self._lanes.prefix_k[0].shape[2]
        used, run = plan.run_start[-1], len(plan.run_start) - 1
        entry = np.array([[0, plan.num_rows, run, 0, length, 0, 0, 0]], dtype=np.int32)
        return replace(
            plan,
            run_blocks=np.concatenate([plan.run_blocks[:used], np.array(pool.pinned, dtype=np.int32)]),
            run_start=np.append(plan.run_start, np.int32(used + len(pool.pinned))),
            entries=np.concatenate([entry, plan.entries]),
            run_position=None if plan.run_position is None else np.append(plan.run_position, np.int32(0)),
        )

    def _write(self, pool: KVPool) -> None:
        blocks = slice(pool.pinned.start, pool.pinned.stop)
        for layer, (k, v) in enumerate(zip(self._lanes.prefix_k, self._lanes.prefix_v, strict=True)):
            keys, values = _paged(k, pool), _paged(v, pool)
            if pool.key_ranges is not None:
                keys = keys / pool.key_ranges[layer][:, None]
            is_int8 = pool.dtype == torch.int8
            pool.k[layer][blocks] = int8.pack_keys(keys) if is_int8 else keys.transpose(2, 3)
            pool.v[layer][blocks] = int8.pack_values(values) if is_int8 else values


def _paged(prefix: Tensor, pool: KVPool) -> Tensor:
    """(P, K, T, D) -> (blocks, P K, B, D), with zeros behind the last token."""
    size = pool.block_size
    heads = prefix.detach().flatten(0, 1)
    padded = functional.pad(heads, (0, 0, 0, len(pool.pinned) * size - heads.shape[1]))
    return padded.view(len(heads), len(pool.pinned), size, -1).transpose(0, 1)


def reduce(hidden: Tensor, lanes: Lanes, smoothing: float) -> Tensor:
    """(M, P, C) -> (M, C): the lanes' mean by weights that their hidden states give, none of which is less than
    smoothing / P."""
    features = hidden.transpose(1, 2).flatten(1)
    scores = lanes.outer(functional.silu(lanes.inner(features)))
    weights = scores.softmax(-1, dtype=torch.float32) * (1 - smoothing) + smoothing / hidden.shape[1]
    return (hidden * weights[:, :, None]).sum(1).to(hidden.dtype)
