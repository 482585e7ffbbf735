"""Rotation fused with the write into the pool: each implementation against transformers' formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plait.attention import rope_and_store
from plait.attention.span import Impl

FAST: list[Impl] = ["torch", "cpu"]


def _tables(positions: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    angles = positions[:, None].double() * 10000.0 ** -(torch.arange(pairs).double() / pairs)
    return angles.cos().float(), angles.sin().float()


def _expected(x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    x, pairs = x.double(), cos.shape[1]
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.double()
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    half = torch.cat([-turned[..., pairs:], turned[..., :pairs]], dim=-1)  # transformers' rotate_half
    both = torch.cat([cos, cos], dim=1)[:, None].double(), torch.cat([sin, sin], dim=1)[:, None].double()
    return torch.cat([turned * both[0] + half * both[1], rest], dim=-1)


def _assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (8e-3, 1e-3)
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "pairs"), [(48, 24), (128, 64), (40, 10)])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_rotates_and_stores(
    impl: Impl, dtype: torch.dtype, pool_dtype: torch.dtype, size: int, pairs: int, with_norm: bool, threads: int
) -> None:
    rows, heads, kv_heads, block_size, blocks = 9, 4, 2, 16, 3
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * size).to(dtype)
    q, k, v = (part.view(rows, -1, size) for part in qkv.split([heads * size, kv_heads * size, kv_heads * size], dim=1))
    norms = (torch.rand(size) + 0.5, torch.rand(size) + 0.5) if with_norm else (None, None)
    cos, sin = _tables(torch.tensor([0, 1, 2, 40, 41, 7, 500, 501, 9]), pairs)
    slots = torch.tensor([0, 1, 2, 16, 17, 47, 33, -1, 31])
    k_pool = torch.full((blocks, kv_heads, size, block_size), 7.0, dtype=pool_dtype)
    v_pool = torch.full((blocks, kv_heads, block_size, size), 7.0, dtype=pool_dtype)
    expected_q = _expected(q, cos, sin, norms[0], 1e-6)
    expected_k, before = _expected(k, cos, sin, norms[1], 1e-6), qkv[:, heads * size :].clone()
    rope_and_store(
        q, k, v, cos, sin, slots, k_pool, v_pool, q_norm=norms[0], k_norm=norms[1], impl=impl, threads=threads
    )
    _assert_close(q, expected_q, dtype)
    assert torch.equal(qkv[:, heads * size :], before)
    untouched = torch.ones(blocks * block_size, dtype=torch.bool)
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        block, offset = divmod(slot, block_size)
        _assert_close(k_pool[block, :, :, offset], expected_k[row], pool_dtype)
        assert torch.equal(v_pool[block, :, offset], v[row].to(pool_dtype))
        untouched[slot] = False
    flat_k, flat_v = k_pool.permute(0, 3, 1, 2).flatten(0, 1), v_pool.transpose(1, 2).flatten(0, 1)
    assert flat_k[untouched].eq(7).all() and flat_v[untouched].eq(7).all()


@pytest.mark.parametrize("impl", FAST)
def test_bad_arguments_are_refused_before_any_write(impl: Impl) -> None:
    q, k, v = torch.ones(2, 2, 32), torch.ones(2, 1, 32), torch.ones(2, 1, 32)
    k_pool, v_pool = torch.zeros(1, 1, 32, 16), torch.zeros(1, 1, 16, 32)
    cos, sin = _tables(torch.tensor([1, 2]), 16)
    good = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="beyond the pool"):
        rope_and_store(q, k, v, cos, sin, torch.tensor([0, 16]), k_pool, v_pool, impl=impl)
    with pytest.raises(ValueError, match="int64"):
        rope_and_store(q, k, v, cos, sin, good.int(), k_pool, v_pool, impl=impl)
    with pytest.raises(ValueError, match="k and v must be"):
        rope_and_store(q, k[:1], v, cos, sin, good, k_pool, v_pool, impl=impl)
    with pytest.raises(ValueError, match="cos and sin"):
        rope_and_store(q, k, v, cos.double(), sin, good, k_pool, v_pool, impl=impl)
    with pytest.raises(ValueError, match="norm weights"):
        rope_and_store(q, k, v, cos, sin, good, k_pool, v_pool, q_norm=torch.ones(31), impl=impl)
    assert q.eq(1).all() and k_pool.eq(0).all() and v_pool.eq(0).all()
