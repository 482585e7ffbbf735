"""The compiled kernel gives a row the same bits whatever else is in the plan, however many threads work on it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from plait.attention import library, span_attention
from plait.attention.plan import AttentionPlan
from plait.tests.attention.scenes import Scene, alone, make_plan, make_pools, prefill, scenes

pytestmark = pytest.mark.skipif(library.load() is None, reason="the kernels are not built")


def _bits(scene: Scene, plan: AttentionPlan, q: Tensor, threads: int = 1) -> tuple[Tensor, Tensor]:
    return span_attention(
        q, scene.k_pool, scene.v_pool, plan,
        scale=scene.scale, inv_freq=scene.inv_freq, impl="cpu", return_lse=True, threads=threads,
    )  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_a_row_alone_gets_the_same_bits(scene: Scene) -> None:
    out, lse = _bits(scene, scene.plan, scene.q)
    for row in range(scene.plan.num_rows):
        got, got_lse = _bits(scene, alone(scene.plan, row), scene.q[row : row + 1])
        assert torch.equal(got[0], out[row])
        assert torch.equal(got_lse[0], lse[row])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_threads_do_not_change_bits(scene: Scene) -> None:
    out, lse = _bits(scene, scene.plan, scene.q)
    scene.plan.derived.clear()
    threaded, threaded_lse = _bits(scene, scene.plan, scene.q, threads=3)
    assert torch.equal(threaded, out)
    assert torch.equal(threaded_lse, lse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("size", [48, 128])
def test_prefill_whole_in_parts_and_as_decoding_agree_in_bits(dtype: torch.dtype, size: int) -> None:
    """Each chunk sees the earlier tokens of its run; the keys are all there from the start."""
    tokens, (k_pool, v_pool) = 300, make_pools(19, 2, size, dtype=dtype)
    q = torch.randn(tokens, 6, size).to(torch.float32 if dtype == torch.int8 else dtype)
    outs = [prefill(q, k_pool, v_pool, step) for step in (300, 128, 7, 1)]
    assert all(torch.equal(out, outs[0]) for out in outs[1:])


def test_the_place_in_the_pool_does_not_change_bits() -> None:
    k_pool, v_pool = make_pools(8, 2, 48)
    q, moved = torch.randn(1, 4, 48), torch.tensor([5, 2, 7, 0])
    first = make_plan(1, [[0, 1, 2, 3]], [(0, 1, 0, 0, 60, 0, 0, 0)])
    second = make_plan(1, [moved.tolist()], [(0, 1, 0, 0, 60, 0, 0, 0)])
    out = span_attention(q, k_pool, v_pool, first, scale=0.2, impl="cpu")
    k_pool[moved], v_pool[moved] = k_pool[:4].clone(), v_pool[:4].clone()
    assert torch.equal(span_attention(q, k_pool, v_pool, second, scale=0.2, impl="cpu"), out)
