"""Span attention on the CPU against torch's scaled dot product attention over replicated keys and values.

    python -m plait.benchmarks.span_attention

One thread. Each repetition times everything once in turn (span attention, the same without sharing, the peer), so that
a busy machine slows all alike; figures are medians over the repetitions. The peer gets its keys and values replicated,
contiguous and free of charge. The bar: 32 branches over a shared prefix of 2,048 tokens, at least 5 times as fast as
the peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..attention import AttentionPlan, span_attention
from .machine import describe, matrix_rate, memory_bandwidth

BAR = 5.0
"""Speed-up that `BAR_CASE` must reach."""
BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`branches` views: a prefix that all share, then `own` tokens of their own."""

    name: str
    branches: int
    prefix: int
    """Shared tokens; a multiple of the block size."""
    own: int
    """Tokens of each branch's own run, the last `rows` of them being the queries of this step."""
    rows: int = 1
    """Query rows per branch; with more than one (prefill) `prefix` is 0 and `own` equals it."""
    heads: int = 4
    kv_heads: int = 4
    size: int = 48
    dtype: torch.dtype = torch.float32

    @property
    def flops(self) -> int:
        """Of the two matrix products, counting only visible keys."""
        keys = self.rows * (self.prefix + self.own) - self.rows * (self.rows - 1) // 2
        return 4 * self.branches * self.heads * self.size * keys

    @property
    def unique_bytes(self) -> int:
        """Of keys and values, each counted once."""
        tokens = self.prefix + self.branches * self.own
        return 2 * tokens * self.kv_heads * self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Medians of one case; times in seconds per call (one layer)."""

    case: Case
    seconds: float
    plan_seconds: float
    """Cutting the work of a new plan, once per step and not per layer."""
    unshared_seconds: float
    """The same kernel on a plan that does not say that the prefix is one run."""
    peer_seconds: float

    @property
    def speedup(self) -> float:
        """Over the peer."""
        return self.peer_seconds / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All cases and this machine's limits, measured before and after them (the better of the two)."""

    measurements: list[Measurement]
    flops: float
    """FLOP per second of a float32 matrix product, one core."""
    bandwidth: float
    """Bytes per second between memory and one core."""

    def flop_share(self, result: Measurement) -> float:
        """Of the matrix product's rate."""
        return result.case.flops / result.seconds / self.flops

    def bandwidth_share(self, result: Measurement) -> float:
        """Distinct keys and values per second, of the memory's rate; above 1 if they stay in a cache."""
        return result.case.unique_bytes / result.seconds / self.bandwidth


BAR_CASE = Case(name="32 over 2048 shared", branches=32, prefix=2048, own=16)
_HALF = replace(BAR_CASE, name="32 over 2048 shared, bf16", dtype=torch.bfloat16)
_LARGE = replace(BAR_CASE, name="32 over 2048 shared, 0.6B", heads=16, kv_heads=8, size=128)
_ALONE = replace(BAR_CASE, name="1 branch, 2048 tokens", branches=1, prefix=0, own=2048)
_PREFILL = replace(_ALONE, name="prefill of 512", own=512, rows=512)
CASES = (
    BAR_CASE,
    _HALF,
    _LARGE,
    replace(_LARGE, name="32 over 2048 shared, 0.6B bf16", dtype=torch.bfloat16),
    replace(BAR_CASE, name="32 over 16 shared", prefix=16),
    replace(BAR_CASE, name="64 without sharing", branches=64, prefix=0, own=512),
    replace(_ALONE, name="1 branch, 200 tokens", own=200),
    _ALONE,
    replace(_LARGE, name="1 branch, 2048 tokens, 0.6B bf16", branches=1, prefix=0, own=2048, dtype=torch.bfloat16),
    _PREFILL,
    replace(_LARGE, name="prefill of 512, 0.6B", branches=1, prefix=0, own=512, rows=512),
)
"""0.6B: the heads of Qwen3-0.6B; the others are those of the shipped model."""


def _plan(case: Case, *, shared: bool) -> AttentionPlan:
    """Blocks of the prefix come first in the pool, then those of each branch; `shared=False` lists the prefix anew."""
    prefix, own = case.prefix // BLOCK, -(-case.own // BLOCK)
    copies = (1 if shared else case.branches) if prefix else 0
    runs = [range(prefix)] * copies + [range(prefix + i * own, prefix + (i + 1) * own) for i in range(case.branches)]
    entries = []
    for i in range(case.branches):
        if prefix:
            entries.append((i * case.rows, case.rows, 0 if shared else i, 0, case.prefix, 0, 0, 0))
        entries.append((i * case.rows, case.rows, copies + i, 0, case.own, 1, 0, 0))
    return AttentionPlan(
        num_rows=case.branches * case.rows,
        run_blocks=np.array([block for run in runs for block in run], dtype=np.int32),
        run_start=np.cumsum([0, *map(len, runs)]).astype(np.int32),
        entries=np.array(entries, dtype=np.int32),
    )


def _replicate(case: Case, k_pool: Tensor, v_pool: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of each branch, (branches, K, prefix + own, D), contiguous."""
    prefix, own = case.prefix // BLOCK, -(-case.own // BLOCK)
    tables = [[*range(prefix), *range(prefix + i * own, prefix + (i + 1) * own)] for i in range(case.branches)]
    blocks, tokens = torch.tensor(tables), case.prefix + case.own
    keys = k_pool[blocks].permute(0, 2, 1, 4, 3).flatten(2, 3)[:, :, :tokens]
    values = v_pool[blocks].permute(0, 2, 1, 3, 4).flatten(2, 3)[:, :, :tokens]
    return keys.contiguous(), values.contiguous()


def _seconds(call: Callable[[], object], at_least: float = 2e-3) -> float:
    """Per call, over as many calls in a row as take about `at_least` seconds."""
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    count = max(1, int(at_least / once))
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def measure(case: Case, repetitions: int = 15) -> Measurement:
    """Time one case on one thread; raises AssertionError if the peer's result differs."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    blocks = case.prefix // BLOCK + case.branches * -(-case.own // BLOCK)
    k_pool = torch.randn(blocks, case.kv_heads, case.size, BLOCK, generator=generator).to(case.dtype)
    v_pool = torch.randn(blocks, case.kv_heads, BLOCK, case.size, generator=generator).to(case.dtype)
    q = torch.randn(case.branches * case.rows, case.heads, case.size, generator=generator).to(case.dtype)
    shared, unshared = _plan(case, shared=True), _plan(case, shared=False)
    out, scale = torch.empty_like(q), case.size**-0.5
    keys, values = _replicate(case, k_pool, v_pool)
    peer_q = q.view(case.branches, case.rows, case.heads, case.size).transpose(1, 2)

    def span(plan: AttentionPlan) -> Tensor:
        return span_attention(q, k_pool, v_pool, plan, scale=scale, out=out)

    def planned() -> Tensor:
        shared.derived.clear()
        return span(shared)

    def peer() -> Tensor:
        return scaled_dot_product_attention(
            peer_q, keys, values, scale=scale, is_causal=case.rows > 1, enable_gqa=case.heads != case.kv_heads
        )

    tolerance = 2e-2 if case.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(span(shared), peer().transpose(1, 2).reshape(q.shape), rtol=tolerance, atol=tolerance)
    calls: list[Callable[[], object]] = [lambda: span(shared), planned, lambda: span(unshared), peer]
    times = [[_seconds(call) for call in calls] for _ in range(repetitions)]
    seconds, planned_seconds, unshared_seconds, peer_seconds = (median(column) for column in zip(*times, strict=True))
    return Measurement(
        case=case,
        seconds=seconds,
        plan_seconds=max(0.0, planned_seconds - seconds),
        unshared_seconds=unshared_seconds,
        peer_seconds=peer_seconds,
    )


def measure_all(cases: tuple[Case, ...] = CASES, repetitions: int = 15) -> Report:
    """Time all cases, about two seconds each."""
    torch.set_num_threads(1)
    limits = [(matrix_rate(), memory_bandwidth(1 << 28))]
    measurements = [measure(case, repetitions) for case in cases]
    limits.append((matrix_rate(), memory_bandwidth(1 << 28)))
    return Report(
        measurements=measurements,
        flops=max(flops for flops, _ in limits),
        bandwidth=max(bandwidth for _, bandwidth in limits),
    )


def main() -> None:
    """Print the table and whether the bar is met."""
    report = measure_all()
    print(describe())
    print(
        f"{'case':34}{'span us':>10}{'plan us':>9}{'unshared us':>13}{'SDPA us':>11}{'speed-up':>10}"
        f"{'FLOP share':>12}{'memory share':>14}"
    )
    for result in report.measurements:
        print(
            f"{result.case.name:34}{result.seconds * 1e6:10.1f}{result.plan_seconds * 1e6:9.1f}"
            f"{result.unshared_seconds * 1e6:13.1f}{result.peer_seconds * 1e6:11.1f}{result.speedup:9.1f}x"
            f"{report.flop_share(result):12.0%}{report.bandwidth_share(result):14.0%}"
        )
    print(f"FLOP share: of {report.flops / 1e9:.0f} GFLOP/s, a float32 matrix product")
    print(f"memory share: of {report.bandwidth / 1e9:.0f} GB/s, a copy (above 100%: keys and values stay in a cache)")
    bar = next(result for result in report.measurements if result.case is BAR_CASE)
    print(f"{BAR_CASE.name}: {bar.speedup:.1f}x against a bar of {BAR:.0f}x")


if __name__ == "__main__":
    main()
