"""Jobs of all methods in KV stores that are too small for them: do they say the same, and what does it cost?

    python -m plait.benchmarks.pressure [--model FOLDER] [--jobs 500] [--at-a-time 200] [--shares 1 0.25 0.1]

The same jobs on the shipped Countdown model, or word problems on an instruct model, first in a store for all of them,
then in shares of the blocks that were in use at most then. `same`: jobs with the tokens of the first run, branch by
branch; `too large`: jobs that do not fit even alone. CPU is that of the whole process.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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

COUNTDOWN = "countdown"


def nearness(prompt: str, steps: Sequence[str]) -> float:
    """A reward that needs no model."""
    return 1 / (1 + len(steps[-1]))


def countdown(rng: random.Random, rounds: int) -> Iterator[Method]:
    """So many jobs of each method in turn, for the shipped model."""
    for problem in validation(4, rounds):

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


SYSTEM = "You are a careful teacher of mathematics. Work step by step, write short sentences, and end with the answer."
FACTS = ("A dozen are 12.", "A score are 20.", "A gross are 144.", "A fortnight has 14 days.")


def words(rng: random.Random, rounds: int) -> Iterator[Method]:
    """The same for an instruct model: prompts that begin alike, so that a store that is large enough has them."""
    chat: dict[str, Any] = {"system": SYSTEM, "temperature": 1.0}
    for _ in range(rounds):
        a, b, c = (rng.randint(2, 90) for _ in range(3))
        question = f"A box of pens costs {a} dollars and a box of books {b} dollars. What do {c} boxes of each cost?"
        yield Sequential(prompt=question, max_tokens=60, **chat)
        yield SelfConsistency(prompt=question, n=rng.randint(2, 5), max_tokens=30, answer="text", **chat)
        yield Sequential(prompt=question, contexts=FACTS[: rng.randint(2, 4)], max_tokens=30, **chat)
        yield Multiverse(prompt=question, mode="guided", max_paths=2, max_tokens=60, **chat)
        yield TreeSearch(
            prompt=question, delimiters=(". ",), width=4, step_tokens=16, max_tokens=48, reward=nearness,
            strategy="rebase", **chat,
        )  # fmt: skip
        yield Hogwild(prompt=question, workers=("A", "B"), max_tokens=30, **chat)


def methods(model: str, count: int, seed: int = 0) -> list[Method]:
    """So many jobs."""
    kinds = countdown if model == COUNTDOWN else words
    return list(islice(kinds(random.Random(seed), -(-count // 6)), count))


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


async def run(model: str, dtype: str, jobs: Sequence[Method], kv_tokens: int, at_a_time: int) -> Run:
    """All jobs, so many at a time."""
    slots, peak = asyncio.Semaphore(at_a_time), 0

    async with Runtime(model, dtype=dtype, kv_tokens=kv_tokens) as runtime:
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
    parser.add_argument("--model", default=COUNTDOWN)
    parser.add_argument("--dtype", default="auto", help="of weights, keys and values")
    parser.add_argument("--kv-tokens", type=int, default=1 << 19, help="of a store for all")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--at-a-time", type=int, default=200)
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 0.25, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jobs = methods(options.model, options.jobs, options.seed)

    def pass_with(kv_tokens: int) -> Run:
        return asyncio.run(run(options.model, options.dtype, jobs, kv_tokens, options.at_a_time))

    print(f"{machine.describe()}\n\n{options.model}, {options.jobs} jobs, {options.at_a_time} at a time\n")
    print("| blocks | same | too large | preemptions | blocks moved | tokens/s | tokens per CPU second |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    whole = pass_with(options.kv_tokens)
    for share in [None, *options.shares]:
        found = whole if share is None else pass_with(max(int(whole.peak * share), 64) * 16)
        same = sum(a == b for a, b in zip(found.said, whole.said, strict=True))
        cells = (
            f"{found.blocks:,}", f"{same} of {len(jobs)}", f"{found.too_large}", f"{found.preemptions:,}",
            f"{found.moved:,}", f"{found.tokens / found.seconds:,.0f}", f"{found.tokens / found.cpu:,.0f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
