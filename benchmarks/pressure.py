"""Jobs of all methods in KV stores that are too small for them: do they say the same, and what does it cost?

    python -m plait.benchmarks.pressure [--jobs 500] [--at-a-time 200] [--shares 1 0.25 0.1]

The same jobs on the shipped Countdown model, first in a store for all of them, then in shares of the blocks that were
in use at most then. `same`: jobs with the tokens of the first run, branch by branch; `too large`: jobs that do not fit
even alone. CPU is that of the whole process.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.benchmarks.countdown.problems import validation
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.methods.apr import APR
from ..runtime.methods.apr.compact import CompactDialect
from ..runtime.methods.base import Method
from ..runtime.methods.hogwild import Hogwild
from ..runtime.methods.multiverse import Multiverse
from ..runtime.methods.self_consistency import SelfConsistency
from ..runtime.methods.sequential import Sequential
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from ..search.tree_search import TreeSearch
from . import machine

WHOLE = 1 << 19
"""Tokens of a store for all."""


def nearness(prompt: str, steps: Sequence[str]) -> float:
    """A reward that needs no model."""
    return 1 / (1 + len(steps[-1]))


def methods(count: int, seed: int = 0) -> list[Method]:
    """So many jobs, of each method in turn."""
    rng = random.Random(seed)

    def all_kinds() -> Iterator[Method]:
        for problem in validation(4, -(-count // 6)):

            def text(mode: str, nums: Any = problem.nums, target: int = problem.target) -> str:
                return CompactDialect().root_prompt(nums, target, mode)

            yield Sequential(prompt=text("seq"), answer="countdown", temperature=1.0)
            yield SelfConsistency(prompt=text("seq"), n=rng.randint(2, 6), answer="countdown", max_tokens=150)
            yield APR(prompt=text("apr"), dialect="compact", temperature=rng.choice([0.0, 1.0]))
            yield Multiverse(prompt=text("mv"))
            yield TreeSearch(
                prompt=text("step"), delimiters=(";",), answer="equations", width=6, reward=nearness, strategy="rebase"
            )
            yield Hogwild(prompt=text("seq"), workers=("A", "B", "C"), max_tokens=60)

    return [method for method, _ in zip(all_kinds(), range(count), strict=False)]


def said(result: Result) -> tuple[object, ...]:
    """All that a job sampled, and what came of it."""
    return result.text, result.answer, sorted(segment.token_ids for segment in result.trace.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass over the jobs."""

    blocks: int
    """Of the store."""
    said: list[tuple[object, ...]]
    too_large: int
    """Jobs of which a branch ended for lack of memory."""
    tokens: int
    preemptions: int
    moved: int
    """Blocks moved to host memory."""
    peak: int
    """Blocks in use at most, as far as was seen."""
    seconds: float
    cpu: float


async def run(jobs: Sequence[Method], kv_tokens: int, at_a_time: int) -> Run:
    """All jobs, so many at a time."""
    slots, peak = asyncio.Semaphore(at_a_time), 0

    async with Runtime("countdown", kv_tokens=kv_tokens) as runtime:
        engine = runtime.engine
        assert isinstance(engine, NativeEngine) and engine.store.swap is not None

        async def one(i: int, method: Method) -> Result:
            nonlocal peak
            async with slots:
                job = await runtime.submit(method, seed=i)
                async for _ in job:
                    peak = max(peak, engine.block_usage().used)
                return await job

        began, cpu = time.perf_counter(), time.process_time()
        results = await asyncio.gather(*(one(i, method) for i, method in enumerate(jobs)))
        engine.store.check_integrity()
        usage = engine.block_usage()
        assert usage.used == 0 and engine.store.num_swapped == 0
        return Run(
            blocks=usage.total,
            said=[said(result) for result in results],
            too_large=sum(
                any(branch.finish == "memory" for branch in result.trace.branches.values()) for result in results
            ),
            tokens=sum(result.usage.generated_tokens for result in results),
            preemptions=sum(result.usage.preemptions for result in results),
            moved=engine.store.swap.moved_out,
            peak=peak,
            seconds=time.perf_counter() - began,
            cpu=time.process_time() - cpu,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--at-a-time", type=int, default=200)
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 0.25, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jobs = methods(options.jobs, options.seed)
    print(f"{machine.describe()}\n\n{options.jobs} jobs, {options.at_a_time} at a time\n")
    print("| blocks | same | too large | preemptions | blocks moved | tokens/s | tokens per CPU second |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    whole = asyncio.run(run(jobs, WHOLE, options.at_a_time))
    for share in [None, *options.shares]:
        tokens = WHOLE if share is None else max(int(whole.peak * share), 64) * 16
        found = whole if share is None else asyncio.run(run(jobs, tokens, options.at_a_time))
        same = sum(a == b for a, b in zip(found.said, whole.said, strict=True))
        cells = (
            f"{found.blocks:,}", f"{same} of {len(jobs)}", f"{found.too_large}", f"{found.preemptions:,}",
            f"{found.moved:,}", f"{found.tokens / found.seconds:,.0f}", f"{found.tokens / found.cpu:,.0f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
