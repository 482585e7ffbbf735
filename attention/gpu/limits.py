"""What the Triton kernels can serve, for those who must know it where Triton is not."""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN_TILE = 64
"""Tokens that a kernel reads at a time."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def block_ms(dtype: torch.dtype, *, is_invariant: bool) -> tuple[int, ...]:
    """Query rows of a program. Their matrix instructions, and so their bits, differ between the sizes."""
    if dtype == torch.float32:
        return (16,)
    return (64,) if is_invariant else (16, 64)


def gap(rows: tuple[Tensor, ...], k_pool: Tensor, v_pool: Tensor) -> str | None:
    """What a call has that the kernels have not, if anything. `rows`: queries (N, H, D), and keys and values (N, K, D)
    where they are to be stored. Pools of a wrong shape are for checks.py to refuse."""
    q, pools = rows[0], (k_pool, v_pool)
    if any(pool.ndim != 4 or pool.shape[1] == 0 for pool in pools):
        return None
    size, block_size, ratio = q.shape[2], k_pool.shape[3], q.shape[1] // k_pool.shape[1]
    gaps = {
        f"dtype {q.dtype}": q.dtype not in DTYPES,
        f"pools of {k_pool.dtype}": k_pool.dtype not in DTYPES,
        f"head size {size}": not 16 <= size <= 256,
        f"blocks of {block_size} tokens": block_size == 0 or TOKEN_TILE % block_size != 0,
        f"{ratio} query heads for each key/value head": ratio > block_ms(k_pool.dtype, is_invariant=True)[-1],
        "rows with gaps inside a head": any(part.stride(2) != 1 for part in rows),
        "pools with gaps inside a block": any(pool.stride()[2:] != (pool.shape[3], 1) for pool in pools),
        "gradients": q.requires_grad and torch.is_grad_enabled(),
    }
    return next((name for name, is_there in gaps.items() if is_there), None)
