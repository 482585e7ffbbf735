"""`sample`: tokens for rows of logits, by the compiled kernel (csrc/sampling.h) where it can, else by plain torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import sampling
from .draw import draw_rows
from .kernels import SampleArguments, kernel_library
from .sampling import Decoded, Draw, Drawn, Draws, is_scored, is_simple


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[Drawn]:
    """One token for each row of `logits` (M, V), float32, by `draws[row]`. A row's result does not depend on others."""
    library = kernel_library() if logits.device.type == "cpu" else None
    if library is None:
        return sampling.sample(logits, draws)
    bent = {i: sampling.choose(logits[i], draw) for i, draw in enumerate(draws) if not _is_plain(draw)}
    found = {i: Drawn(token) for i, token in bent.items()}
    # The kernel scores these too, so that log-probabilities are the same whatever a text is under.
    rows = [i for i, draw in enumerate(draws) if i not in bent or (bent[i] >= 0 and is_scored(draw.params))]
    if rows:
        some = logits if len(rows) == len(draws) else logits[rows]
        taken = [bent.get(i, draws[i].forced) for i in rows]
        found.update(zip(rows, _sample(library, some, [draws[i] for i in rows], taken), strict=True))
    return [found[i] for i in range(len(draws))]


def _is_plain(draw: Draw) -> bool:
    """Are the logits taken as they are?"""
    return draw.forced is not None or (draw.allowed is None and is_simple(draw.params))


def sample_rows(logits: Tensor, draws: Draws) -> Decoded:
    """A token for each row of `logits` (N, V), as `draws` has it for its first step."""
    library = kernel_library() if logits.device.type == "cpu" else None
    if library is None:
        return Decoded(draw_rows(logits, draws, 0)[None])
    rows, width = logits.shape
    tokens, numbers = torch.empty(1, rows, dtype=torch.int64), np.empty((3, 1, rows))
    arguments = burst_arguments(draws, numbers)
    arguments.logits, arguments.stride, arguments.tokens = logits.data_ptr(), logits.stride(0), tokens.data_ptr()
    arguments.rows, arguments.vocabulary = rows, width
    library.plait_sample(ctypes.addressof(arguments))
    return Decoded(tokens, numbers[1:])


def burst_arguments(draws: Draws, numbers: NDArray[np.float64]) -> Any:
    """Of rows in the first of their steps, without logits and tokens. What they point to belongs to `draws` and to
    `numbers` (3, S, N), where logarithms of sums, log-probabilities and certainties go."""
    sums, logprobs, certainties = (part.ctypes.data for part in numbers)
    return SampleArguments(
        temperature=draws.temperature.ctypes.data, top_p=draws.top_p.ctypes.data, min_p=draws.min_p.ctypes.data,
        uniform=draws.uniform.ctypes.data, top_k=draws.top_k.ctypes.data, scored=draws.scored.ctypes.data,
        sums=sums, logprobs=logprobs, certainties=certainties,
    )  # fmt: skip


def _sample(library: ctypes.CDLL, logits: Tensor, draws: Sequence[Draw], taken: Sequence[int | None]) -> list[Drawn]:
    """`taken`: the token of each row that the kernel does not choose."""
    assert logits.dtype == torch.float32 and logits.stride(1) == 1
    rows, params = len(draws), [draw.params for draw in draws]
    temperature, top_p, min_p, uniform = np.array(
        [(p.temperature, p.top_p, p.min_p, draw.uniform) for p, draw in zip(params, draws, strict=True)]
    ).T.copy()
    top_k = np.array([p.top_k for p in params], dtype=np.int64)
    forced = np.array([-1 if token is None else token for token in taken], dtype=np.int64)
    scored = np.array([is_scored(p) for p in params])
    tokens, (sums, logprobs, certainties) = np.empty(rows, dtype=np.int64), np.empty((3, rows))
    arguments = SampleArguments(
        logits=logits.data_ptr(), stride=logits.stride(0), rows=rows, vocabulary=logits.shape[1],
        temperature=temperature.ctypes.data, top_p=top_p.ctypes.data, min_p=min_p.ctypes.data,
        uniform=uniform.ctypes.data, top_k=top_k.ctypes.data, forced=forced.ctypes.data, scored=scored.ctypes.data,
        tokens=tokens.ctypes.data, sums=sums.ctypes.data, logprobs=logprobs.ctypes.data,
        certainties=certainties.ctypes.data,
    )  # fmt: skip
    library.plait_sample(ctypes.addressof(arguments))
    found = [Drawn(token) for token in tokens.tolist()]
    for i in scored.nonzero()[0].tolist():
        wanted, drawn = params[i], found[i]
        if drawn.token < 0:
            continue
        if wanted.certainty:
            drawn.certainty = float(certainties[i])
        if wanted.logprobs is not None:
            drawn.logprob = float(logprobs[i])
        if wanted.logprobs:
            values, ids = logits[i].double().topk(wanted.logprobs)
            drawn.top = dict(zip(ids.tolist(), (values - sums[i]).tolist(), strict=True))
    return found
