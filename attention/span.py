"""The one entry point for attention over views, and the choice of its implementation."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from . import plain, reference
from .plan import AttentionPlan

Impl = Literal["auto", "cpu", "torch", "reference"]
"""`auto`: the compiled kernel where it can serve, else plain torch; `reference`: the float64 oracle, for tests."""


@overload
def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    inv_freq: Tensor | None = ...,
    impl: Impl = ...,
    return_lse: Literal[False] = ...,
    threads: int = ...,
    out: Tensor | None = ...,
) -> Tensor: ...


@overload
def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    inv_freq: Tensor | None = ...,
    impl: Impl = ...,
    return_lse: Literal[True],
    threads: int = ...,
    out: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...


def span_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    inv_freq: Tensor | None = None,
    impl: Impl = "auto",
    return_lse: bool = False,
    threads: int = 1,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of every query row over its view: exact softmax over all its spans, merged by log-sum-exp.

    Args:
        q: (N, H, D), float32 or bfloat16, already rotated (RoPE, half-split pairs) for each row's own position. May be
            a strided view whose last dimension is contiguous.
        k_pool: (P, K, D, B): keys, transposed inside a block, rotated for the positions they were written at.
        v_pool: (P, K, B, D): values, same dtype as `k_pool`. H is a multiple of K; B is a multiple of 16.
        plan: who sees what. Its derived data is kept in it, so use one plan for all layers of a step.
        scale: factor of all scores, ordinarily 1 / sqrt(D).
        inv_freq: (R,), R <= D / 2, RoPE's angles per position; needed if a span is shifted. Only dims 0 .. 2R - 1 turn.
        impl: see `Impl`.
        return_lse: also return the log-sum-exp.
        threads: OpenMP threads of the compiled kernel.
        out: where to write the result, a contiguous tensor like `q`; a new tensor if None.

    Returns:
        (N, H, D) in the dtype of `q`: sum over groups g of softmax_g(factor_g * lse_g + bias_g) * o_g, with o_g the
        ordinary attention over the group's keys at scores q.k * scale / T_g, and lse_g its natural log-sum-exp (APE,
        arXiv 2502.05431, section 4). Rows that see nothing get zeros. With `return_lse` also the float32 (N, H)
        log-sum-exp over groups of factor_g * lse_g + bias_g; -inf where a row sees nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit, or a plan that points outside its rows, runs or blocks.
    """
    rows, heads, size = q.shape
    if impl == "reference":
        exact, exact_lse = reference.span_attention(q, k_pool, v_pool, plan, scale=scale, inv_freq=inv_freq)
        result, lse = exact.to(q.dtype), exact_lse.float()
    else:
        result, lse = plain.span_attention(q, k_pool, v_pool, plan, scale=scale, inv_freq=inv_freq)
    if out is not None:
        result = out.copy_(result)
    return (result, lse) if return_lse else result
