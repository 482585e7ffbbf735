"""The KV write by a Triton kernel."""

from __future__ import annotations

import triton
from torch import Tensor

from . import kernels


def rope_and_store(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, k_pool: Tensor, v_pool: Tensor,
    *, q_norm: Tensor | None, k_norm: Tensor | None, eps: float,
) -> None:  # fmt: skip
    """See `attention.rope_and_store`. Slots beyond the pool are the caller's to refuse: here they cost a wait."""
    rows, heads, size = q.shape
    if not rows:
        return
    norms = [cos if norm is None else norm.float().contiguous() for norm in (q_norm, k_norm)]
    kernels.rope_and_store[(rows, heads + k.shape[1])](
        q, k, v, cos, sin, slots, k_pool, v_pool, *norms,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        k_pool.stride(0), k_pool.stride(1), v_pool.stride(0), v_pool.stride(1), eps,
        HEADS=heads, SIZE=size, PADDED=triton.next_power_of_2(size), ROTARY=cos.shape[1], BLOCK=k_pool.shape[3],
        Q_NORMED=q_norm is not None, K_NORMED=k_norm is not None, num_warps=1,
    )  # fmt: skip
