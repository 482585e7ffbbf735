"""The oracle: dense span attention in float64, one row after the other, as the definition reads.

Nothing here is shared with the fast implementations, so that they can be compared with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import AttentionPlan

_MINUS_INF = float("-inf")


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the first 2 * angles.shape[-1] dims of `x` (..., D), half-split pairs, by `angles` (float64, radians).

    Cosines are taken before rounding to the dtype of `x`: a large angle in float32 would be off by its rounding error.
    """
    half = angles.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _numbers(k_pool: Tensor, v_pool: Tensor) -> tuple[Tensor, Tensor]:
    """What pools of 8 bits stand for (int8.py), in float64."""
    blocks, heads, stored, block_size = k_pool.shape
    of_keys = k_pool[:, :, stored - 4 :].reshape(blocks, heads, 1, 4 * block_size).view(torch.float32)
    of_values = v_pool[..., stored - 4 :].contiguous().view(torch.float32)
    return k_pool[:, :, : stored - 4].double() * of_keys, v_pool[..., : stored - 4].double() * of_values


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
    """Float64 out (N, H, D) and log-sum-exp (N, H); see `attention.span_attention` for the arguments."""
    rows, heads, size = q.shape
    if k_pool.dtype == torch.int8:
        k_pool, v_pool = _numbers(k_pool, v_pool)
    ratio, block_size = heads // k_pool.shape[1], k_pool.shape[3]
    out = torch.zeros(rows, heads, size, dtype=torch.float64)
    lse = torch.full((rows, heads), _MINUS_INF, dtype=torch.float64)
    for row in range(rows):
        scores: dict[int, list[Tensor]] = {}
        values: dict[int, list[Tensor]] = {}
        for start, count, run, begin, end, causal, shift, group in plan.entries.tolist():
            if not start <= row < start + count:
                continue
            stop = end - (start + count - 1 - row) if causal else end
            if stop <= begin:
                continue
            tokens = range(begin, stop)
            blocks = [int(plan.run_blocks[plan.run_start[run] + token // block_size]) for token in tokens]
            slots = [token % block_size for token in tokens]
            keys = k_pool.cpu().permute(0, 3, 1, 2)[blocks, slots].double()  # (tokens, K, D)
            query = q[row].cpu().double()
            if shift:
                assert inv_freq is not None
                query = rotate(query, -shift * inv_freq.cpu().double())
            keys = keys.repeat_interleave(ratio, dim=1)
            score = torch.einsum("hd,thd->ht", query, keys) * scale
            if cap is not None:
                score = cap * torch.tanh(score / cap)
            score = score / plan.groups[group].temperature
            value = v_pool.cpu().permute(0, 2, 1, 3)[blocks, slots].double().repeat_interleave(ratio, dim=1)
            scores.setdefault(group, []).append(score)
            values.setdefault(group, []).append(value)
        if not scores:
            continue
        outputs, weights = [], []
        for group in scores:
            score, value = torch.cat(scores[group], dim=1), torch.cat(values[group], dim=0)
            outputs.append(torch.einsum("ht,thd->hd", score.softmax(dim=1), value))
            weights.append(plan.groups[group].factor * score.logsumexp(dim=1) + plan.groups[group].bias)
        weight = torch.stack(weights)  # (groups, H)
        out[row] = torch.einsum("gh,ghd->hd", weight.softmax(dim=0), torch.stack(outputs))
        lse[row] = weight.logsumexp(dim=0)
    return out, lse
