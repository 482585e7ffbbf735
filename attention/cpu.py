"""Span attention and the KV write by the compiled kernels (csrc/span_attention.cpp)."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_call, check_kernel_call, check_store_call
from .library import TYPES, CallArguments, PlanArguments, StoreArguments
from .plan import AttentionPlan, Float32, Group, Int32

_free_works: dict[int, list[int]] = {}
"""Of each library, native work spaces of plans that are gone, to be used again with the memory they have."""

_last_store: tuple[tuple[object, ...], StoreArguments] | None = None
"""Shapes of the latest `rope_and_store` and what follows from them: the layers of a step differ only in addresses."""


@functools.lru_cache(maxsize=64)
def _group_array(groups: tuple[Group, ...]) -> Float32:
    return np.array([(group.temperature, group.factor, group.bias) for group in groups], dtype=np.float32)


def _address(array: Int32 | Float32) -> int:
    address: int = array.__array_interface__["data"][0]  # a third of the time of array.ctypes.data
    return address


class Prepared:
    """A plan cut into work items for one set of shapes. Not for use by two threads at once."""

    __slots__ = ("_free", "_kernels", "_run_blocks", "arguments", "inv_freq", "needs_rotation", "work")

    def __init__(
        self,
        kernels: ctypes.CDLL,
        plan: AttentionPlan,
        heads: int,
        size: int,
        pool_shape: tuple[int, ...],
        threads: int,
    ) -> None:
        """heads: H; size: D; pool_shape: of the keys, (P, K, D or more, B)."""
        self.work: int | None = None
        """Address of the native work space, which `plait_attention_run` takes; `plait_attention_prepare` makes it anew
        from `arguments` after entries grew in place."""
        num_blocks, kv_heads, _, block_size = pool_shape
        self._kernels = kernels
        self.inv_freq: Tensor | None = None
        self._run_blocks = plan.run_blocks  # the work space points into it
        self._free = _free_works.setdefault(kernels._handle, [])  # held here: a plan may outlive this module
        self.work = self._free.pop() if self._free else kernels.plait_attention_new()
        groups = _group_array(plan.groups)
        self.arguments: Any = PlanArguments(
            _address(plan.run_blocks), _address(plan.run_start), _address(plan.entries), _address(groups),
            plan.num_rows, len(plan.run_start) - 1, len(plan.run_blocks), len(plan.entries), len(groups), num_blocks,
            heads, kv_heads, size, block_size, threads,
        )  # fmt: skip
        shifts = kernels.plait_attention_prepare(self.work, ctypes.addressof(self.arguments))
        if shifts < 0:
            plan.check(block_size, num_blocks)
            raise AssertionError("the kernel refused a plan that plan.check accepts")
        self.needs_rotation = shifts > 0

    def rotate_by(self, inv_freq: Tensor | None, size: int) -> None:
        """Work out the angles of the plan's shifts, if there are any. inv_freq: (R,), kept so that the same tensor is
        done once."""
        if not self.needs_rotation or (inv_freq is not None and self.inv_freq is inv_freq):
            return
        if inv_freq is None:
            raise ValueError("inv_freq is needed because an entry of the plan has a shift")
        if inv_freq.ndim != 1 or 2 * len(inv_freq) > size:
            raise ValueError(f"inv_freq must be a list of at most {size // 2} angles, not {tuple(inv_freq.shape)}")
        angles = inv_freq.detach().double().contiguous()
        self._kernels.plait_attention_rotary(self.work, angles.data_ptr(), len(angles))
        self.inv_freq = inv_freq

    def __del__(self) -> None:
        if self.work is not None:
            self._free.append(self.work)


def call_arguments(q: Tensor, k_pool: Tensor, v_pool: Tensor, out: Tensor, scale: float, threads: int) -> CallArguments:
    """Arguments of `plait_attention_run` on these tensors, without a log-sum-exp."""
    return CallArguments(
        q=q.data_ptr(), k_pool=k_pool.data_ptr(), v_pool=v_pool.data_ptr(), out=out.data_ptr(),
        q_row=q.stride(0), q_head=q.stride(1),
        k_block=k_pool.stride(0), k_head=k_pool.stride(1),
        v_block=v_pool.stride(0), v_head=v_pool.stride(1),
        scale=scale, threads=threads,
        q_type=TYPES[q.dtype], pool_type=TYPES[k_pool.dtype],
    )  # fmt: skip


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
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)  # half the time of torch.empty
    derived: Any = plan.derived.get("cpu")
    if derived is None or derived[0] != key:
        check_call(q, k_pool, v_pool, plan)
        check_kernel_call((q,), k_pool, v_pool)
        prepared = Prepared(kernels, plan, q.shape[1], q.shape[2], k_pool.shape, threads)
        derived = plan.derived["cpu"] = key, prepared, call_arguments(q, k_pool, v_pool, out, scale, threads)
    _, prepared, call = derived
    prepared.rotate_by(inv_freq, q.shape[2])
    lse = torch.empty(q.shape[:2], dtype=torch.float32) if return_lse else None
    call.q, call.k_pool, call.v_pool, call.out = q.data_ptr(), k_pool.data_ptr(), v_pool.data_ptr(), out.data_ptr()
    call.lse = None if lse is None else lse.data_ptr()
    kernels.plait_attention_run(prepared.work, ctypes.addressof(call))
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
    k_range: Tensor | None,
    eps: float,
    threads: int,
    kernels: ctypes.CDLL,
) -> None:
    """See `attention.rope_and_store`."""
    global _last_store
    norms = [None if norm is None else (norm.shape, norm.dtype) for norm in (q_norm, k_norm)]
    key = (
        q.shape, q.stride(), q.dtype, k.shape, k.stride(), k.dtype, v.shape, v.stride(), v.dtype,
        k_pool.shape, k_pool.stride(), k_pool.dtype, v_pool.shape, v_pool.stride(), v_pool.dtype,
        cos.shape, cos.stride(), cos.dtype, sin.shape, sin.stride(), sin.dtype,
        slots.shape, slots.stride(), slots.dtype, norms, k_range is None, eps, threads,
    )  # fmt: skip
    last = _last_store
    if last is None or last[0] != key:
        check_store_call(q, k, v, cos, sin, slots, k_pool, v_pool, q_norm, k_norm, k_range)
        check_kernel_call((q, k, v), k_pool, v_pool)
        last = _last_store = (key, store_arguments(q, k, v, cos, sin, slots, k_pool, v_pool, eps, threads))
    call: Any = StoreArguments.from_buffer_copy(last[1])
    call.q, call.k, call.v = q.data_ptr(), k.data_ptr(), v.data_ptr()
    call.cosine, call.sine, call.slots = cos.data_ptr(), sin.data_ptr(), slots.data_ptr()
    call.k_pool, call.v_pool = k_pool.data_ptr(), v_pool.data_ptr()
    if q_norm is not None:
        q_norm = q_norm.float().contiguous()
        call.q_norm = q_norm.data_ptr()
    if k_norm is not None:
        k_norm = k_norm.float().contiguous()
        call.k_norm = k_norm.data_ptr()
    if k_range is not None:
        k_range = k_range.float().contiguous()
        call.k_range = k_range.data_ptr()
    if kernels.plait_rope_and_store(ctypes.addressof(call)) < 0:
        raise ValueError(f"a slot lies beyond the pool of {k_pool.shape[0]} blocks of {k_pool.shape[3]}")


def store_arguments(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, k_pool: Tensor, v_pool: Tensor,
    eps: float, threads: int,
) -> StoreArguments:  # fmt: skip
    """Arguments of `plait_rope_and_store` on these tensors, without head norms and ranges."""
    num_blocks, kv_heads, _, block_size = k_pool.shape
    return StoreArguments(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(),
        cosine=cos.data_ptr(), sine=sin.data_ptr(), slots=slots.data_ptr(),
        k_pool=k_pool.data_ptr(), v_pool=v_pool.data_ptr(),
        q_row=q.stride(0), q_head=q.stride(1), k_row=k.stride(0), k_head=k.stride(1),
        v_row=v.stride(0), v_head=v.stride(1),
        kp_block=k_pool.stride(0), kp_head=k_pool.stride(1), vp_block=v_pool.stride(0), vp_head=v_pool.stride(1),
        rows=q.shape[0], heads=q.shape[1], kv_heads=kv_heads, size=q.shape[2], rotary=cos.shape[1],
        block_size=block_size, num_blocks=num_blocks,
        row_type=TYPES[q.dtype], pool_type=TYPES[k_pool.dtype], threads=threads, eps=eps,
    )  # fmt: skip
