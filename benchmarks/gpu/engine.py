"""Milliseconds per decode step of the engine against the time to read the weights, transformers beside it.

    python -m plait.benchmarks.gpu.engine

Random bfloat16 weights of real shapes. Branches decode behind prompts of 1,024 tokens of their own, each as long as the
others, event loop and all. The floor is the time to read all weights and the branches' keys and values at the rate of a
large copy, or that of the arithmetic. Medians over repetitions. transformers' `generate` runs on the same weights: with
its dynamic cache, and, for one model, compiled with the static one.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...runtime.engine import Branch, SamplingParams
from ...runtime.engines.native.engine import NativeEngine
from ...runtime.engines.native.options import NativeOptions
from ..decode import NoTokenizer
from .floor import Rates, rates
from .lines import FLOOR, OURS, Setting, setting
from .models import SHAPES, Get, native_model, random_tensors, read_bytes, token_bytes, transformers_model

DTYPE = torch.bfloat16
BAR = 0.85
"""Share of the floor that one branch of a model of 1 to 8 billion parameters must reach."""
CONTEXT, TOKENS, REPEATS = 1024, 200, 3
PEER_TOKENS = 32
FULL = ("Llama-3.1-8B", "Llama-3.2-1B", "Qwen3-4B", "Qwen2.5-0.5B")
COMPILED = "Llama-3.2-1B"
"""The model for which transformers is compiled, too, which takes a while."""
FREE = "plait, not batch-invariant"
_LONG = 8192


def prompts(engine: NativeEngine, count: int, tokens: int) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(engine.vocab_size) for _ in range(tokens)] for _ in range(count)]


async def generate(branches: Sequence[Branch], tokens: int, **params: Any) -> float:
    """Seconds in which all of them write so many tokens."""

    async def one(branch: Branch) -> None:
        await branch.generate(SamplingParams(max_tokens=tokens, ignore_eos=True, **params))

    start = time.perf_counter()
    await asyncio.gather(*map(one, branches))
    return time.perf_counter() - start


async def step_ms(engine: NativeEngine, count: int, context: int, tokens: int, **params: Any) -> float:
    """Median over repetitions, which follow one another on the same branches."""
    branches = [engine.open(prompt, path=(i,)) for i, prompt in enumerate(prompts(engine, count, context))]
    try:
        await generate(branches, 8, **params)
        times = [await generate(branches, tokens, **params) for _ in range(REPEATS)]
    finally:
        for branch in branches:
            branch.close()
        engine.store.evict_all()
    return statistics.median(times) / tokens * 1e3


async def prefill_ms(engine: NativeEngine, tokens: int) -> float:
    times = []
    for _ in range(3):
        branch = engine.open(prompts(engine, 1, tokens)[0])
        times.append(await generate([branch], 0))
        branch.close()
        engine.store.evict_all()
    return statistics.median(times[1:]) * 1e3


def peer_ms(peer: Any, count: int, context: int, tokens: int, device: torch.device, **options: Any) -> float:
    """Per step of transformers' `generate`: what `tokens` steps more than the first take."""
    ids = torch.randint(peer.config.vocab_size, (count, context), device=device)

    def seconds(new: int) -> float:
        start = time.perf_counter()
        peer.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=new, max_new_tokens=new, do_sample=False,
            pad_token_id=0, max_length=None, **options,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(tokens + 1)
    return statistics.median(seconds(tokens + 1) - seconds(1) for _ in range(2)) / tokens * 1e3


async def measure(at: Setting, name: str, limits: Rates, get: Get, *, is_invariant: bool) -> None:
    book, who = at.book, OURS if is_invariant else FREE
    counts: tuple[int, ...] = (1, 8, 64)
    context, tokens, long = CONTEXT, TOKENS, _LONG
    if at.is_dry:
        counts, context, tokens, long = (1, 3), 20, 6, 64
    model = native_model(SHAPES["tiny"] if at.is_dry else SHAPES[name], get, is_invariant=is_invariant)
    config = model.config
    room = max(long, max(counts) * (context + REPEATS * tokens + 64)) + 64
    engine = NativeEngine(model, NoTokenizer(config.vocab_size), NativeOptions(device=str(at.device), kv_tokens=room))
    await engine.start()
    try:
        for count in counts:
            what = f"{name}: {count} branch{'es' if count > 1 else ''} at 1k"
            # In the middle of the repetitions.
            read = read_bytes(config, DTYPE) + count * (context + REPEATS * tokens // 2) * token_bytes(config, DTYPE)
            floor = limits.floor_ms(read, 2 * config.num_parameters * count)
            if is_invariant:
                book.add(what, FLOOR, floor, note=f"{read / 1e9:.2f} GB")
            with book.attempt(what, who):
                book.need(10)
                found = await step_ms(engine, count, context, tokens)
                is_asked = count == 1 and config.num_parameters > 1e9
                book.add(
                    what, who, found, bar=f"at least {BAR:.0%} of the floor" if is_asked else "",
                    is_met=floor / found >= BAR if is_asked else None,
                )  # fmt: skip
        for count in counts[::2]:
            what = f"{name}: {count} at 1k, sampled"
            with book.attempt(what, who):
                book.need(10)
                found = await step_ms(engine, count, context, tokens // 4 + 1, temperature=0.8, top_p=0.95)
                book.add(what, who, found, note="temperature 0.8, top-p 0.95")
        what = f"{name}: prefill of 8k"
        with book.attempt(what, who):
            book.need(10)
            flops = (
                2 * config.num_parameters * long + config.num_layers * 2 * long**2 * config.num_heads * config.head_dim
            )
            if is_invariant:
                book.add(what, FLOOR, limits.floor_ms(0, flops))
            book.add(what, who, await prefill_ms(engine, long))
    finally:
        await engine.close()


def measure_peer(at: Setting, name: str, get: Get) -> None:
    """transformers, eager, and compiled last, since that may take more than the time there is."""
    counts, context, tokens, shape = (1, 8), CONTEXT, PEER_TOKENS, SHAPES[name]
    if at.is_dry:
        counts, context, tokens, shape = (1, 3), 20, 4, SHAPES["tiny"]
    peer = transformers_model(shape, get, at.device, DTYPE)
    for count in counts:
        what = f"{name}: {count} branch{'es' if count > 1 else ''} at 1k"
        with at.book.attempt(what, "transformers"):
            at.book.need(15)
            at.book.add(what, "transformers", peer_ms(peer, count, context, tokens, at.device))


def measure_compiled(at: Setting) -> None:
    peer = transformers_model(SHAPES[COMPILED], random_tensors(SHAPES[COMPILED], at.device, DTYPE), at.device, DTYPE)
    what = f"{COMPILED}: 1 branch at 1k"
    found = peer_ms(peer, 1, CONTEXT, PEER_TOKENS, at.device, cache_implementation="static")
    at.book.add(what, "transformers, compiled", found)


def run(at: Setting) -> None:
    limits = rates(at)
    for name in filter(at.wants, FULL[:1] if at.is_dry else FULL):
        get = random_tensors(SHAPES["tiny"] if at.is_dry else SHAPES[name], at.device, DTYPE)
        with at.book.attempt(name):
            at.book.need(15)
            for is_invariant in (True, False):
                asyncio.run(measure(at, name, limits, get, is_invariant=is_invariant))
        if not at.has_peers:
            continue
        with at.book.attempt(name, "transformers"), torch.inference_mode():
            at.book.need(15)
            measure_peer(at, name, get)
    if at.is_cuda and at.has_peers and at.wants(COMPILED):
        with at.book.attempt(f"{COMPILED}: 1 branch at 1k", "transformers, compiled"):
            at.book.need(30)
            measure_compiled(at)


def main(arguments: list[str] | None = None) -> None:
    run(setting("engine", __doc__, arguments))


if __name__ == "__main__":
    main()
