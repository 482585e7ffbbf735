"""Pools of 8 bits: how tokens are rounded and laid out, and that every implementation writes and reads them so."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.attention import int8, rope_and_store, span_attention
from plait.attention.span import Impl
from plait.tests.attention.scenes import make_plan, make_pools
from plait.tests.attention.test_store import _expected, _tables

FAST: list[Impl] = ["torch", "cpu"]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), seed=st.integers(0, 99))
def test_rounds_to_the_nearest(size: int, magnitude: float, seed: int) -> None:
    x = magnitude * torch.randn(3, 16, size, generator=torch.Generator().manual_seed(seed))
    scale = x.abs().amax(-1, keepdim=True) / 127
    for found in (int8.unpack_keys(int8.pack_keys(x)).transpose(-1, -2), int8.unpack_values(int8.pack_values(x))):
        assert ((found - x).abs() <= 0.5001 * scale).all()
    twice = int8.pack_values(int8.unpack_values(int8.pack_values(x)))
    assert torch.equal(twice[..., :size], int8.pack_values(x)[..., :size])


@pytest.mark.parametrize("value", [0.0, math.inf, -math.inf, math.nan])
def test_rows_without_a_scale_are_nothing(value: float) -> None:
    x = torch.ones(3, 8)
    x[1] = 0.0
    x[1, 2] = value
    integers, scales = int8.quantise(x)
    assert integers[1].tolist() == [0] * 8 and (integers[[0, 2]] == 127).all()
    assert scales[1].item() == abs(value) or math.isnan(value)


def test_layout() -> None:
    """Keys are transposed, and the scales of a block are its last four rows; values have theirs behind them."""
    x = torch.zeros(16, 8)
    x[:, 0] = 127 * torch.arange(1.0, 17)  # of token t the scale is t + 1
    x[5] = torch.tensor([762.0, -762.0, 6.0, 3.0, 9.0, -3.0, 0.0, 2.9])  # ties go to even
    keys, values = int8.pack_keys(x), int8.pack_values(x)
    assert keys.shape == (12, 16) and values.shape == (16, 12)
    integers = [127, -127, 1, 0, 2, 0, 0, 0]
    assert keys[:8, 5].tolist() == integers and values[5, :8].tolist() == integers
    assert keys[8:].flatten().view(torch.float32).tolist() == list(range(1, 17))
    assert values[:, 8:].flatten().view(torch.float32).tolist() == list(range(1, 17))


def _store(k: Tensor, v: Tensor, slots: list[int], impl: Impl, threads: int = 1) -> tuple[Tensor, Tensor]:
    """Pools of two blocks of 16 whose integers and scales were 1, after keys and values (N, K, D) were written."""
    heads, size = k.shape[1:]
    ones = torch.full((2, heads, 16, size), 127.0)
    k_pool, v_pool = int8.pack_keys(ones), int8.pack_values(ones)
    cos, sin = torch.ones(len(k), size // 2), torch.zeros(len(k), size // 2)
    rope_and_store(k.clone(), k, v, cos, sin, torch.tensor(slots), k_pool, v_pool, impl=impl, threads=threads)
    return k_pool, v_pool


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_stored(impl: Impl, dtype: torch.dtype, threads: int) -> None:
    """Without a rotation: bit for bit what `quantise` says, at its slot, and nothing anywhere else."""
    k, v = torch.randn(2, 5, 3, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    v[1, 1] = 0
    slots = [0, 17, -1, 31, 5]
    k_pool, v_pool = _store(k, v, slots, impl, threads)
    whole_k, whole_v = torch.full((2, 32, 3, 40), 127.0)
    for row, slot in enumerate(slots):
        if slot >= 0:
            whole_k[slot], whole_v[slot] = k[row].float(), v[row].float()
    blocks_k, blocks_v = (x.view(2, 16, 3, 40).transpose(1, 2) for x in (whole_k, whole_v))
    assert torch.equal(k_pool, int8.pack_keys(blocks_k)) and torch.equal(v_pool, int8.pack_values(blocks_v))


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("with_norm", [False, True])
def test_half_a_step_from_what_other_pools_hold(impl: Impl, with_norm: bool) -> None:
    rows, heads, size = 9, 2, 48
    q, k, v = torch.randn(3, rows, heads, size, generator=torch.Generator().manual_seed(3))
    k = k * torch.linspace(0.1, 8, rows)[:, None, None]
    cos, sin = _tables(torch.arange(rows) * 31, 24)
    norm = torch.linspace(0.5, 2, size) if with_norm else None
    pools = make_pools(1, heads, size, dtype=torch.int8)
    expected = _expected(k, cos, sin, norm, 1e-6)
    rope_and_store(q, k, v, cos, sin, torch.arange(rows), *pools, q_norm=norm, k_norm=norm, impl=impl)
    found = int8.unpack_keys(pools[0])[0, :, :, :rows].permute(2, 0, 1), int8.unpack_values(pools[1])[0, :, :rows]
    for got, want in ((found[0], expected), (found[1].transpose(0, 1), v.double())):
        step = want.abs().amax(-1, keepdim=True) / 127
        assert ((got - want).abs() <= 0.501 * step).all()
        assert ((got - want).abs() > 0.2 * step).any()


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_comes_back_as_nan(impl: Impl, bad: float) -> None:
    k, v = torch.ones(2, 2, 1, 32)
    k[0, 0, 31] = v[0, 0, 7] = bad
    k_pool, v_pool = _store(k, v, [3, 4], impl)
    assert int8.unpack_keys(k_pool)[0, 0, :, 3].isnan().all() and int8.unpack_values(v_pool)[0, 0, 3].isnan().all()
    assert int8.unpack_keys(k_pool)[0, 0, :, 4].eq(1).all() and int8.unpack_values(v_pool)[0, 0, 4].eq(1).all()
    for begin, want in ((4, 1.0), (3, math.nan)):
        plan = make_plan(1, [[0]], [(0, 1, 0, begin, 5, 0, 0, 0)])
        out = span_attention(torch.ones(1, 1, 32), k_pool, v_pool, plan, scale=1.0, impl=impl)
        torch.testing.assert_close(out, torch.full((1, 1, 32), want), rtol=4e-3, atol=0, equal_nan=True)


def test_the_kernels_keep_a_nan_to_those_who_see_it() -> None:
    k = torch.ones(2, 1, 32)
    v = torch.full((2, 1, 32), math.nan)
    v[1] = 1
    plan = make_plan(2, [[0]], [(0, 1, 0, 1, 2, 0, 0, 0), (1, 1, 0, 0, 2, 0, 0, 0)])
    out = span_attention(torch.ones(2, 1, 32), *_store(k, v, [0, 1], "torch"), plan, scale=1.0, impl="cpu")
    assert out[0].sub(1).abs().max() < 4e-3 and out[1].isnan().all()


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("tiny", [0.0, 1e-44, 1e-38])
def test_the_smallest_numbers(impl: Impl, tiny: float) -> None:
    """Nothing divides by 0, and what a float32 scale cannot hold is 0."""
    k = torch.full((1, 1, 32), tiny)
    k_pool, v_pool = _store(k, k, [0], impl)
    for found in (int8.unpack_keys(k_pool)[0, 0, :, 0], int8.unpack_values(v_pool)[0, 0, 0]):
        torch.testing.assert_close(found, k[0, 0], rtol=0.01, atol=1e-42)


def test_clear() -> None:
    k_pool, v_pool = make_pools(2, 3, 40, 32, torch.int8)
    keys, values = int8.unpack_keys(k_pool), int8.unpack_values(v_pool)
    int8.clear(k_pool[1:], v_pool[1:], 19)
    keys[1, :, :, 19:] = 0
    values[1, :, 19:] = 0
    assert torch.equal(int8.unpack_keys(k_pool), keys) and torch.equal(int8.unpack_values(v_pool), values)
    assert not k_pool[1, :, :40, 19:].any() and not int8.key_scales(k_pool)[1, :, 19:].any()
    assert not v_pool[1, :, 19:].any()


@pytest.mark.parametrize("impl", ["reference", *FAST])
def test_pools_without_room_for_scales_are_refused(impl: Impl) -> None:
    k_pool, v_pool = torch.zeros(1, 1, 32, 16, dtype=torch.int8), torch.zeros(1, 1, 16, 32, dtype=torch.int8)
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 4, 0, 0, 0)])
    with pytest.raises(ValueError, match=r"D = 32 and pools of 8 bits D \+ 4"):
        span_attention(torch.ones(1, 1, 32), k_pool, v_pool, plan, scale=1.0, impl=impl)


def test_rows_of_int8_are_refused() -> None:
    k_pool, v_pool = make_pools(1, 1, 32, dtype=torch.int8)
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 4, 0, 0, 0)])
    with pytest.raises(ValueError, match="not torch.int8"):
        q = torch.ones(1, 1, 32, dtype=torch.int8)
        span_attention(q, k_pool, v_pool, plan, scale=1.0, impl="cpu")
