"""Span attention on the card against its floor and against others', on the views that the methods make.

    python -m plait.benchmarks.gpu.attention

The floor of a workload is the time to read the keys and values that are seen, once each, and queries and outputs, at
the rate of a large copy, or that of its arithmetic at the rate of a large matrix product, whichever is longer. Figures
are medians per call of one layer through a CUDA graph, in turn over several sets of tensors, which no cache holds.
Before anything is timed, some rows are compared with float64 arithmetic: what is wrong, or not a number, has no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...attention import AttentionPlan, Impl, span_attention
from . import peers
from .floor import Rates, rates
from .lines import FLOOR, Setting, setting
from .peers import Attend, Tensors
from .timing import measure, wall_ms
from .workloads import FULL, TINY, Kind, Workload

TOLERANCE = 1e-2
"""Relative error of a row in bfloat16, which rounds to 1/256."""
PEER_TOLERANCE = 3e-2
NEAR = 1.05
"""A shared prefix may cost as much more than the same without sharing: noise."""
_FLAT = "plait, not shared"
FIXED = "plait, batch-invariant"
_LARGE = 1 << 28
"""Bytes that no cache holds."""

Peer = Callable[[Workload, Tensors], tuple[Attend, str]]
PEERS: dict[str, tuple[Peer, tuple[Kind, ...]]] = {
    "SDPA": (peers.sdpa, ("decode", "shifted")),
    "SDPA, heads as rows": (peers.sdpa_folded, ("decode", "tree", "shifted")),
    "SDPA, causal": (peers.sdpa_prefill, ("prefill",)),
    "FlexAttention": (peers.flex, ("decode", "tree")),
    "FlashInfer": (peers.flashinfer, ("decode",)),
}
"""Each with what it can do at all; those that compile come last."""


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Of the worst row and head; not a number if anything is not."""
    found, exact = found.double(), exact.double()
    errors = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-30)
    return float(errors.max()) if bool(found.isfinite().all()) else math.nan


def exact_rows(workload: Workload, tensors: Tensors, rows: Sequence[int]) -> Tensor:
    """Float64, by plain torch."""
    q, k_pool, v_pool = tensors
    return span_attention(
        q[list(rows)].double(), k_pool, v_pool, workload.part(rows),
        scale=workload.size**-0.5, inv_freq=workload.inv_freq(q.device), impl="torch",
    )  # fmt: skip


def sample(workload: Workload, count: int = 4) -> list[int]:
    """Rows from first to last."""
    return sorted({i * (workload.rows - 1) // (count - 1) for i in range(count)})


def ours(
    workload: Workload, tensors: Tensors, plan: AttentionPlan, impl: Impl, *, is_invariant: bool = False
) -> Attend:
    q, k_pool, v_pool = tensors
    out, inv_freq = torch.empty_like(q), workload.inv_freq(q.device)

    def attend() -> Tensor:
        return span_attention(
            q, k_pool, v_pool, plan,
            scale=workload.size**-0.5, inv_freq=inv_freq, out=out, impl=impl, is_invariant=is_invariant,
        )  # fmt: skip

    return attend


def _bar(workload: Workload, share: float) -> tuple[str, bool | None]:
    if workload.bar is None:
        return "", None
    return f"at least {workload.bar:.0%} of the floor", share >= workload.bar


def measure_ours(at: Setting, workload: Workload, limits: Rates, sets: list[Tensors], impl: Impl) -> Tensor | None:
    """The result for the first set; None if it is wrong."""
    book, plan = at.book, workload.plan()
    floor = limits.floor_ms(workload.num_bytes, workload.flops)
    book.add(workload.name, FLOOR, floor, note=f"{workload.num_bytes / 1e6:.1f} MB, {workload.flops / 1e9:.1f} GFLOP")
    calls = [ours(workload, tensors, plan, impl) for tensors in sets]
    rows = sample(workload)
    results = [call() for call in (calls[0], calls[-1])]
    errors = [
        relative_error(result[rows], exact_rows(workload, tensors, rows))
        for result, tensors in zip(results, (sets[0], sets[-1]), strict=True)
    ]
    error = max(errors, key=lambda error: math.inf if math.isnan(error) else error)
    if not error <= TOLERANCE or not all(bool(result.isfinite().all()) for result in results):
        book.add(workload.name, error=f"wrong: relative error {error:.2g}, at most {TOLERANCE} allowed")
        return None
    timed = measure(calls, at.device)

    def planned() -> None:
        plan.derived.clear()
        calls[0]()

    plan_ms = wall_ms(planned, at.device) - wall_ms(calls[0], at.device)
    note = f"relative error {error:.1g}, new plan {max(0.0, plan_ms):.2f} ms"
    bar, is_met = _bar(workload, floor / timed.ms)
    book.add(
        workload.name, value=timed.ms, bar=bar, is_met=None if at.is_dry else is_met,
        note="; ".join(filter(None, (timed.note, note))),
    )  # fmt: skip
    fixed = measure([ours(workload, tensors, plan, impl, is_invariant=True) for tensors in sets], at.device)
    book.add(workload.name, FIXED, fixed.ms, note=fixed.note)
    if workload.kind == "decode" and workload.rows < len(workload.lengths):
        flat = workload.plan(is_flat=True)
        apart = measure([ours(workload, tensors, flat, impl) for tensors in sets], at.device)
        book.add(
            workload.name, _FLAT, apart.ms, note=apart.note, bar="sharing never slower",
            is_met=None if at.is_dry else timed.ms <= NEAR * apart.ms,
        )  # fmt: skip
    return results[0]


def measure_peer(at: Setting, name: str, peer: Peer, workload: Workload, sets: list[Tensors], result: Tensor) -> None:
    attend, note = peer(workload, sets[0])
    error = relative_error(attend(), result)
    if not error <= PEER_TOLERANCE:
        note += f"; differs from ours by {error:.2g}"
    held = workload.num_bytes if peer in (peers.flex, peers.flashinfer) else _replicated_bytes(workload)
    calls = [attend] if held > _LARGE else [attend, *(peer(workload, tensors)[0] for tensors in sets[1:])]
    timed = measure(calls, at.device)
    at.book.add(workload.name, name, timed.ms, note="; ".join(filter(None, (timed.note, note))))


def _replicated_bytes(workload: Workload) -> int:
    lines = workload.lines
    tokens = int((lines[:, 3] - lines[:, 2]).sum()) if workload.kind != "prefill" else 0
    return 2 * tokens * workload.kv_heads * workload.size * workload.dtype.itemsize


def run(at: Setting, impl: Impl = "auto") -> None:
    book = at.book
    limits = rates(at)
    workloads = [workload for workload in (TINY if at.is_dry else FULL) if at.wants(workload.name)]
    results: dict[str, Tensor | None] = {}

    def sets_of(workload: Workload) -> list[Tensors]:
        count = 2 if at.is_dry else min(32, max(4, -(-_LARGE // workload.num_bytes)))
        return [workload.tensors(at.device, seed) for seed in range(count)]

    for workload in workloads:
        with book.attempt(workload.name):
            results[workload.name] = measure_ours(at, workload, limits, sets_of(workload), impl)
    if not at.has_peers:
        return
    missing = [] if at.is_cuda and peers.has_flashinfer() else ["FlashInfer"]
    for name in missing:
        book.add("peers", name, note="is not there")
    # Those with a bar first, where time may run out.
    by_weight = sorted(workloads, key=lambda workload: workload.bar is None)
    for name, (peer, kinds) in PEERS.items():
        for workload in by_weight:
            result = results.get(workload.name)
            if workload.kind not in kinds or result is None or name in missing:
                continue
            with book.attempt(workload.name, name):
                book.need(15)
                measure_peer(at, name, peer, workload, sets_of(workload), result)
            if peer is peers.flashinfer and book.lines[-1].error:
                break  # It compiles for a minute before it fails.


def main(arguments: list[str] | None = None) -> None:
    with torch.no_grad():
        run(setting("attention", __doc__, arguments))


if __name__ == "__main__":
    main()
