"""Ranges of keys: what the weights say of them is what comes, no score changes, and rounding is better for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plait.attention import int8, rope_and_store, span_attention
from plait.attention.span import Impl
from plait.runtime.engines.native.loader import from_transformers, load_model
from plait.runtime.engines.native.pool import KVPool
from plait.tests.attention.scenes import make_plan
from plait.tests.runtime.engines.native.helpers import Sequences, tiny

_PARTIAL = {"rope_type": "default", "partial_rotary_factor": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biased": ("qwen2", {}),
    "head norms": ("qwen3", {}),
    "norms of projections": ("olmo2", {}),
    "norms of 1 + weight": ("gemma3", {}),
    "partial": ("phi3", {"rope_parameters": _PARTIAL}),
    "without positions": ("smollm3", {}),
    "biased and normed": ("qwen3", {"attention_bias": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_where_the_keys_are(case: str) -> None:
    """Of a long text's keys in a float32 pool hardly any exceeds its range, and the largest ones are not far below."""
    family, overrides = CASES[case]
    hf_model, folder = tiny(family, **overrides)
    random = torch.Generator().manual_seed(1)
    for layer in hf_model.model.layers:
        for name, weight in layer.self_attn.named_parameters():
            if name in ("k_norm.weight", "k_proj.bias"):
                weight.data.copy_(3 * torch.rand(weight.shape, generator=random) + 0.1)
    hf_model.save_pretrained(folder)
    model = load_model(folder)
    sequences = Sequences(model, 1, max_tokens=400)
    sequences.step([torch.randint(131, (400,), generator=torch.Generator().manual_seed(0)).tolist()])
    assert model.key_ranges is not None and len(model.key_ranges) == model.config.num_layers
    for ranges, k_pool in zip(model.key_ranges, sequences.pool.k, strict=True):
        assert ranges.shape == (model.config.num_kv_heads, model.config.head_dim)
        relative = k_pool.abs().permute(0, 3, 1, 2).flatten(0, 1) / ranges
        assert (relative > 1).double().mean() < 0.01
        largest = relative.amax(0)
        assert largest.max() < 2 and largest.min() > 0.2


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_no_score_changes(impl: Impl, dtype: torch.dtype) -> None:
    """Of a span that is shifted neither; and nearly the same comes from 8 bits."""
    size, heads, kv_heads = 48, 4, 2
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(32, n, size, generator=random) for n in (heads, kv_heads, kv_heads))
    inv_freq = 100.0 ** -(torch.arange(12) / 12)
    angles = torch.arange(32)[:, None] * inv_freq
    ranges = torch.rand(kv_heads, size, generator=random) + 0.1
    ranges[:, 12:24] = ranges[:, :12]
    plan = make_plan(32, [[0, 1]], [(0, 16, 0, 0, 32, 0, 5, 0), (16, 16, 0, 0, 32, 1, 0, 0)])
    outs = []
    for kind, given in ((torch.float32, None), (dtype, ranges)):
        stored = int8.stored_size(size, kind)
        k_pool = torch.zeros(2, kv_heads, stored, 16, dtype=kind)
        v_pool = torch.zeros(2, kv_heads, 16, stored, dtype=kind)
        turned = q.clone()
        rope_and_store(
            turned, k, v, angles.cos(), angles.sin(), torch.arange(32), k_pool, v_pool, k_range=given, impl=impl
        )
        outs.append(span_attention(turned, k_pool, v_pool, plan, scale=0.2, inv_freq=inv_freq, impl=impl))
    tolerance = 1e-4 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(outs[1], outs[0], rtol=tolerance, atol=tolerance)


def test_a_large_bias_costs_no_bits() -> None:
    """As some models have it: a few dims of the keys are a hundred times as large as the others."""
    hf_model, folder = tiny("qwen2", seed=3)
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.self_attn.k_proj.bias[[5, 21]] = 60.0
    hf_model.save_pretrained(folder)
    tokens = [torch.randint(131, (100,), generator=torch.Generator().manual_seed(1)).tolist()]
    errors = []
    for impl in ("torch", "cpu"):
        model = load_model(folder, impl=impl)
        exact = Sequences(model, 1).step(tokens)
        evened, plain = (Sequences(model, 1, dtype=torch.int8) for _ in range(2))
        plain.pool.key_ranges = None
        errors += [(sequence.step(tokens) - exact).square().mean().sqrt().item() for sequence in (evened, plain)]
    assert errors[0] < errors[1] / 2 and errors[2] < errors[3] / 2


@pytest.mark.parametrize("impl", ["torch", "cpu"])
def test_the_norm_in_front_counts(impl: Impl, tmp_path: Path) -> None:
    """Whether the matrices are kept or not."""
    hf_model, folder = tiny("llama")
    before = load_model(folder, impl=impl).key_ranges
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.input_layernorm.weight *= 8
    hf_model.save_pretrained(tmp_path)
    after = load_model(tmp_path, impl=impl).key_ranges
    assert before is not None and after is not None
    for small, large in zip(before, after, strict=True):
        torch.testing.assert_close(large, 8 * small)


def test_dims_that_are_always_nothing_divide_nothing_by_0() -> None:
    hf_model, _ = tiny("llama")
    with torch.no_grad():
        hf_model.model.layers[0].self_attn.k_proj.weight[:32] = 0  # two heads
        hf_model.model.layers[1].self_attn.k_proj.weight[3] = 0
        hf_model.model.layers[1].self_attn.k_proj.weight[11] = 0  # its pair
    model = from_transformers(hf_model)
    assert model.key_ranges is not None
    assert model.key_ranges[0].eq(1).all()
    assert 0 < model.key_ranges[1][0, 3] < 1e-3 * model.key_ranges[1][0].amax()
    assert Sequences(model, 1, dtype=torch.int8).step([list(range(40))]).isfinite().all()


def test_only_pools_of_int8_have_them() -> None:
    model = load_model(tiny()[1])
    pools = [KVPool(model.config, 4, 16, d, key_ranges=model.key_ranges) for d in (torch.float32, torch.int8)]
    assert pools[0].key_ranges is None and pools[1].key_ranges is not None
    assert KVPool(model.config, 4, 16, torch.int8).key_ranges is None


@pytest.mark.parametrize("impl", ["torch", "cpu", "triton"])
def test_ranges_of_a_wrong_shape_and_for_triton_are_refused(impl: Impl) -> None:
    q, k, v = torch.ones(1, 2, 32), torch.ones(1, 1, 32), torch.ones(1, 1, 32)
    pools = torch.zeros(1, 1, 32, 16), torch.zeros(1, 1, 16, 32)
    table = torch.ones(1, 16)
    with pytest.raises(ValueError, match="ranges of keys"):
        rope_and_store(q, k, v, table, table, torch.tensor([0]), *pools, k_range=torch.ones(2, 32), impl=impl)
