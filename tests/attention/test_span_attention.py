"""The fast implementations against the float64 reference, and what every implementation must do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from plait.attention import Group, span_attention
from plait.attention.span import Impl
from plait.tests.attention.scenes import Scene, make_plan, make_pools, scenes

FAST: list[Impl] = ["torch", "cpu"]
ALL: list[Impl] = ["reference", *FAST]


def assert_close(scene: Scene, impl: Impl, *, rounds: bool) -> None:
    """`rounds`: does the implementation round queries and weights to bfloat16 where the pools hold it or 8 bits?"""
    expected, expected_lse = scene.run("reference")
    out, lse = scene.run(impl)
    # A bfloat16 result is rounded once, from a float32 one.
    rtol, atol = (1e-5, 2e-5) if scene.q.dtype == torch.float32 else (8e-3, 1e-4)
    lse_atol = 2e-5
    if rounds and scene.k_pool.dtype != torch.float32:  # test_bfloat16.py is stricter
        rtol = atol = lse_atol = 2e-2
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=lse_atol)


@pytest.mark.parametrize("impl", FAST)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_equals_the_reference_on_random_views(impl: Impl, scene: Scene) -> None:
    assert_close(scene, impl, rounds=impl == "cpu")


GOLDEN = [
    # T, S, out, from specs: prefix score 1 value 1, query token score .5 value 2, contexts 2, 0, 1 values 10, 20, 30
    (1.0, 1.0, 11.726169),
    (0.9, 0.9, 10.451821),
    (0.5, 1.0, 8.555386),
    (0.5, 0.8, 7.449184),
    (0.2, 1.0, 6.884207),
]
NEGATIVE = [(1.0, 1.0, 1.594393), (0.9, 0.9, 1.628814), (0.5, 0.8, 1.595198)]


@pytest.mark.parametrize("impl", ALL)
@pytest.mark.parametrize(
    ("scores", "temperature", "strength", "expected"),
    [((2.0, 0.0, 1.0), *line) for line in GOLDEN] + [((-3.0, -4.0, -5.0), *line) for line in NEGATIVE],
)
def test_golden_ape_values(
    impl: Impl, scores: tuple[float, ...], temperature: float, strength: float, expected: float
) -> None:
    q = torch.zeros(1, 1, 32)
    q[0, 0, 0] = 1.0
    k_pool, v_pool = torch.zeros(5, 1, 32, 16), torch.zeros(5, 1, 16, 32)
    for block, (score, value) in enumerate(zip((1.0, 0.5, *scores), (1.0, 2.0, 10.0, 20.0, 30.0), strict=True)):
        k_pool[block, 0, 0, 0], v_pool[block, 0, 0] = score, value
    groups = (Group(), Group(temperature=temperature, factor=strength * temperature))
    entries = [(0, 1, run, 0, 1, 0, 0, int(run >= 2)) for run in range(5)]
    plan = make_plan(1, [[block] for block in range(5)], entries, groups)
    out = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl=impl)
    assert out[0, 0].tolist() == pytest.approx([expected] * 32, abs=2e-5)


@pytest.mark.parametrize("impl", ALL)
def test_an_empty_group_stays_out_even_with_factor_zero(impl: Impl) -> None:
    k_pool, v_pool = make_pools(2, 2, 48)
    q = torch.randn(2, 4, 48)
    groups = (Group(), Group(factor=0.0))
    with_empty = make_plan(2, [[0], [1]], [(0, 2, 0, 0, 9, 0, 0, 0), (0, 2, 1, 5, 5, 0, 0, 1)], groups)
    without = make_plan(2, [[0]], [(0, 2, 0, 0, 9, 0, 0, 0)])
    expected = span_attention(q, k_pool, v_pool, without, scale=0.2, impl=impl)
    assert torch.equal(span_attention(q, k_pool, v_pool, with_empty, scale=0.2, impl=impl), expected)


@pytest.mark.parametrize("impl", ALL)
def test_a_factor_of_zero_weighs_a_group_like_one_key_of_score_zero(impl: Impl) -> None:
    k_pool, v_pool = torch.zeros(2, 1, 32, 16), torch.zeros(2, 1, 16, 32)
    v_pool[1] = 3.0
    plan = make_plan(1, [[0], [1]], [(0, 1, 0, 0, 1, 0, 0, 0), (0, 1, 1, 0, 16, 0, 0, 1)], (Group(), Group(factor=0.0)))
    out = span_attention(torch.ones(1, 1, 32), k_pool, v_pool, plan, scale=1.0, impl=impl)
    assert out[0, 0, 0].item() == pytest.approx(1.5)


@pytest.mark.parametrize("impl", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_see_nothing_get_zeros(impl: Impl, dtype: torch.dtype) -> None:
    k_pool, v_pool = make_pools(1, 1, 32, dtype=dtype)
    q = torch.randn(3, 2, 32).to(dtype)
    plan = make_plan(3, [[0]], [(0, 1, 0, 4, 4, 0, 0, 0), (1, 1, 0, 0, 4, 0, 0, 0)])
    out, lse = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl=impl, return_lse=True)
    assert out[[0, 2]].eq(0).all() and lse[[0, 2]].eq(float("-inf")).all()
    assert out[1].ne(0).any() and lse[1].isfinite().all()
    nothing = make_plan(3, [], [])
    assert span_attention(q, k_pool, v_pool, nothing, scale=1.0, impl=impl).eq(0).all()


@pytest.mark.parametrize("impl", FAST)
def test_a_shift_moves_the_keys(impl: Impl) -> None:
    """Keys written at positions 0.. and read with shift 7 act like keys written at 7.."""
    from plait.attention.reference import rotate

    size, inv_freq = 48, 10000.0 ** -(torch.arange(24, dtype=torch.float64) / 24)
    keys, q = torch.randn(16, size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    _, v_pool = make_pools(1, 1, size)
    at = torch.arange(16, dtype=torch.float64)[:, None]
    plans = [make_plan(1, [[0]], [(0, 1, 0, 0, 16, 0, shift, 0)]) for shift in (7, 0)]
    outs = []
    for plan, offset in zip(plans, (0, 7), strict=True):
        k_pool = rotate(keys, (at + offset) * inv_freq).T.float().contiguous().reshape(1, 1, size, 16)
        query = rotate(q, 30 * inv_freq).float().reshape(1, 1, size)
        outs.append(span_attention(query, k_pool, v_pool, plan, scale=0.2, inv_freq=inv_freq.float(), impl=impl))
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_scores_stay_finite_and_exact(impl: Impl, sign: float) -> None:
    k_pool, v_pool = make_pools(4, 1, 32)
    q = torch.ones(1, 1, 32)
    k_pool[:] = sign * 1e4 / 32
    k_pool[2, 0, :, 3] += 100.0  # one key wins by far
    plan = make_plan(1, [[0, 1], [2, 3]], [(0, 1, 0, 0, 32, 0, 0, 0), (0, 1, 1, 0, 32, 0, 0, 0)])
    out, lse = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl=impl, return_lse=True)
    torch.testing.assert_close(out[0, 0], v_pool[2, 0, 3])
    assert lse[0, 0].item() == pytest.approx(sign * 1e4 + 3200.0, rel=1e-6)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_token_is_seen_with_a_weight_of_exactly_one(impl: Impl, dtype: torch.dtype) -> None:
    k_pool, v_pool = make_pools(1, 1, 48, dtype=dtype)
    q = torch.randn(1, 3, 48)
    plan = make_plan(1, [[0]], [(0, 1, 0, 5, 6, 0, 0, 0)])
    out = span_attention(q, k_pool, v_pool, plan, scale=0.1443, impl=impl)
    assert torch.equal(out[0], v_pool[0, :, 5].float().expand(3, 48))


@pytest.mark.parametrize("impl", FAST)
def test_the_order_of_entries_does_not_matter(impl: Impl) -> None:
    k_pool, v_pool = make_pools(40, 2, 48)
    q = torch.randn(3, 4, 48)
    runs = [list(range(0, 20)), list(range(20, 30)), list(range(30, 40))]
    entries = [(0, 3, 0, 0, 320, 0, 0, 1), (0, 3, 1, 0, 150, 0, 0, 1), (0, 3, 2, 0, 99, 1, 0, 0)]
    groups = (Group(), Group(temperature=0.9, factor=0.81))
    out, back = (
        span_attention(q, k_pool, v_pool, make_plan(3, runs, order, groups), scale=0.15, impl=impl)
        for order in (entries, entries[::-1])
    )
    torch.testing.assert_close(out, back, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", FAST)
def test_writes_into_the_given_tensor(impl: Impl) -> None:
    k_pool, v_pool = make_pools(2, 2, 48)
    q, out = torch.randn(2, 4, 48), torch.empty(2, 4, 48)
    plan = make_plan(2, [[0, 1]], [(0, 2, 0, 0, 20, 1, 0, 0)])
    assert span_attention(q, k_pool, v_pool, plan, scale=0.2, impl=impl, out=out) is out
    assert torch.equal(out, span_attention(q, k_pool, v_pool, plan, scale=0.2, impl=impl))


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((0, 3, 0, 0, 4, 0, 0, 0), "rows"),
        ((0, 1, 1, 0, 4, 0, 0, 0), "runs"),
        ((0, 1, 0, 0, 17, 0, 0, 0), "inside the blocks"),
        ((0, 1, 0, -1, 4, 0, 0, 0), "inside the blocks"),
        ((0, 1, 0, 0, 4, 0, 0, 1), "groups"),
        ((0, 1, 0, 0, 4, 0, 5, 0), "inv_freq"),
    ],
)
def test_a_plan_that_points_outside_is_refused(impl: Impl, entry: tuple[int, ...], message: str) -> None:
    k_pool, v_pool = make_pools(1, 1, 32)
    with pytest.raises(ValueError, match=message):
        span_attention(torch.randn(2, 1, 32), k_pool, v_pool, make_plan(2, [[0]], [entry]), scale=1.0, impl=impl)


@pytest.mark.parametrize("impl", FAST)
def test_a_run_beyond_the_pool_is_refused(impl: Impl) -> None:
    k_pool, v_pool = make_pools(1, 1, 32)
    plan = make_plan(1, [[1]], [(0, 1, 0, 0, 4, 0, 0, 0)])
    with pytest.raises(ValueError, match="blocks 0 .. 0 of the pool"):
        span_attention(torch.randn(1, 1, 32), k_pool, v_pool, plan, scale=1.0, impl=impl)
