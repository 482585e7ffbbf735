"""Do the tensors of one call fit together? One message each, before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import AttentionPlan


def check_pools(heads: int, size: int, k_pool: Tensor, v_pool: Tensor) -> None:
    """Raise ValueError unless the pools fit each other and `heads` query heads of `size` dims."""
    if k_pool.ndim != 4 or v_pool.ndim != 4:
        raise ValueError(f"pools have four dimensions, not {tuple(k_pool.shape)} and {tuple(v_pool.shape)}")
    num_blocks, kv_heads, _, block_size = k_pool.shape
    if k_pool.shape[2] != size or v_pool.shape != (num_blocks, kv_heads, block_size, size):
        raise ValueError(
            f"k_pool (P, K, D, B) is {tuple(k_pool.shape)} and v_pool (P, K, B, D) is {tuple(v_pool.shape)}, "
            f"but queries have D = {size}"
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
    size, block_size = v_pool.shape[3], v_pool.shape[2]
    if size < 16 or size % 8:
        raise ValueError(f"the compiled kernels need head sizes that are multiples of 8 from 16 on, not {size}")
    for tensor in (*rows, k_pool):
        if tensor.dtype not in (torch.float32, torch.bfloat16) or not tensor.is_cpu:
            raise ValueError(f"the compiled kernels take float32 and bfloat16 on the CPU, not {tensor.dtype}")
    if any(tensor.stride(2) != 1 for tensor in rows):
        raise ValueError("the last dimension of q, k and v must be contiguous")
    if k_pool.stride()[2:] != (block_size, 1) or v_pool.stride()[2:] != (size, 1):
        raise ValueError("the last two dimensions of the pools must be contiguous")
