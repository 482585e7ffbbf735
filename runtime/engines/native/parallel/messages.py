"""What rank 0 tells the other ranks, pickled: `Start` once, then a `Forward` for each pass. They answer in lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .....attention import AttentionPlan, Impl
from .sharding import Shard

READY = "ready "
"""Before the bytes that are free on the rank's device, once its weights are loaded. A line without it says why the rank
ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a rank loads, and how it runs."""

    path: Path
    shard: Shard
    device: torch.device
    dtype: torch.dtype
    impl: Impl
    num_threads: int
    """Of compiled kernels."""
    torch_threads: int
    """As on rank 0: what every rank works out for itself must come out the same to the last bit."""
    port: int
    """Of the store in which the ranks find each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The arguments of `Model.forward`."""

    arrays: tuple[NDArray[Any] | None, ...]
    """Tokens, positions, slots, and rows that need logits."""
    plan: AttentionPlan
    pool: tuple[int, int, int]
    """Which one of all that the engine has had, its blocks, and their size."""

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: tuple[int, int, int],
        logit_rows: Tensor | None,
    ) -> Forward:
        tensors = (tokens, positions, slots, logit_rows)
        return cls(
            arrays=tuple(None if tensor is None else tensor.cpu().numpy() for tensor in tensors),
            plan=replace(plan),  # without what was derived from it
            pool=pool,
        )
