"""An hour at saturation: do memory, blocks and speed stay as they are?

    python -m plait.benchmarks.soak [--minutes 60] [--at-a-time 48] [--kv-tokens 6144] [--model FOLDER]

Jobs of all methods (as in `pressure`), each with a seed of its own, one after the other in so many slots, in a KV store
that is too small for them. Of ten jobs one is cancelled somewhere, and one more is malformed and refused. A line for
each minute, after which all end what they are at: then no block may be in use or in the swap space.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ..runtime.engines.native.engine import NativeEngine
from ..runtime.errors import PlaitError
from ..runtime.methods.base import Method
from ..runtime.methods.sequential import Sequential
from ..runtime.runtime import Runtime
from . import machine
from .pressure import COUNTDOWN, methods

_ROUND = 600
"""Jobs that are made at a time."""


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def endless(model: str) -> Iterator[Method]:
    """Jobs of all methods."""
    for seed in count():
        yield from methods(model, _ROUND, seed)


class Load:
    """Keeps the slots busy until it is told to stop."""

    def __init__(self, runtime: Runtime, model: str) -> None:
        self.ended: Counter[str] = Counter()
        """Jobs by what came of them."""
        self.tokens = 0
        self.preemptions = 0
        self._runtime = runtime
        self._jobs = endless(model)
        self._seeds = count()
        self._rng = random.Random(0)

    async def slot(self, until: float) -> None:
        """One job after the other."""
        while time.monotonic() < until:
            kind = self._rng.randrange(10)
            if kind == 0:
                await self._refused()
            else:
                await self._job(is_cancelled=kind == 1)

    async def _refused(self) -> None:
        try:
            await self._runtime.submit(Sequential(prompt=[1 << 30], max_tokens=4))
        except PlaitError:
            self.ended["refused"] += 1

    async def _job(self, *, is_cancelled: bool) -> None:
        job = await self._runtime.submit(next(self._jobs), seed=next(self._seeds))
        left = self._rng.randrange(1, 200)
        async for _ in job:
            left -= 1
            if is_cancelled and left == 0:
                job.cancel()
        try:
            result = await job
        except asyncio.CancelledError:
            self.ended["cancelled"] += 1
            return
        self.ended[result.finish_reason.value] += 1
        self.tokens += result.usage.generated_tokens
        self.preemptions += result.usage.preemptions


async def run(options: argparse.Namespace) -> None:
    async with Runtime(options.model, kv_tokens=options.kv_tokens) as runtime:
        engine = runtime.engine
        assert isinstance(engine, NativeEngine) and engine.store.swap is not None
        load = Load(runtime, options.model)
        for minute in range(options.minutes):
            began, cpu, tokens, preemptions = time.monotonic(), time.process_time(), load.tokens, load.preemptions
            await asyncio.gather(*(load.slot(began + 60) for _ in range(options.at_a_time)))
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
            engine.store.check_integrity()
            usage, tokens = engine.block_usage(), load.tokens - tokens
            assert usage.used == engine.store.swap.used == 0
            gc.collect()
            cells = (
                f"{minute + 1}", f"{load.ended.total():,}", f"{tokens / seconds:,.0f}", f"{tokens / cpu:,.0f}",
                f"{load.preemptions - preemptions:,}", f"{resident():,.0f}", f"{usage.used}",
                f"{usage.free + usage.cached} of {usage.total}", f"{engine.store.swap.used}",
                f"{len(asyncio.all_tasks())}", f"{len(gc.get_objects()):,}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
        print("\n" + ", ".join(f"{kind}: {number:,}" for kind, number in sorted(load.ended.items())))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=COUNTDOWN)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--at-a-time", type=int, default=48)
    parser.add_argument("--kv-tokens", type=int, default=6144)
    options = parser.parse_args()
    print(f"{machine.describe()}\n\n{options.model}, {options.at_a_time} jobs at a time, {options.kv_tokens} tokens\n")
    heads = (
        "minute", "jobs", "tokens/s", "tokens per CPU second", "preemptions", "MiB", "used", "free or cached", 
        "swapped", "tasks", "objects",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' ---: |' * len(heads)}")
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
