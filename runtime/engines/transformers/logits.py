"""From logits to probabilities, in the order of `SamplingParams`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...engine import SamplingParams


def shape(
    logits: Tensor, context: Sequence[int], params: SamplingParams, allowed: Tensor | None = None
) -> Tensor | None:
    """(V,) float32 logits to probabilities; with temperature 0 to logits, the largest of which is taken. `allowed`
    (V,): by the constraint. None: nothing is left."""
    logits = logits.double()  # also a copy; a large bias would leave nothing of them in float32
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted({token for token in context if token < len(logits)}), dtype=torch.long)
        held = logits[seen]
        logits[seen] = torch.where(held > 0, held / params.repetition_penalty, held * params.repetition_penalty)
    if params.forbidden_ids:
        logits[list(params.forbidden_ids)] = -torch.inf
    if allowed is not None:
        logits[~allowed] = -torch.inf
        if not logits.isfinite().any():
            return None
    if params.temperature == 0:
        return logits
    logits = logits / params.temperature
    if 0 < params.top_k < len(logits):
        logits[logits < logits.topk(params.top_k).values[-1]] = -torch.inf
    chances = logits.softmax(-1)
    if params.top_p < 1:
        ordered, ids = chances.sort(descending=True, stable=True)
        chances[ids[ordered.cumsum(-1) - ordered >= params.top_p]] = 0
    if params.min_p > 0:
        chances[chances < params.min_p * chances.max()] = 0
    return chances / chances.sum()
