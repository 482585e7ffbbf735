"""Do the tensors of one call fit together? One message each, before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from .int8 import SCALE, stored_size
from .plan import AttentionPlan


def check_pools(heads: int, size: int, k_pool: Tensor, v_pool: Tensor) -> None:
    """Raise ValueError unless the pools fit each other and `heads` query heads of `size` dims."""
    if k_pool.ndim != 4 or v_pool.ndim != 4:
        raise ValueError(f"pools have four dimensions, not {tuple(k_pool.shape)} and {tuple(v_pool.shape)}")
    num_blocks, kv_heads, _, block_size = k_pool.shape
    stored = stored_size(size, k_pool.dtype)
    if k_pool.shape[2] != stored or v_pool.shape != (num_blocks, kv_heads, block_size, stored):
        more = f" and pools of 8 bits D + {SCALE}" if stored > size else ""
        raise ValueError(
            f"k_pool (P, K, D, B) is {tuple(k_pool.shape)} and v_pool (P, K, B, D) is {tuple(v_pool.shape)}, "
            f"but queries have D = {size}{more}"
        )
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{heads} query heads are not a multiple of {kv_heads} key/value heads")
    if block_size % 16:
        raise ValueError(f"the block size must be a multiple of 16, not {block_size}")
    if k_pool.dtype != v_pool.dtype or k_pool.device != v_pool.device:
        raise ValueError("k_pool and v_pool must have the same dtype and device")


def check_call(q: Tensor, k_pool: Tensor, v_pool: Tensor, plan: AttentionPlan) -> None:
    """Raise ValueError unless q (N, H, D), the pools and the plan fit together."""
    if q.ndim != 3 or q.shape[0] != plan.num_rows:
        raise ValueError(f"q must have shape ({plan.num_rows}, H, D) for this plan, not {tuple(q.shape)}")
    if q.device != k_pool.device:
        raise ValueError(f"q is on {q.device} and the pools are on {k_pool.device}")
    check_pools(q.shape[1], q.shape[2], k_pool, v_pool)


def check_kernel_call(rows: tuple[Tensor, ...], k_pool: Tensor, v_pool: Tensor) -> None:
    """Raise ValueError unless the compiled kernels can take row tensors `rows` (N, heads, D) and the pools."""
    size, block_size = rows[0].shape[2], v_pool.shape[2]
    if size < 16 or size % 8:
        raise ValueError(f"the compiled kernels need head sizes that are multiples of 8 from 16 on, not {size}")
    floats = (torch.float32, torch.bfloat16)
    for tensor, dtypes in (*((row, floats) for row in rows), (k_pool, (*floats, torch.int8))):
        if tensor.dtype not in dtypes or not tensor.is_cpu:
            raise ValueError(f"the compiled kernels take {list(dtypes)} on the CPU, not {tensor.dtype}")
    if any(tensor.stride(2) != 1 for tensor in rows):
        raise ValueError("the last dimension of q, k and v must be contiguous")
    if k_pool.stride()[2:] != (block_size, 1) or v_pool.stride()[2:] != (v_pool.shape[3], 1):
        raise ValueError("the last two dimensions of the pools must be contiguous")


def check_store_call(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, k_pool: Tensor, v_pool: Tensor,
    q_norm: Tensor | None, k_norm: Tensor | None, k_range: Tensor | None = None,
) -> None:  # fmt: skip
    """Raise ValueError unless the arguments of `rope_and_store` fit together."""
    rows, heads, size = q.shape
    check_pools(heads, size, k_pool, v_pool)
    shape = (rows, k_pool.shape[1], size)
    if k.shape != shape or v.shape != shape or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(f"k and v must be {q.dtype} tensors of shape {shape}")
    for table in (cos, sin):
        if table.dtype != torch.float32 or table.shape != (rows, cos.shape[-1]) or not table.is_contiguous():
            raise ValueError(f"cos and sin must be contiguous float32 tensors of shape ({rows}, R)")
    if 2 * cos.shape[1] > size:
        raise ValueError(f"cos and sin cover {cos.shape[1]} pairs, more than half of D = {size}")
    if slots.dtype != torch.int64 or slots.shape != (rows,) or not slots.is_contiguous():
        raise ValueError(f"slots must be a contiguous int64 tensor of shape ({rows},)")
    for norm in (q_norm, k_norm):
        if norm is not None and norm.shape != (size,):
            raise ValueError(f"norm weights must have shape ({size},), not {tuple(norm.shape)}")
    if k_range is not None and k_range.shape != k.shape[1:]:
        raise ValueError(f"ranges of keys must have shape {tuple(k.shape[1:])}, not {tuple(k_range.shape)}")
