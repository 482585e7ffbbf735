"""Rotary position encoding fused with the write of new keys and values into the pool."""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpu, int8
from .checks import check_store_call
from .span import Impl, choose_kernels, uses_triton


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, k_pool: Tensor, v_pool: Tensor,
    q_norm: Tensor | None, k_norm: Tensor | None, k_range: Tensor | None, eps: float,
) -> None:  # fmt: skip
    new_q = q.float() if q_norm is None else _rms_norm(q, q_norm, eps)
    new_k = k.float() if k_norm is None else _rms_norm(k, k_norm, eps)
    kept = slots >= 0
    if (slots >= k_pool.shape[0] * v_pool.shape[2]).any():
        raise ValueError(f"a slot lies beyond the pool of {k_pool.shape[0]} blocks of {v_pool.shape[2]}")
    block_size = v_pool.shape[2]
    block, offset = slots[kept] // block_size, slots[kept] % block_size
    new_q, new_k = _rotate(new_q, cos, sin), _rotate(new_k, cos, sin)[kept]
    if k_range is not None:
        new_q = new_q * k_range.repeat_interleave(q.shape[1] // k.shape[1], 0)
        new_k = new_k / k_range
    if k_pool.dtype == torch.int8:
        int8.store_keys(k_pool, block, offset, new_k)
        int8.store_values(v_pool, block, offset, v[kept])
    else:
        k_pool[block, :, :, offset] = new_k.to(k_pool.dtype)
        v_pool[block, :, offset] = v[kept].to(v_pool.dtype)
    q.copy_(new_q)


def rope_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    k_range: Tensor | None = None,
    eps: float = 1e-6,
    impl: Impl = "auto",
    threads: int = 1,
) -> None:
    """Rotate `q` in place for its rows' positions, and write the rotated keys and the values into the pool.

    Args:
        q: (N, H, D), float32 or bfloat16; changed in place. q, k and v may be strided views (of one qkv matrix) with
            a contiguous last dimension.
        k, v: (N, K, D), dtype of `q`; not changed.
        cos, sin: (N, R) float32, R <= D / 2: of position * inv_freq per row. Pairs are half-split inside the first 2R
            dims.
        slots: (N,) int64, block * B + offset of each row in the pool; a negative slot is not written. Must be distinct.
        k_pool: (P, K, D, B). v_pool: (P, K, B, D). Those of 8 bits as in int8.py.
        q_norm, k_norm: (D,) weights of an RMS norm of each head before the rotation (Qwen3), or None.
        k_range: (K, D) float32, positive, by which rotated keys are divided and rotated queries multiplied, or None: it
            changes no score, and what is rounded to 8 bits. To be equal for the two dims of a pair, lest a shifted
            span's queries turn otherwise. Not for the Triton kernels.
        eps: of that norm.
        impl: as for `span_attention` (`reference` is the plain form).
        threads: OpenMP threads of the compiled kernel.

    Raises:
        ValueError: shapes or dtypes that do not fit, a slot beyond the pool, or `impl="triton"` with a `k_range`.
    """
    if impl == "triton" and k_range is not None:
        raise ValueError("the Triton kernels have no ranges of keys; leave impl out for plain torch")
    kernels = choose_kernels(impl, q)
    if k_range is None and uses_triton(impl, (q, k, v), k_pool, v_pool):
        from .gpu import store as gpu  # Triton is there where there is a GPU

        check_store_call(q, k, v, cos, sin, slots, k_pool, v_pool, q_norm, k_norm)
        gpu.rope_and_store(q, k, v, cos, sin, slots, k_pool, v_pool, q_norm=q_norm, k_norm=k_norm, eps=eps)
    elif kernels is not None:
        cpu.rope_and_store(
            q, k, v, cos, sin, slots, k_pool, v_pool,
            q_norm=q_norm, k_norm=k_norm, k_range=k_range, eps=eps, threads=threads, kernels=kernels,
        )  # fmt: skip
    else:
        check_store_call(q, k, v, cos, sin, slots, k_pool, v_pool, q_norm, k_norm, k_range)
        _plain(q, k, v, cos, sin, slots, k_pool, v_pool, q_norm, k_norm, k_range, eps)
