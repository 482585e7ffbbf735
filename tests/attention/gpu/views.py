"""Views by name, small enough for Triton's interpreter, for the tests of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plait.attention import AttentionPlan, Group
from plait.tests.attention.scenes import make_plan, make_pools


@dataclass(frozen=True)
class View:
    runs: Sequence[int]
    """Tokens of each."""
    entries: Sequence[tuple[int, ...]]
    rows: int
    groups: tuple[Group, ...] = (Group(),)


APE = (Group(), Group(temperature=0.5, factor=0.4), Group(temperature=2.0, factor=1.2, bias=-0.5))
VIEWS = {
    "shared prefix and own": View(
        (150, 20, 70, 1),
        [(0, 3, 0, 0, 150, 0, 0, 0), (0, 1, 1, 0, 20, 1, 0, 0), (1, 1, 2, 0, 70, 1, 0, 0), (2, 1, 3, 0, 1, 1, 0, 0)],
        3,
    ),
    "causal prefill": View((70, 80), [(0, 9, 0, 0, 70, 0, 0, 0), (0, 9, 1, 0, 80, 1, 0, 0)], 9),
    "live views with different ends": View(
        (130, 90, 66),
        [(0, 1, 1, 0, 90, 0, 0, 0), (0, 1, 2, 0, 64, 0, 0, 0), (0, 1, 0, 0, 130, 1, 0, 0), (1, 1, 0, 0, 129, 0, 0, 0),
         (1, 1, 2, 0, 66, 0, 0, 0), (1, 1, 1, 0, 90, 1, 0, 0), (2, 1, 0, 0, 65, 0, 0, 0), (2, 1, 2, 0, 66, 1, 0, 0)],
        3,
    ),
    "shifts": View(
        (140, 75, 33),
        [(0, 2, 0, 0, 140, 0, 7, 0), (0, 1, 1, 0, 75, 0, -300, 0), (1, 1, 1, 0, 75, 0, 123_457, 0),
         (2, 1, 1, 0, 70, 0, 0, 0), (0, 1, 2, 0, 33, 1, 0, 0)],
        3,
    ),
    "groups": View(
        (140, 75, 33, 20),
        [(0, 2, 0, 0, 140, 0, 0, 1), (0, 2, 1, 0, 75, 0, 3, 2), (0, 1, 2, 0, 33, 0, 0, 1), (1, 1, 3, 0, 20, 1, 0, 0)],
        3,
        APE,
    ),
    "short spans": View(
        (40, 17, 90, 64, 5, 30),
        [(0, 1, 0, 3, 40, 0, 0, 0), (0, 1, 1, 0, 17, 0, 0, 0), (0, 2, 2, 20, 90, 0, 0, 0), (0, 2, 3, 0, 63, 0, 0, 0),
         (0, 1, 4, 0, 5, 0, 0, 0), (1, 1, 5, 0, 30, 1, 0, 0)],
        2,
    ),
    "begins inside tiles": View(
        (200, 70),
        [(0, 1, 0, 10, 200, 0, 0, 0), (1, 1, 0, 70, 190, 0, 0, 0), (2, 1, 0, 0, 200, 0, 0, 0),
         (2, 1, 1, 5, 70, 1, 0, 0)],
        3,
    ),
    "several chunks": View((700, 300), [(0, 2, 0, 0, 700, 0, 0, 0), (0, 1, 1, 100, 300, 1, 0, 0)], 2),
    "rows that see nothing": View((30,), [(1, 1, 0, 0, 30, 0, 0, 0), (2, 1, 0, 9, 9, 0, 0, 0)], 4),
}  # fmt: skip


@dataclass
class Call:
    q: Tensor
    k_pool: Tensor
    v_pool: Tensor
    plan: AttentionPlan
    inv_freq: Tensor


def make_call(
    view: View, device: torch.device, *, heads: int = 4, kv_heads: int = 2, size: int = 32, block_size: int = 16,
    dtype: torch.dtype = torch.float32, rotary: int | None = None,
) -> Call:  # fmt: skip
    """The view over shuffled blocks of a pool in which all that no row sees is NaN."""
    counts = [-(-tokens // block_size) for tokens in view.runs]
    order = np.random.default_rng(0).permutation(sum(counts) + 1).tolist()
    runs = [[order.pop() for _ in range(count)] for count in counts]
    plan = make_plan(view.rows, runs, view.entries, view.groups)
    k_pool, v_pool = make_pools(sum(counts) + 1, kv_heads, size, block_size, dtype)
    seen = torch.zeros(len(k_pool), block_size, dtype=torch.bool)
    for _, run, begin, end, _, _ in plan.row_entries().tolist():
        token = np.arange(begin, end)
        seen[np.array(runs[run])[token // block_size], token % block_size] = True
    k_pool.masked_fill_(~seen[:, None, None, :], torch.nan)
    v_pool.masked_fill_(~seen[:, None, :, None], torch.nan)
    q = torch.randn(view.rows, heads, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    pairs = size // 2 if rotary is None else rotary
    inv_freq = 10000.0 ** -(torch.arange(pairs, dtype=torch.float32) / pairs)
    return Call(q.to(device), k_pool.to(device), v_pool.to(device), plan, inv_freq.to(device))
