"""From logits to tokens: greedy and seeded sampling that do not depend on what else is in the batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...engine import SamplingParams

NO_TOKEN = -1
"""In the place of a token: there is none, since the logits are NaN, +inf, or all -inf."""
NONE_ALLOWED = -2
"""In the place of a token: the constraint allows none that is not forbidden."""
_MASK = (1 << 64) - 1


def branch_seed(seed: int, path: Sequence[int]) -> int:
    """64-bit seed of the branch at `path` in the tree of a job with `seed`."""
    text = f"{seed}:{'.'.join(map(str, path))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(seed: int, index: int) -> float:
    """The `index`-th number in [0, 1) of a branch: counter-based (SplitMix64), so resuming needs no generator state."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def uniforms(seeds: Sequence[int], first: Sequence[int], count: int) -> NDArray[np.float64]:
    """(count, branches): `uniform(seed, index)` of each branch, for `count` indices from its `first` on."""
    index = np.asarray(first, dtype=np.uint64)[None] + np.arange(1, count + 1, dtype=np.uint64)[:, None]
    z = np.asarray(seeds, dtype=np.uint64)[None] + index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers: NDArray[np.float64] = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How each row of a burst is sampled, as far as a device can do it alone: see `is_simple`."""

    temperature: NDArray[np.float64]
    """(N,), as are the next three."""
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]
    scored: NDArray[np.bool_]
    """(N,): are log-probability and certainty asked for?"""
    uniform: NDArray[np.float64]
    """(S, N): of each step."""

    @staticmethod
    def of(params: Sequence[SamplingParams], seeds: Sequence[int], first: Sequence[int], steps: int) -> Draws:
        """For rows that have sampled `first` tokens so far."""
        return Draws(
            temperature=np.array([p.temperature for p in params], dtype=np.float64),
            top_k=np.array([p.top_k for p in params], dtype=np.int64),
            top_p=np.array([p.top_p for p in params], dtype=np.float64),
            min_p=np.array([p.min_p for p in params], dtype=np.float64),
            scored=np.array([is_scored(p) for p in params]),
            uniform=uniforms(seeds, first, steps),
        )


@dataclass(slots=True)
class Draw:
    """One row to sample."""

    params: SamplingParams
    uniform: float
    seen: set[int] | None = None
    """Tokens of the view, for the repetition penalty."""
    forced: int | None = None
    """The token to take, whatever the logits say."""
    allowed: Tensor | None = None
    """(V,) bool: the tokens that the constraint allows; None: all."""


@dataclass(slots=True)
class Drawn:
    token: int
    """Or `NO_TOKEN` or `NONE_ALLOWED`."""
    logprob: float | None = None
    top: dict[int, float] | None = None
    certainty: float | None = None
    """KL(uniform || p) in nats, of the logits as they are."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the S steps of a burst sampled for N rows."""

    tokens: Tensor
    """(S, N) int64."""
    scores: NDArray[np.float64] | None = None
    """(2, S, N): log-probabilities and certainties of the rows that are scored; None: the model tells none."""

    def rows(self, params: Sequence[SamplingParams]) -> list[list[Drawn]]:
        """What each row, sampled by its `params`, got in each step."""
        rows = [list(map(Drawn, tokens)) for tokens in self.tokens.T.tolist()]
        if self.scores is not None:
            for i, wanted in enumerate(params):
                if is_scored(wanted):
                    logprobs, certainties = self.scores[:, :, i].tolist()
                    for one, logprob, certainty in zip(rows[i], logprobs, certainties, strict=True):
                        one.logprob = None if wanted.logprobs is None else logprob
                        one.certainty = certainty if wanted.certainty else None
        return rows


def greedy(logits: Tensor) -> list[Drawn]:
    """The likeliest token of each row of `logits` (M, V)."""
    return list(map(Drawn, _likeliest(logits)))


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[Drawn]:
    """One token for each row of `logits` (M, V), float32, by `draws[row]`. A row's result does not depend on others."""
    return [_score(row, draw.params, choose(row, draw)) for row, draw in zip(logits, draws, strict=True)]


def choose(row: Tensor, draw: Draw) -> int:
    """The token for one row of logits (V,), or `NO_TOKEN` or `NONE_ALLOWED`."""
    (likeliest,) = _likeliest(row[None])
    if likeliest == NO_TOKEN:
        return NO_TOKEN
    if draw.forced is not None:
        return draw.forced
    return likeliest if is_greedy(draw.params) else _draw(row, draw)


def _score(row: Tensor, params: SamplingParams, token: int) -> Drawn:
    drawn = Drawn(token)
    if token < 0 or not is_scored(params):
        return drawn
    total = _log_sum(row)
    if params.logprobs is not None:
        drawn.logprob = float(row[token]) - total
    if params.logprobs:
        values, ids = row.double().topk(params.logprobs)
        drawn.top = dict(zip(ids.tolist(), (values - total).tolist(), strict=True))
    if params.certainty:
        drawn.certainty = certainty(row)
    return drawn


def certainty(row: Tensor) -> float:
    """KL(uniform || softmax) of logits (V,), in nats: the log-probability of a token drawn uniformly, its sign turned,
    less log V."""
    return _log_sum(row) - float(row.numpy().mean(dtype=np.float64)) - math.log(len(row))


def _log_sum(row: Tensor) -> float:
    """Of exp(logit). By numpy in double precision: how torch adds up depends on the number of rows and of threads."""
    exact = row.numpy().astype(np.float64)
    top = float(exact.max())
    return top + math.log(np.exp(exact - top).sum())


def is_simple(p: SamplingParams) -> bool:
    """Are the logits taken as they are?"""
    return not p.logit_bias and not p.forbidden_ids and p.repetition_penalty == 1.0 and p.constraint is None


def is_scored(p: SamplingParams) -> bool:
    """Is more than the token asked for that its logits tell?"""
    return p.logprobs is not None or p.certainty


def is_greedy(p: SamplingParams) -> bool:
    """Does the likeliest token win, with the logits as they are?"""
    return p.temperature == 0 and is_simple(p)


def _likeliest(logits: Tensor) -> list[int]:
    """Of each row; `NO_TOKEN` where one logit is NaN or +inf, or all are -inf: the largest is then not finite."""
    values, tokens = logits.max(dim=-1)
    return tokens.where(values.isfinite(), NO_TOKEN).tolist()


def adjusted(
    row: Tensor, params: SamplingParams, seen: Collection[int] | None = None, allowed: Tensor | None = None
) -> Tensor:
    """Logits (V,) with biases and repetition penalty, without forbidden tokens and those that are not `allowed` (V,); a
    copy in double precision, where nothing that `SamplingParams` allows overflows. `seen`: tokens of the view."""
    row = row.to(torch.float64, copy=True)
    for token, bias in params.logit_bias.items():
        row[token] += bias
    if seen and params.repetition_penalty != 1.0:
        ids = torch.tensor(sorted(seen), device=row.device)
        values = row[ids]
        row[ids] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.forbidden_ids:
        row[list(params.forbidden_ids)] = -torch.inf
    return row if allowed is None else row.masked_fill(~allowed.to(row.device), -torch.inf)


def weights(row: Tensor, params: SamplingParams) -> Tensor:
    """What the tokens (V,) of an `adjusted` row are drawn by: their probabilities by temperature, but 0 where top-k,
    top-p and min-p, in this order, leave one out. Their sum is not brought back to 1. Among equals top-p keeps those
    with the lowest ids; top-k keeps all that are equal to the k-th."""
    scaled = row / params.temperature
    if 0 < params.top_k < scaled.numel():
        scaled[scaled < scaled.topk(params.top_k).values[-1]] = -torch.inf
    probs = scaled.softmax(-1)
    if params.top_p < 1:
        ordered, ids = probs.sort(descending=True, stable=True)
        cumulative = ordered.cumsum(-1)  # one after the other, whatever the number of threads
        probs[ids[cumulative - ordered >= params.top_p * cumulative[-1]]] = 0.0
    if params.min_p > 0:
        probs = torch.where(probs >= params.min_p * probs.max(), probs, 0.0)
    return probs


def _draw(row: Tensor, draw: Draw) -> int:
    row = adjusted(row, draw.params, draw.seen, draw.allowed)
    top = row.max(dim=-1)
    if top.values == -torch.inf:  # the model itself rules out what is not forbidden
        return NO_TOKEN if draw.allowed is None else NONE_ALLOWED
    if draw.params.temperature == 0:
        return int(top.indices)
    # Double precision and id order: the inverse of the cumulative distribution then moves only with the model.
    probs = weights(row, draw.params)
    cumulative = probs.cumsum(-1)
    index = int(torch.searchsorted(cumulative, draw.uniform * float(cumulative[-1]), right=True))
    if index >= probs.numel():  # rounding at the very end of the distribution
        return int(probs.nonzero()[-1])
    return index
