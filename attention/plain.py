"""Span attention in plain torch: for machines without a compiler, for other devices, and for autograd.

Rows that see the same run are stacked and read it once; runs with equally many rows and similar lengths are batched.
Each such batch (a `_Piece`) gives partial results (maximum, sum, weighted values), which are then merged per row and
group by log-sum-exp (FlashDecoding's merge), and last across groups (APE, arXiv 2502.05431, section 4).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import int8
from .plan import AttentionPlan, Int64
from .reference import rotate

_MINUS_INF = float("-inf")
_MAX_ROWS = 128
"""Rows of one run that are handled together; bounds the score matrix of a long prefill."""
_MAX_TOKENS = 1 << 15
"""Keys that one piece gathers (over all its runs); bounds the copy of keys and values."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """S runs, each seen by M rows over T tokens (padded to whole blocks)."""

    rows: Tensor
    """(S * M,) query rows."""
    shift: Tensor | None
    """(S * M, 1, 1) float64 position shifts, None if all are 0."""
    inverse_temperature: Tensor
    """(S * M, 1, 1)."""
    blocks: Tensor
    """(S, T / B) pool blocks; padding repeats block 0 and is masked."""
    visible: Tensor
    """(S, M, T) bool."""
    unseen: Tensor
    """(S, 1, T, 1) bool: visible to none of the rows."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    pieces: list[_Piece]
    merge: Tensor
    """(N, G, X): partial results of each row and group, padded with the index of an empty one."""
    factor: Tensor
    """(G, 1)."""
    bias: Tensor
    """(G, 1)."""


def _piece(plan: AttentionPlan, runs: list[Int64], block_size: int, device: torch.device, dtype: torch.dtype) -> _Piece:
    """`runs`: the (M, 6) lines of each run, as in `AttentionPlan.row_entries`."""
    first = [int(lines[:, 2].min()) // block_size for lines in runs]
    count = [-(-int(lines[:, 3].max()) // block_size) - start for lines, start in zip(runs, first, strict=True)]
    blocks = np.zeros((len(runs), max(count)), dtype=np.int64)
    for i, lines in enumerate(runs):
        start = int(plan.run_start[lines[0, 1]]) + first[i]
        blocks[i, : count[i]] = plan.run_blocks[start : start + count[i]]
    stacked = np.stack(runs)  # (S, M, 6)
    token = np.array(first)[:, None, None] * block_size + np.arange(blocks.shape[1] * block_size)
    visible = (stacked[:, :, 2, None] <= token) & (token < stacked[:, :, 3, None])
    lines = stacked.reshape(-1, 6)
    temperature = np.array([group.temperature for group in plan.groups])[lines[:, 5]]

    def column(values: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values[:, None, None]).to(device, dtype)

    return _Piece(
        rows=torch.from_numpy(lines[:, 0].copy()).to(device),
        shift=column(lines[:, 4], torch.float64) if lines[:, 4].any() else None,
        inverse_temperature=column(1.0 / temperature, dtype),
        blocks=torch.from_numpy(blocks).to(device),
        visible=torch.from_numpy(visible).to(device),
        unseen=torch.from_numpy(~visible.any(axis=1)[:, None, :, None]).to(device),
    )


def _prepare(plan: AttentionPlan, block_size: int, device: torch.device, dtype: torch.dtype) -> _Prepared:
    lines = plan.row_entries()
    # Sorted by run, then by length, so that the rows stacked in one piece see about the same tokens.
    order = np.lexsort((lines[:, 3], lines[:, 1]))
    sorted_lines = lines[order]
    bounds = np.flatnonzero(np.diff(sorted_lines[:, 1], prepend=-1, append=-1)) if len(lines) else np.zeros(1, np.int64)
    similar: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for start in range(low, high, _MAX_ROWS):
            stop = min(start + _MAX_ROWS, high)
            length = int(sorted_lines[start:stop, 3].max() - sorted_lines[start:stop, 2].min())
            similar[stop - start, length.bit_length()].append((start, stop))
    pieces, place = [], np.empty(len(lines), dtype=np.int64)
    done = 0
    for (count, bits), ranges in similar.items():
        step = max(1, _MAX_TOKENS >> bits)
        for i in range(0, len(ranges), step):
            part = ranges[i : i + step]
            pieces.append(_piece(plan, [sorted_lines[a:b] for a, b in part], block_size, device, dtype))
            for a, b in part:
                place[order[a:b]] = np.arange(done, done + count)
                done += count
    cell = lines[:, 0] * len(plan.groups) + lines[:, 5]
    by_cell = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=plan.num_rows * len(plan.groups))
    rank = np.arange(len(lines)) - np.repeat(np.cumsum(counts) - counts, counts)
    merge = np.full((len(counts), max(1, int(counts.max(initial=0)))), done, dtype=np.int64)
    merge[cell[by_cell], rank] = place[by_cell]
    return _Prepared(
        pieces=pieces,
        merge=torch.from_numpy(merge.reshape(plan.num_rows, len(plan.groups), -1)).to(device),
        factor=torch.tensor([[group.factor] for group in plan.groups], device=device, dtype=dtype),
        bias=torch.tensor([[group.bias] for group in plan.groups], device=device, dtype=dtype),
    )


def _attend(
    piece: _Piece, q: Tensor, k_pool: Tensor, v_pool: Tensor, scale: float, cap: float | None, inv_freq: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum (S * M, H), sum (S * M, H) and weighted values (S * M, H, D) of one piece. `q` has the compute dtype."""
    _, heads, size = q.shape
    runs, rows, tokens = piece.visible.shape
    kv_heads = k_pool.shape[1]
    query = q[piece.rows] * (piece.inverse_temperature * scale if cap is None else scale)
    if piece.shift is not None:
        if inv_freq is None:
            raise ValueError("inv_freq is needed because an entry of the plan has a shift")
        query = rotate(query, -piece.shift * inv_freq.to(q.device).double())
    query = query.view(runs, rows, kv_heads, -1, size).transpose(1, 2).reshape(runs, kv_heads, -1, size)
    # index_select is several times faster than indexing
    keys, values = (pool.index_select(0, piece.blocks.flatten()) for pool in (k_pool, v_pool))
    if keys.dtype == torch.int8:
        keys, values = int8.unpack_keys(keys), int8.unpack_values(values)
    # (S, T / B, K, D, B) and (S, T / B, K, B, D)
    keys, values = (part.to(q.dtype).view(*piece.blocks.shape, *part.shape[1:]) for part in (keys, values))
    keys = keys.permute(0, 2, 3, 1, 4).reshape(runs, kv_heads, size, tokens)
    values = values.transpose(1, 2).reshape(runs, kv_heads, tokens, size)
    # Slots that nobody sees may hold anything, and 0 * NaN is NaN.
    values = values.masked_fill_(piece.unseen, 0.0)
    scores = (query @ keys).view(runs, kv_heads, rows, -1, tokens)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap) * piece.inverse_temperature.view(runs, 1, rows, 1, 1)
    scores = scores.masked_fill(~piece.visible[:, None, :, None, :], _MINUS_INF)
    top = scores.amax(dim=-1, keepdim=True)
    weights = (scores - top).exp()
    partial = (weights.view(runs, kv_heads, -1, tokens) @ values).view(runs, kv_heads, rows, -1, size)

    def by_row(x: Tensor) -> Tensor:  # (S, K, M, H / K, last) -> (S * M, H, last)
        return x.transpose(1, 2).reshape(runs * rows, heads, -1)

    return by_row(top).squeeze(-1), by_row(weights.sum(dim=-1, keepdim=True)).squeeze(-1), by_row(partial)


def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    cap: float | None = None,
    inv_freq: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Out (N, H, D) in the dtype of `q` and float32 log-sum-exp (N, H); see `attention.span_attention`.

    Computes in float32 (float64 for a float64 `q`).
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    _, heads, size = q.shape
    block_size = k_pool.shape[3]
    key = f"plain {q.device} {dtype} {block_size}"
    prepared = plan.derived.get(key)
    if not isinstance(prepared, _Prepared):
        plan.check(block_size, k_pool.shape[0])
        prepared = plan.derived[key] = _prepare(plan, block_size, q.device, dtype)
    query = q.to(dtype)
    parts = [_attend(piece, query, k_pool, v_pool, scale, cap, inv_freq) for piece in prepared.pieces]
    # One empty partial result at the end, which the padding of `merge` points to.
    nothing = query.new_zeros(1, heads, size)
    parts.append((nothing[..., 0] + _MINUS_INF, nothing[..., 0], nothing))
    # Each (N, G, X, H) or (N, G, X, H, D).
    top, total, partial = (torch.cat(column)[prepared.merge] for column in zip(*parts, strict=True))
    joint = top.amax(dim=2)  # (N, G, H)
    empty = joint == _MINUS_INF
    weight = (top - joint.masked_fill(empty, 0.0)[:, :, None]).exp()
    total = (weight * total).sum(dim=2)
    group_out = (weight[..., None] * partial).sum(dim=2) / total.masked_fill(empty, 1.0)[..., None]  # (N, G, H, D)
    group_lse = joint.masked_fill(empty, 0.0) + total.masked_fill(empty, 1.0).log()
    # The factor of an empty group must not touch its -inf: 0 * -inf is NaN.
    group_lse = (prepared.factor * group_lse + prepared.bias).masked_fill(empty, _MINUS_INF)
    lse = group_lse.logsumexp(dim=1)  # (N, H)
    share = (group_lse - lse.masked_fill(lse == _MINUS_INF, 0.0)[:, None]).exp()
    return (share[..., None] * group_out).sum(dim=1).to(q.dtype), lse.float()
