"""The one entry point for attention over views, and the choice of its implementation.

A plan keeps the compiled kernel's work space, so two threads must not use one plan at once.
"""

from __future__ import annotations

from ctypes import CDLL
from typing import Literal, overload

import torch
from torch import Tensor

from . import cpu, library, plain, reference
from .checks import check_call
from .gpu.limits import gap
from .plan import AttentionPlan

Impl = Literal["auto", "cpu", "triton", "torch", "reference"]
"""`auto`: the compiled kernel on the CPU and the Triton kernels on a GPU where they can serve, else plain torch;
`reference`: the float64 oracle, for tests."""

_KERNEL_DTYPES = (torch.float32, torch.bfloat16)


def choose_kernels(impl: Impl, q: Tensor) -> CDLL | None:
    """The compiled kernels if they are to serve a call with queries (or rows to store) `q` (N, H, D), else None."""
    if impl == "cpu":
        kernels = library.load()
        if kernels is None:
            raise RuntimeError("impl='cpu' needs the compiled kernels: install a C++ compiler and reinstall plait")
        return kernels
    if impl != "auto" or not q.is_cpu or q.dtype not in _KERNEL_DTYPES:
        return None
    size = q.shape[2]
    if size < 16 or size % 8 or (q.requires_grad and torch.is_grad_enabled()):
        return None
    kernels = library.load()
    if kernels is None:
        library.warn_missing()
    return kernels


def uses_triton(impl: Impl, rows: tuple[Tensor, ...], k_pool: Tensor, v_pool: Tensor) -> bool:
    """Do the Triton kernels serve a call with queries `rows[0]` (N, H, D) and these pools? `rows` has new keys and
    values (N, K, D) too, where they are to be stored.

    Raises ValueError for "triton" where they cannot."""
    if impl not in ("auto", "triton") or (impl == "auto" and not rows[0].is_cuda):
        return False
    missing = gap(rows, k_pool, v_pool)
    if missing is not None and impl == "triton":
        raise ValueError(f"the Triton kernels have no {missing}; leave impl out for plain torch")
    return missing is None


@overload
def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    cap: float | None = ...,
    inv_freq: Tensor | None = ...,
    impl: Impl = ...,
    return_lse: Literal[False] = ...,
    threads: int = ...,
    out: Tensor | None = ...,
    is_invariant: bool = ...,
) -> Tensor: ...


@overload
def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    cap: float | None = ...,
    inv_freq: Tensor | None = ...,
    impl: Impl = ...,
    return_lse: Literal[True],
    threads: int = ...,
    out: Tensor | None = ...,
    is_invariant: bool = ...,
) -> tuple[Tensor, Tensor]: ...


def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    cap: float | None = None,
    inv_freq: Tensor | None = None,
    impl: Impl = "auto",
    return_lse: bool = False,
    threads: int = 1,
    out: Tensor | None = None,
    is_invariant: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of every query row over its view: exact softmax over all its spans, merged by log-sum-exp.

    Args:
        q: (N, H, D), float32 or bfloat16, already rotated (RoPE, half-split pairs) for each row's own position. May be
            a strided view whose last dimension is contiguous.
        k_pool: (P, K, D, B): keys, transposed inside a block, rotated for the positions they were written at.
        v_pool: (P, K, B, D): values, same dtype as `k_pool`. H is a multiple of K; B is a multiple of 16. For bfloat16
            pools the compiled kernel may round queries and weights to bfloat16 too (csrc/span_attention.cpp). Pools of
            int8 hold D + 4 for D: the scales (int8.py).
        plan: who sees what. Its derived data is kept in it, so use one plan for all layers of a step.
        scale: factor of all scores, ordinarily 1 / sqrt(D).
        cap: c, where scaled scores s become c * tanh(s / c) (Gemma 2) before a group's temperature divides them; None:
            they stay.
        inv_freq: (R,), R <= D / 2, RoPE's angles per position; needed if a span is shifted. Only dims 0 .. 2R - 1 turn.
        impl: see `Impl`. `auto` takes plain torch for other devices and dtypes, for head sizes that are not a multiple
            of 8 from 16 on, with a `cap`, and when `q` needs a gradient.
        return_lse: also return the log-sum-exp.
        threads: OpenMP threads of the compiled kernel.
        out: where to write the result, a contiguous tensor like `q`; a new tensor if None.
        is_invariant: a row's bits do not depend on the other rows of the plan. On a GPU it costs speed: False lets the
            Triton kernels divide the work as suits the plan. The compiled kernels of the CPU are always so, plain torch
            is not: the last bits depend on the shape of its products.

    Returns:
        (N, H, D) in the dtype of `q`: sum over groups g of softmax_g(factor_g * lse_g + bias_g) * o_g, with o_g the
        ordinary attention over the group's keys at scores q.k * scale / T_g, and lse_g its natural log-sum-exp (APE,
        arXiv 2502.05431, section 4). Rows that see nothing get zeros. With `return_lse` also the float32 (N, H)
        log-sum-exp over groups of factor_g * lse_g + bias_g; -inf where a row sees nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit, a plan that points outside its rows, runs or blocks,
            `impl="cpu"` with a `cap`, or `impl="triton"` with what the kernels have not (see `uses_triton`).
        RuntimeError: `impl="cpu"` without the compiled kernels.
    """
    if out is not None and (out.shape != q.shape or out.dtype != q.dtype or not out.is_contiguous()):
        raise ValueError(f"out must be a contiguous {q.dtype} tensor of shape {tuple(q.shape)}")
    if impl == "cpu" and cap is not None:
        raise ValueError("the compiled kernels cannot cap scores; leave impl out for plain torch")
    kernels = choose_kernels(impl, q) if cap is None else None
    lse: Tensor | None
    if uses_triton(impl, (q,), k_pool, v_pool):
        from .gpu import attend as gpu  # Triton is there where there is a GPU

        check_call(q, k_pool, v_pool, plan)
        result, lse = gpu.span_attention(
            q, k_pool, v_pool, plan, scale=scale, cap=cap, inv_freq=inv_freq, out=out, is_invariant=is_invariant
        )
    elif kernels is not None:
        result, lse = cpu.span_attention(
            q, k_pool, v_pool, plan, scale=scale, inv_freq=inv_freq, return_lse=return_lse, threads=threads, out=out,
            kernels=kernels,
        )  # fmt: skip
    else:
        check_call(q, k_pool, v_pool, plan)
        slow = reference if impl == "reference" else plain
        result, lse = slow.span_attention(q, k_pool, v_pool, plan, scale=scale, cap=cap, inv_freq=inv_freq)
        result, lse = result.to(q.dtype), lse.float()
        if out is not None:
            result = out.copy_(result)
    if not return_lse:
        return result
    assert lse is not None
    return result, lse
