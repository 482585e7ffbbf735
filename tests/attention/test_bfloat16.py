"""Keys and values in bfloat16: where the compiled kernels round, and that they round nowhere else.

Built for processors that multiply bfloat16 themselves, they round queries and weights to it; sums are float32.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import scaled_dot_product_attention

from plait.attention import library, span_attention
from plait.tests.attention.scenes import Scene, make_plan, make_pools, scenes

pytestmark = pytest.mark.skipif(library.load() is None, reason="the kernels are not built")

_random = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
_bf16_scenes = scenes().filter(lambda scene: scene.k_pool.dtype == torch.bfloat16)


@_random
@given(scene=_bf16_scenes)
def test_scores_of_bfloat16_queries_are_exact(scene: Scene) -> None:
    """Without a shift nothing of a score is rounded, and the log-sum-exp is as good as in float32."""
    scene.q = scene.q.bfloat16()
    scene.plan.entries[:, 6] = 0
    torch.testing.assert_close(scene.run("cpu")[1], scene.run("reference")[1], rtol=1e-5, atol=2e-5)


@_random
@given(scene=_bf16_scenes)
def test_equal_weights_are_exact(scene: Scene) -> None:
    """All weights of one span are 1, which bfloat16 can hold, whatever tokens a pair is cut from."""
    scene.q = torch.zeros(scene.q.shape)
    out, lse = scene.run("cpu")
    expected, expected_lse = scene.run("reference")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tokens", [400, 2000])
def test_nearer_to_float64_than_torch(tokens: int) -> None:
    blocks, heads, kv_heads, size = -(-tokens // 16), 8, 4, 128
    k_pool, v_pool = make_pools(blocks, kv_heads, size, dtype=torch.bfloat16)
    q = 2 * torch.randn(16, heads, size, generator=torch.Generator().manual_seed(tokens)).bfloat16()
    plan = make_plan(16, [list(range(blocks))], [(0, 16, 0, 0, tokens, 0, 0, 0)])
    exact = span_attention(q.double(), k_pool, v_pool, plan, scale=size**-0.5, impl="reference")
    ours = span_attention(q, k_pool, v_pool, plan, scale=size**-0.5, impl="cpu")
    keys = k_pool.permute(1, 0, 3, 2).reshape(kv_heads, -1, size)[:, :tokens]
    values = v_pool.permute(1, 0, 2, 3).reshape(kv_heads, -1, size)[:, :tokens]
    peer = scaled_dot_product_attention(q.transpose(0, 1)[None], keys[None], values[None], enable_gqa=True)
    assert (ours - exact).square().mean() < (peer[0].transpose(0, 1) - exact).square().mean()
