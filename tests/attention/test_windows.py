"""Sliding windows as plans, and capped scores, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.attention import AttentionPlan, int8, span_attention
from plait.attention.span import Impl
from plait.tests.attention.scenes import Scene, make_plan, make_pools, scenes

Key = tuple[int, int, int, int, int]


@st.composite
def _plans(draw: st.DrawFn) -> tuple[AttentionPlan, np.ndarray]:
    """Chunks of rows that see random ranges of random runs, and the rows' positions."""
    runs = draw(st.integers(1, 4))
    entries: list[tuple[int, ...]] = []
    positions: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        row, rows = len(positions), draw(st.integers(1, 6))
        start = draw(st.integers(-3, 30))
        positions += range(start, start + rows)
        for _ in range(draw(st.integers(0, 4))):
            begin, end = draw(st.integers(0, 20)), draw(st.integers(0, 32))
            run, shift = draw(st.integers(0, runs - 1)), draw(st.sampled_from([0, 0, 3, -7, 40]))
            entries.append((row, rows, run, begin, end, draw(st.integers(0, 1)), shift, 0))
    plan = make_plan(len(positions), [[0, 1]] * runs, entries)
    starts = draw(st.none() | st.lists(st.integers(-5, 25), min_size=runs, max_size=runs))
    if starts is not None:
        plan = AttentionPlan(
            num_rows=plan.num_rows,
            run_blocks=plan.run_blocks,
            run_start=plan.run_start,
            entries=plan.entries,
            run_position=np.array(starts, dtype=np.int32),
        )
    return plan, np.array(positions, dtype=np.float32)


def _keys(plan: AttentionPlan) -> list[tuple[Key, int]]:
    """(row, run, token, shift, group) of everything that is seen, in order, with the position it is seen at."""
    starts = plan.run_position
    return [
        ((row, run, token, shift, group), (0 if starts is None else int(starts[run])) + token + shift)
        for row, run, begin, end, shift, group in plan.row_entries().tolist()
        for token in range(begin, end)
    ]


@settings(max_examples=300, deadline=None)
@given(case=_plans(), window=st.integers(1, 40))
def test_a_window_shows_what_its_definition_says(case: tuple[AttentionPlan, np.ndarray], window: int) -> None:
    plan, positions = case
    seen = _keys(plan)
    expected = [key for key, position in seen if position > positions[key[0]] - window]
    narrow = plan.within(positions, window)
    assert sorted(key for key, _ in _keys(narrow)) == sorted(expected)
    by_row = [[key for key in expected if key[0] == row] for row in range(plan.num_rows)]
    assert [[key for key, _ in _keys(narrow) if key[0] == row] for row in range(plan.num_rows)] == by_row
    assert plan.farthest(positions) == max([0, *(int(positions[key[0]]) - position for key, position in seen)])
    assert (narrow is plan) == (plan.farthest(positions) < window)
    assert plan.within(positions, window) is narrow


@pytest.mark.parametrize(("window", "first"), [(4, 7), (10, 1), (11, 0), (12, 0), (1, 10)])
def test_the_edges_of_a_window(window: int, first: int) -> None:
    """The row at position 10 sees the keys first .. 10: transformers' `key > query - window`."""
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 11, 1, 0, 0)])
    narrow = plan.within(np.array([10]), window)
    assert narrow.row_entries()[0, 2:4].tolist() == [first, 11]


def test_run_positions_are_checked() -> None:
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 4, 1, 0, 0)])
    arrays: list[Any] = [np.zeros(2, dtype=np.int32), np.zeros(1, dtype=np.int64)]
    for wrong in arrays:
        with pytest.raises(ValueError, match="run_position"):
            AttentionPlan(
                num_rows=1,
                run_blocks=plan.run_blocks,
                run_start=plan.run_start,
                entries=plan.entries,
                run_position=wrong,
            )


def _unrounded(scene: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and pools that no implementation rounds to bfloat16."""
    if scene.k_pool.dtype == torch.int8:
        return scene.q.float(), int8.unpack_keys(scene.k_pool), int8.unpack_values(scene.v_pool)
    return scene.q.float(), scene.k_pool.float(), scene.v_pool.float()


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@settings(max_examples=40, deadline=None)
@given(scene=scenes(), window=st.sampled_from([1, 16, 60, 200]))
def test_windows_of_random_views_equal_the_reference(impl: Impl, scene: Scene, window: int) -> None:
    """Many rows with ranges of their own, in every implementation."""
    positions = np.arange(scene.plan.num_rows) + 150
    narrow = Scene(*_unrounded(scene), scene.plan.within(positions, window), scene.inv_freq, scene.scale)
    expected, expected_lse = narrow.run("reference")
    out, lse = narrow.run(impl)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), cap=st.sampled_from([0.5, 2.0, 50.0]))
def test_capped_scores_equal_the_reference(scene: Scene, cap: float) -> None:
    pools = _unrounded(scene)

    def run(impl: Impl) -> tuple[torch.Tensor, torch.Tensor]:
        return span_attention(
            *pools, scene.plan, scale=0.3, cap=cap, inv_freq=scene.inv_freq, impl=impl, return_lse=True
        )

    for got, want in zip(run("auto"), run("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_a_cap_squashes_scores(impl: Impl) -> None:
    """Two keys with scores 6 and 0, capped at 2: 2 tanh(3) and 0."""
    k_pool, v_pool = torch.zeros(1, 1, 32, 16), torch.zeros(1, 1, 16, 32)
    k_pool[0, 0, 0, 0], v_pool[0, 0, 0] = 6.0, 1.0
    q = torch.zeros(1, 1, 32)
    q[..., 0] = 1.0
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 2, 0, 0, 0)])
    expected = torch.tensor([2.0 * 0.9950547536867305, 0.0]).softmax(0)[0]
    out = span_attention(q, k_pool, v_pool, plan, scale=1.0, cap=2.0, impl=impl)
    torch.testing.assert_close(out[0, 0, 0], expected)


def test_the_kernels_refuse_a_cap() -> None:
    k_pool, v_pool = make_pools(1, 1, 32)
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 4, 0, 0, 0)])
    with pytest.raises(ValueError, match="cannot cap"):
        span_attention(torch.randn(1, 1, 32), k_pool, v_pool, plan, scale=1.0, cap=2.0, impl="cpu")
