"""Span attention and the KV write by the compiled kernels (csrc/span_attention.cpp)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_call, check_kernel_call
from .library import CallArguments, PlanArguments, StoreArguments
from .plan import AttentionPlan

_free_works: list[int] = []
"""Native work spaces of plans that are gone, to be used again with the memory they have."""


class _Prepared:
    """A plan cut into work items for one set of shapes. Not for use by two threads at once."""

    __slots__ = ("_run_blocks", "_work", "address", "arguments", "inv_freq", "key", "kernels", "needs_rotation")

    def __init__(
        self,
        kernels: ctypes.CDLL,
        plan: AttentionPlan,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        scale: float,
        threads: int,
        key: tuple[object, ...],
    ) -> None:
        num_blocks, kv_heads, size, block_size = k_pool.shape
        self.kernels = kernels
        self.key = key
        self.inv_freq: Tensor | None = None
        self.arguments: Any = CallArguments(
            q_row=q.stride(0), q_head=q.stride(1),
            k_block=k_pool.stride(0), k_head=k_pool.stride(1),
            v_block=v_pool.stride(0), v_head=v_pool.stride(1),
            scale=scale, threads=threads,
            q_bf16=q.dtype == torch.bfloat16, pool_bf16=k_pool.dtype == torch.bfloat16,
        )  # fmt: skip
        self.address = ctypes.addressof(self.arguments)
        self._run_blocks = plan.run_blocks  # the work space points into it
        self._work: int | None = _free_works.pop() if _free_works else kernels.plait_attention_new()
        groups = np.array([(g.temperature, g.factor, g.bias) for g in plan.groups], dtype=np.float32)
        arguments = PlanArguments(
            run_blocks=plan.run_blocks.ctypes.data,
            run_start=plan.run_start.ctypes.data,
            entries=plan.entries.ctypes.data,
            groups=groups.ctypes.data,
            num_rows=plan.num_rows,
            num_runs=len(plan.run_start) - 1,
            num_run_blocks=len(plan.run_blocks),
            num_entries=len(plan.entries),
            num_groups=len(groups),
            num_blocks=num_blocks,
            heads=q.shape[1],
            kv_heads=kv_heads,
            size=size,
            block_size=block_size,
            threads=threads,
        )
        shifts = kernels.plait_attention_prepare(self._work, ctypes.addressof(arguments))
        if shifts < 0:
            plan.check(block_size, num_blocks)
            raise AssertionError("the kernel refused a plan that plan.check accepts")
        self.needs_rotation = shifts > 0

    def rotate_by(self, inv_freq: Tensor | None, size: int) -> None:
        """Work out the angles of the plan's shifts. inv_freq: (R,), kept so that the same tensor is done once."""
        if inv_freq is None:
            raise ValueError("inv_freq is needed because an entry of the plan has a shift")
        if inv_freq.ndim != 1 or 2 * len(inv_freq) > size:
            raise ValueError(f"inv_freq must be a list of at most {size // 2} angles, not {tuple(inv_freq.shape)}")
        angles = inv_freq.detach().double().contiguous()
        self.kernels.plait_attention_rotary(self._work, angles.data_ptr(), len(angles))
        self.inv_freq = inv_freq

    def run(self) -> None:
        self.kernels.plait_attention_run(self._work, self.address)

    def __del__(self) -> None:
        if self._work is not None:
            _free_works.append(self._work)


def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    inv_freq: Tensor | None,
    return_lse: bool,
    threads: int,
    out: Tensor | None,
    kernels: ctypes.CDLL,
) -> tuple[Tensor, Tensor | None]:
    """Out (N, H, D) and, if asked for, log-sum-exp (N, H); see `attention.span_attention`."""
    key = (
        q.shape, q.stride(), q.dtype, k_pool.shape, k_pool.stride(), k_pool.dtype,
        v_pool.shape, v_pool.stride(), v_pool.dtype, scale, threads,
    )  # fmt: skip
    prepared: Any = plan.derived.get("cpu")
    if prepared is None or prepared.key != key:
        check_call(q, k_pool, v_pool, plan)
        check_kernel_call((q,), k_pool, v_pool)
        prepared = plan.derived["cpu"] = _Prepared(kernels, plan, q, k_pool, v_pool, scale, threads, key)
    if prepared.needs_rotation and (inv_freq is None or prepared.inv_freq is not inv_freq):
        prepared.rotate_by(inv_freq, q.shape[2])
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)  # half the time of torch.empty
    lse = torch.empty(q.shape[:2], dtype=torch.float32) if return_lse else None
    call = prepared.arguments
    call.q, call.k_pool, call.v_pool, call.out = q.data_ptr(), k_pool.data_ptr(), v_pool.data_ptr(), out.data_ptr()
    call.lse = None if lse is None else lse.data_ptr()
    prepared.run()
    return out, lse


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
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    threads: int,
    kernels: ctypes.CDLL,
) -> None:
    """See `attention.rope_and_store`."""
    check_kernel_call((q, k, v), k_pool, v_pool)
    num_blocks, kv_heads, size, block_size = k_pool.shape
    norms = [None if norm is None else norm.detach().float().contiguous() for norm in (q_norm, k_norm)]
    q_row, q_head, _ = q.stride()
    k_row, k_head, _ = k.stride()
    v_row, v_head, _ = v.stride()
    call = StoreArguments(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), cos.data_ptr(), sin.data_ptr(), slots.data_ptr(),
        *(None if norm is None else norm.data_ptr() for norm in norms),
        k_pool.data_ptr(), v_pool.data_ptr(),
        q_row, q_head, k_row, k_head, v_row, v_head,
        k_pool.stride(0), k_pool.stride(1), v_pool.stride(0), v_pool.stride(1),
        len(q), q.shape[1], kv_heads, size, cos.shape[1], block_size, num_blocks,
        q.dtype == torch.bfloat16, k_pool.dtype == torch.bfloat16, threads, eps,
    )  # fmt: skip
    if kernels.plait_rope_and_store(ctypes.addressof(call)) < 0:
        raise ValueError(f"a slot lies beyond the pool of {num_blocks} blocks of {block_size}")
