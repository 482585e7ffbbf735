"""Random views over random pools, for the attention tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from plait.attention import AttentionPlan, Group, int8, span_attention
from plait.attention.span import Impl


@dataclass
class Scene:
    """Everything one call of `span_attention` needs."""

    q: Tensor
    k_pool: Tensor
    v_pool: Tensor
    plan: AttentionPlan
    inv_freq: Tensor | None
    scale: float

    def run(self, impl: Impl, threads: int = 1) -> tuple[Tensor, Tensor]:
        return span_attention(
            self.q, self.k_pool, self.v_pool, self.plan,
            scale=self.scale, inv_freq=self.inv_freq, impl=impl, return_lse=True, threads=threads,
        )  # fmt: skip


def make_plan(
    num_rows: int,
    runs: Sequence[Sequence[int]],
    entries: Sequence[tuple[int, ...]],
    groups: tuple[Group, ...] = (Group(),),
) -> AttentionPlan:
    """A plan from plain lists: the blocks of each run, and lines of eight numbers."""
    return AttentionPlan(
        num_rows=num_rows,
        run_blocks=np.array([block for run in runs for block in run], dtype=np.int32),
        run_start=np.cumsum([0, *map(len, runs)]).astype(np.int32),
        entries=np.array(entries, dtype=np.int32).reshape(-1, 8),
        groups=groups,
    )


def alone(plan: AttentionPlan, row: int) -> AttentionPlan:
    """The plan of one row as if it was by itself in a step."""
    entries = []
    for start, rows, run, begin, end, causal, shift, group in plan.entries.tolist():
        if start <= row < start + rows:
            stop = end - (start + rows - 1 - row) if causal else end
            entries.append((0, 1, run, begin, max(begin, stop), causal, shift, group))
    return AttentionPlan(
        num_rows=1,
        run_blocks=plan.run_blocks,
        run_start=plan.run_start,
        entries=np.array(entries, dtype=np.int32).reshape(-1, 8),
        groups=plan.groups,
        is_prefill=None if plan.is_prefill is None else plan.is_prefill[row : row + 1],
    )


def prefill(q: Tensor, k_pool: Tensor, v_pool: Tensor, step: int) -> Tensor:
    """The kernel's outputs of N tokens that are prefilled `step` at a time, each seeing those before it."""
    blocks, parts = list(range(len(k_pool))), []
    for start in range(0, len(q), step):
        rows = q[start : start + step]
        plan = make_plan(len(rows), [blocks], [(0, len(rows), 0, 0, start + len(rows), 1, 0, 0)])
        parts.append(span_attention(rows, k_pool, v_pool, plan, scale=0.1, impl="cpu"))
    return torch.cat(parts)


def make_pools(
    blocks: int, kv_heads: int, size: int, block_size: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(blocks, kv_heads, size, block_size, generator=generator)
    v = torch.randn(blocks, kv_heads, block_size, size, generator=generator)
    if dtype == torch.int8:  # with scales that differ from token to token
        return int8.pack_keys(_uneven(k.transpose(2, 3))), int8.pack_values(_uneven(v))
    return k.to(dtype), v.to(dtype)


def _uneven(x: Tensor) -> Tensor:
    return x * torch.linspace(0.25, 1, x.shape[2])[:, None]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Branches of one to many rows, each with spans of shared runs (frozen, live, shifted, empty) and an own run."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.integers(1, 8))
    size = draw(st.sampled_from([32, 40, 48, 64, 80, 96, 128]))
    block_size = draw(st.sampled_from([16, 16, 32, 48]))
    pool_dtype, q_dtype = draw(
        st.sampled_from(
            [
                (torch.float32, torch.float32),
                (torch.bfloat16, torch.bfloat16),
                (torch.bfloat16, torch.float32),
                (torch.int8, torch.float32),
                (torch.int8, torch.bfloat16),
            ]
        )
    )
    groups = tuple(
        Group(temperature=draw(st.sampled_from([1.0, 0.5])), factor=draw(st.sampled_from([1.0, 0.8, 0.0])),
              bias=draw(st.sampled_from([0.0, -0.5])))
        for _ in range(draw(st.integers(1, 3)))
    )  # fmt: skip
    # Sizes around the borders of blocks, panels and chunks, and not mostly small ones.
    length = st.sampled_from([300, 129, 128, 127, 65, 31, 17, 16, 15, 1, 0]) | st.integers(0, 330)
    branch = st.tuples(st.sampled_from([1, 1, 1, 2, 7, 8, 9, 40]), st.sampled_from([0, 1, 16, 40, 130]))
    lengths = [draw(length) for _ in range(draw(st.sampled_from([1, 2, 3, 4])))]
    branches = [draw(branch) for _ in range(draw(st.sampled_from([6, 5, 3, 2, 1])))]
    shifts = draw(st.booleans())
    shift = st.integers(-500, 3000) if shifts else st.just(0)
    entries: list[tuple[int, ...]] = []
    row = 0
    capacity = lengths + [rows + before for rows, before in branches]
    for i, (rows, before) in enumerate(branches):
        own = len(lengths) + i
        for run, tokens in enumerate(lengths):
            if draw(st.sampled_from([True, True, False])):
                end = draw(st.sampled_from([tokens, tokens, tokens * 2 // 3]))
                begin = draw(st.sampled_from([0, 0, end // 2, end]))
                entries.append((row, rows, run, begin, end, 0, draw(shift), draw(st.integers(0, len(groups) - 1))))
        for other in range(i):  # live spans of the other branches' own runs, up to this step's tokens
            if draw(st.sampled_from([False, False, True])):
                run, group = len(lengths) + other, draw(st.integers(0, len(groups) - 1))
                entries.append((row, rows, run, 0, capacity[run], 0, draw(shift), group))
        if draw(st.sampled_from([True, True, True, False])):
            begin = draw(st.sampled_from([0, 0, min(3, before)]))
            entries.append((row, rows, own, begin, before + rows, 1, draw(shift), 0))
        row += rows
    counts = [-(-tokens // block_size) for tokens in capacity]
    total = sum(counts) + 2
    seed = draw(st.integers(0, 2**16))
    order = np.random.default_rng(seed).permutation(total)
    runs, used = [], 0
    for count in counts:
        runs.append(order[used : used + count].tolist())
        used += count
    k_pool, v_pool = make_pools(total, kv_heads, size, block_size, pool_dtype, seed)
    # What no entry shows must not matter, whatever it holds.
    for blocks, tokens in zip(runs, capacity, strict=True):
        for token in range(tokens, len(blocks) * block_size):
            block, offset = blocks[token // block_size], token % block_size
            if pool_dtype == torch.int8:
                int8.key_scales(k_pool)[block, :, offset] = float("nan")
                v_pool[block, :, offset, size:] = torch.tensor([float("nan")]).view(torch.int8)
            else:
                k_pool[block, :, :, offset] = v_pool[block, :, offset] = float("nan")
    q = torch.randn(row, heads, size, generator=torch.Generator().manual_seed(seed + 1)).to(q_dtype)
    rotated = draw(st.sampled_from([size // 2, size // 4]))
    inv_freq = 10000.0 ** -(torch.arange(rotated, dtype=torch.float32) / rotated) if shifts else None
    factor = draw(st.sampled_from([1.0, 1.0, 1.0, -1.0, 0.0]))
    return Scene(q, k_pool, v_pool, make_plan(row, runs, entries, groups), inv_freq, factor * size**-0.5)
