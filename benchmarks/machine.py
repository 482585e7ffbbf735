"""What this machine can do at best, measured: the limits that benchmarks are compared with."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def median_seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time of `call` after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory_bandwidth(num_bytes: int = 1 << 29) -> float:
    """Bytes per second between memory and one core: the faster of a copy (read + write) and a sum (read)."""
    source = torch.ones(num_bytes // 4)
    target = torch.empty_like(source)
    copy = 2 * num_bytes / median_seconds(lambda: target.copy_(source))
    read = num_bytes / median_seconds(lambda: source.sum())
    return max(copy, read)


def matrix_rate(dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """FLOP per second of torch's product of two large square matrices."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / median_seconds(lambda: a @ b)


def describe() -> str:
    """Processor, threads and versions, for the head of a report."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor}, {torch.get_num_threads()} thread(s), {versions}"
