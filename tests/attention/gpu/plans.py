"""Random plans for the tests of schedules: who sees what, without pools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from plait.attention import AttentionPlan, Group


@dataclass
class Case:
    plan: AttentionPlan
    block_size: int
    positions: np.ndarray
    """(N,) of the rows."""


@st.composite
def cases(draw: st.DrawFn, *, is_decoding: bool = False, ahead: int = 0) -> Case:
    """Branches of one to many rows, with spans of shared runs (frozen, live, shifted, short, empty) and an own run,
    which has blocks for `ahead` tokens more. `is_decoding`: each has one row, and the own run is causal."""
    block_size = draw(st.sampled_from([16, 32, 64]))
    groups = tuple(Group(temperature=t) for t in draw(st.sampled_from([[1.0], [1.0, 0.5], [1.0, 0.5, 0.25]])))
    length = st.sampled_from([1100, 600, 256, 257, 129, 128, 64, 63, 17, 1, 0]) | st.integers(0, 700)
    rows = st.just(1) if is_decoding else st.sampled_from([1, 1, 1, 2, 9, 40])
    shared = draw(st.lists(length, min_size=0, max_size=4))
    branches = draw(st.lists(st.tuples(rows, length), min_size=0, max_size=6))
    capacity = shared + [count + before + ahead for count, before in branches]
    entries: list[tuple[int, ...]] = []
    positions: list[int] = []
    prefills: list[bool] = []
    row = 0
    for i, (count, before) in enumerate(branches):
        own, of_row = len(shared) + i, []
        for run in [r for r in range(len(shared) + i) if draw(st.sampled_from([True, True, False]))]:
            end = draw(st.sampled_from([1, 2, 3])) * capacity[run] // 3
            begin = draw(st.sampled_from([0, 0, end // 2, min(5, end), end]))
            shift, group = draw(st.sampled_from([0, 0, 7])), draw(st.integers(0, len(groups) - 1))
            of_row.append((row, count, run, begin, end, 0, shift, group))
        if is_decoding or draw(st.sampled_from([True, True, True, False])):
            begin = draw(st.sampled_from([0, 0, min(3, before)]))
            of_row.append((row, count, own, begin, before + count, 1, 0, 0))
        entries += draw(st.permutations(of_row))
        first = draw(st.integers(0, 500)) + before
        positions += range(first, first + count)
        prefills += [count > 1 or draw(st.booleans()) and not is_decoding] * count
        row += count
    counts = [-(-tokens // block_size) for tokens in capacity]
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(sum(counts))
    plan = AttentionPlan(
        num_rows=row,
        run_blocks=order.astype(np.int32),
        run_start=np.cumsum([0, *counts]).astype(np.int32),
        entries=np.array(entries, dtype=np.int32).reshape(-1, 8),
        groups=groups,
        run_position=np.array([draw(st.integers(0, 300)) for _ in counts], dtype=np.int32),
        is_prefill=np.array(prefills, dtype=np.bool_) if is_decoding or draw(st.booleans()) else None,
    )
    return Case(plan, block_size, np.array(positions, dtype=np.int64))
