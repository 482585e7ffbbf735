"""How many threads of the compiled kernels a model is worth, on the cores that are free when it is loaded."""

from __future__ import annotations

import logging
import math
import os
import time

import torch

from .model import LayerOps
from .ops import KernelOps

_LARGE = 64 << 20
"""Bytes of packed weights. Below, a step is so short that threads cost more than they bring."""
_ROWS = (1, 16)
_LAYERS = 4
_REPEATS = 3
_GAIN = 1.2
"""So many times as fast as with the fewer threads is what more of them must be: others may want the cores later."""

logger = logging.getLogger(__name__)


def settle_threads(ops: LayerOps) -> int:
    """The number of threads that pays for these weights, which `ops` then works with."""
    if not isinstance(ops, KernelOps) or ops.packed.num_bytes < _LARGE:
        return 1
    chosen, best = 1, _seconds(ops, 1)
    for threads in _counts(_cores()):
        if (seconds := _seconds(ops, threads)) * _GAIN < best:
            chosen, best = threads, seconds
    ops.work.threads = chosen
    logger.info("%d thread(s) of %d cores: more do not pay now", chosen, _cores())
    return chosen


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> int:
    """Of these no more than OMP_NUM_THREADS."""
    cores = usable_cores()
    named = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(named)) if named.isdecimal() and int(named) else cores


def _counts(cores: int) -> list[int]:
    """2, 4, 8, ... and all of them."""
    return sorted({min(2**i, cores) for i in range(1, cores.bit_length() + 1)} - {1})


def _seconds(ops: KernelOps, threads: int) -> float:
    """Of some layers and the head, without attention: the geometric mean over few and more rows."""
    config, times = ops.config, []
    ops.work.threads = threads
    for rows in _ROWS:
        tokens = torch.zeros(rows, dtype=torch.int64)
        attended = torch.zeros(rows, config.num_heads, config.head_dim)
        best = math.inf
        for _ in range(_REPEATS):
            start = time.perf_counter()
            x = ops.embed(tokens)
            for layer in range(min(_LAYERS, config.num_layers)):
                ops.qkv(layer, x)
                ops.finish(layer, x, attended)
            ops.head(x)
            best = min(best, time.perf_counter() - start)
        times.append(best)
    return math.prod(times) ** (1 / len(times))
