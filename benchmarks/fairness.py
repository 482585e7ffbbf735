"""A small job beside a large one: what each of them loses.

    python -m plait.benchmarks.fairness [--model countdown] [--samples 512] [--tokens 64] [--repeats 5]

The small job is one greedy branch, the large one `SelfConsistency` with so many samples. The small one's times, to its
first token and between tokens (median and 95th percentile), and its tokens per second, alone and while the large one
runs; the large one's tokens per second alone and while small ones run one after the other. First with the slices that
the engine finds fair, then with `--slices` of fixed sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field

from ..runtime.events import Text
from ..runtime.methods.self_consistency import SelfConsistency
from ..runtime.methods.sequential import Sequential
from ..runtime.runtime import Runtime
from . import machine


@dataclass(slots=True)
class Times:
    """Seconds of small jobs."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    """For each token but the first ones; tokens that come together have waited for each other."""

    def row(self) -> str:
        between = sorted(self.between)
        cells = (
            statistics.median(self.first) * 1e3,
            statistics.median(between) * 1e3,
            between[int(0.95 * (len(between) - 1))] * 1e3,
        )
        return " | ".join(f"{value:.2f}" for value in cells) + f" | {len(between) / sum(between):,.0f}"


async def small(runtime: Runtime, prompt: str, tokens: int, times: Times) -> None:
    """One small job."""
    began = time.perf_counter()
    job = await runtime.submit(Sequential(prompt=prompt, max_tokens=tokens, temperature=0))
    at = None
    async for event in job:
        if isinstance(event, Text):
            now = time.perf_counter()
            if at is None:
                times.first.append(now - began)
            else:
                times.between += [(now - at) / event.tokens] * event.tokens
            at = now
    await job


async def measure(options: argparse.Namespace, slice_rows: int | None) -> str:
    """A line of the table."""
    async with Runtime(options.model, kv_tokens=options.kv_tokens, slice_rows=slice_rows) as runtime:

        async def large(seed: int) -> float:
            method = SelfConsistency(
                prompt=options.prompt, n=options.samples, max_tokens=options.tokens, temperature=1.0, answer="text"
            )
            began = time.perf_counter()
            result = await (await runtime.submit(method, seed=seed))
            return result.usage.generated_tokens / (time.perf_counter() - began)

        await large(0)
        alone, beside = Times(), Times()
        for _ in range(options.repeats):
            await small(runtime, options.prompt, options.tokens, alone)
        whole = statistics.median([await large(seed) for seed in range(options.repeats)])
        shared = []
        for seed in range(options.repeats):
            task = asyncio.ensure_future(large(seed))
            await asyncio.sleep(0.05)
            while not task.done():
                await small(runtime, options.prompt, options.tokens, beside)
            shared.append(await task)
    lines = (alone, f"| {slice_rows or 'fair'} | alone", whole), (beside, "| | beside", statistics.median(shared))
    return "\n".join(f"{head} | {times.row()} | {rate:,.0f} |" for times, head, rate in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="countdown")
    parser.add_argument("--prompt", default="seq 24 : 8 3 1 ;")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, nargs="*", default=[], help="fixed ones beside the default")
    parser.add_argument("--kv-tokens", type=int, default=1 << 17)
    options = parser.parse_args()
    print(f"{machine.describe()}\n\n{options.model}, a large job of {options.samples} samples\n")
    print("| slice_rows | | first token ms | between ms | p95 ms | small: tokens/s | large: tokens/s |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for slice_rows in (None, *options.slices):
        print(asyncio.run(measure(options, slice_rows)), flush=True)


if __name__ == "__main__":
    main()
