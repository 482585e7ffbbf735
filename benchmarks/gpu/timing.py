"""How long the device takes: CUDA events around a replayed CUDA graph; the clock on the CPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

WARM_UPS = 3
_MIN_MS = 3.0
"""A measurement takes at least as long, so that starting it does not count."""
_MAX_CALLS = 400
"""In one graph."""

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Of one call."""

    ms: float
    """The median."""
    note: str
    """What its reader must know."""


def measure(calls: Sequence[Call], device: torch.device, repeats: int = 15) -> Timed:
    """The same operation on other data in each of `calls`, in turn, so that no cache holds what the next one reads.

    On CUDA without the time to launch, where a graph can hold the calls; the note says where not.
    """
    if device.type != "cuda":
        return Timed(ms=statistics.median(_wall(calls) for _ in range(repeats)), note="CPU")
    _warm(calls)
    once = _elapsed(lambda: _all(calls)) / len(calls)
    rounds = max(1, min(math.ceil(_MIN_MS / (once * len(calls))), _MAX_CALLS // len(calls)))

    def many() -> None:
        for _ in range(rounds):
            _all(calls)

    graph = _capture(many)
    replay = many if graph is None else graph.replay
    replay()
    times = [_elapsed(replay) / (rounds * len(calls)) for _ in range(repeats)]
    return Timed(ms=statistics.median(times), note="" if graph is not None else "without a CUDA graph")


def wall_ms(call: Call, device: torch.device, repeats: int = 5) -> float:
    """Median by the clock, of a call and all it started."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _warm(calls: Sequence[Call]) -> None:
    """Compiles what is compiled, and brings the clocks up. On a stream of its own, as capturing asks for."""
    cuda: Any = torch.cuda
    stream = cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            _all(calls)
        torch.cuda.synchronize()
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            _all(calls)
            torch.cuda.synchronize()
    torch.cuda.current_stream().wait_stream(stream)


def _capture(call: Call) -> torch.cuda.CUDAGraph | None:
    """None: it does what a graph cannot hold."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
    except Exception:  # Of many kinds, and each of them only means that there is no graph.
        torch.cuda.synchronize()
        return None
    return graph


def _elapsed(call: Call) -> float:
    cuda: Any = torch.cuda
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _wall(calls: Sequence[Call]) -> float:
    start = time.perf_counter()
    _all(calls)
    return (time.perf_counter() - start) * 1e3 / len(calls)
