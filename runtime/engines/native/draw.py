"""Seeded sampling of many rows at once where the logits are; token for token that of sampling.py."""

from __future__ import annotations

import torch
from torch import Tensor

from .sampling import NO_TOKEN, Draws


def likeliest(logits: Tensor) -> Tensor:
    """The likeliest token of each row of `logits` (M, V); `NO_TOKEN` where they are no distribution."""
    values, tokens = logits.max(-1)
    return tokens.where(values.isfinite(), NO_TOKEN)


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """One token (M,) int64 for each row of `logits` (M, V). All else is (M,), `top_k` int64 and the others float64.

    `temperature` 0 takes the likeliest token; `top_k` 0, `top_p` 1 and `min_p` 0 leave none out; `uniform` in [0, 1)
    chooses. Nothing waits for the device."""
    greedy = likeliest(logits)
    is_greedy = temperature == 0
    scaled = logits.double() / temperature.where(~is_greedy, 1.0)[:, None]
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    smallest = ordered.gather(1, (top_k - 1).clamp(0, logits.shape[1] - 1)[:, None])
    has_top_k = (top_k > 0)[:, None]
    scaled = scaled.masked_fill(has_top_k & (scaled < smallest), -torch.inf)
    probs = scaled.softmax(-1)
    # Among equals top-p keeps those with the lowest ids, as the sort is stable.
    by_rank = probs.gather(1, ids)
    # Added up in this order, for the whole too: at a border of `top_p` the last bit of either decides.
    up_to = by_rank.cumsum(-1)
    goes = (top_p < 1)[:, None] & (up_to - by_rank >= top_p[:, None] * up_to[:, -1:])
    probs = probs.scatter(1, ids, by_rank.masked_fill(goes, 0.0))
    probs = probs.where(probs >= min_p[:, None] * probs.amax(-1, keepdim=True), 0.0)
    cumulative = probs.cumsum(-1)
    found = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # Rounding at the very end of the distribution.
    places = torch.arange(logits.shape[1], device=logits.device)
    last = places.where(probs > 0, -1).amax(-1)
    at = found.clamp_max(logits.shape[1] - 1)
    found = at.where((found < logits.shape[1]) & (probs.gather(1, at[:, None])[:, 0] > 0), last)
    return found.where(~is_greedy & (greedy != NO_TOKEN), greedy)


def draw_rows(logits: Tensor, draws: Draws, step: int) -> Tensor:
    """One token (N,) for each row of `logits` (N, V), as `draws` has it for this step."""
    arrays = (draws.temperature, draws.top_k, draws.top_p, draws.min_p, draws.uniform[step])
    return draw(logits, *(torch.from_numpy(array).to(logits.device) for array in arrays))
