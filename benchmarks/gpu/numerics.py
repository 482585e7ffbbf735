"""Is the engine on the card right? Against the CPU, whatever the batch, and after two hundred jobs.

    python -m plait.benchmarks.gpu.numerics

- Log-probabilities of given tokens in all kinds of views (a prompt, forks, their merged paths, workers that see each
  other live, contexts side by side), float32 by plain torch on the CPU against the card in float32 and in bfloat16,
  with the same weights.
- The same tokens whatever the batch: prompts alone, and among up to 100 others while a long prompt is encoded, greedy
  and sampled, on the shipped Countdown model and on a random one with heads of 128.
- Two hundred jobs (APR, Multiverse, Hogwild!, sequential, self-consistency) on the shipped model, of which some are
  cancelled: every KV block is free or cached in the end, and the store's books agree.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.budget import Budget
from ...runtime.engine import Branch, SamplingParams
from ...runtime.engines.native.engine import NativeEngine
from ...runtime.engines.native.options import NativeOptions
from ...runtime.methods.apr import APR
from ...runtime.methods.base import Method
from ...runtime.methods.hogwild import Hogwild
from ...runtime.methods.multiverse import Multiverse
from ...runtime.methods.self_consistency import SelfConsistency
from ...runtime.methods.sequential import Sequential
from ...runtime.runtime import Runtime
from ..decode import NoTokenizer
from .lines import Setting, setting
from .models import SHAPES, Get, native_model, random_tensors

SHIPPED = Path(__file__).parents[2] / "models" / "countdown"
TOLERANCES = {torch.float32: 2e-3, torch.bfloat16: 0.25}
"""Largest difference of a log-probability, where logits differ by whole units."""
SMALL: Mapping[str, dict[str, Any]] = {
    "qwen3, heads of 128": {
        **SHAPES["Qwen3-4B"],
        **{"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4},
        **{"num_attention_heads": 8, "num_key_value_heads": 2},
    },
    "qwen2, heads of 64": {
        **SHAPES["Qwen2.5-0.5B"],
        **{"vocab_size": 1000, "hidden_size": 448, "intermediate_size": 1024, "num_hidden_layers": 4},
        **{"num_attention_heads": 7, "num_key_value_heads": 1},
    },
}
_STD = 0.06
Logprobs = dict[str, list[float]]


def _tokens(rng: random.Random, count: int, vocabulary: int = 1000) -> list[int]:
    return [rng.randrange(vocabulary) for _ in range(count)]


async def _forced(branch: Branch, tokens: Sequence[int]) -> list[float]:
    """The log-probability of each given token."""
    params = SamplingParams(max_tokens=len(tokens), forced=tuple(tokens), ignore_eos=True, logprobs=0)
    done = await branch.generate(params)
    assert done.logprobs is not None
    return done.logprobs


async def play(engine: NativeEngine) -> Logprobs:
    """Tokens that are given under all kinds of views."""
    rng, found = random.Random(5), {}
    await engine.start()

    parent = engine.open(_tokens(rng, 150))
    found["prompt"] = await _forced(parent, _tokens(rng, 40))
    paths = parent.fork(3)
    for path in paths:
        path.extend(_tokens(rng, rng.randint(3, 40)))
    found["forks"] = sum(await asyncio.gather(*(_forced(path, _tokens(rng, 20)) for path in paths)), [])
    parent.merge(paths)
    parent.extend(_tokens(rng, 5))
    found["merged"] = await _forced(parent, _tokens(rng, 20))

    common = engine.open(_tokens(rng, 100))
    shared = common.seal()
    team = [engine.open() for _ in range(3)]
    live = [branch.block() for branch in team]
    for index, branch in enumerate(team):
        branch.arrange([shared, *(block for block in live if block is not live[index])])
        branch.extend(_tokens(rng, 6))
        branch.lockstep("team")
    found["live"] = sum(await asyncio.gather(*(_forced(branch, _tokens(rng, 24)) for branch in team)), [])

    reader = engine.open(_tokens(rng, 20))
    reader.attach_contexts([_tokens(rng, rng.randint(20, 60)) for _ in range(5)], temperature=0.9, scale=0.9)
    reader.extend(_tokens(rng, 9))
    found["contexts"] = await _forced(reader, _tokens(rng, 20))

    for block in (shared, *live):
        block.close()
    for branch in (parent, *paths, common, *team, reader):
        branch.close()
    engine.store.check_integrity()
    await engine.close()
    return found


def _engine(data: Mapping[str, Any], get: Get, device: torch.device, **options: Any) -> NativeEngine:
    model = native_model(data, get, options.get("impl", "auto"))
    chosen = NativeOptions(device=str(device), kv_tokens=32768, **options)
    return NativeEngine(model, NoTokenizer(model.config.vocab_size), chosen)


def logits(at: Setting, name: str, data: Mapping[str, Any]) -> None:
    stored = random_tensors(data, torch.device("cpu"), torch.bfloat16, std=_STD)

    def on(device: torch.device, dtype: torch.dtype) -> Get:
        def get(name: str) -> Tensor:
            return stored(name).to(device, dtype)

        return get

    cpu = torch.device("cpu")
    exact = asyncio.run(play(_engine(data, on(cpu, torch.float32), cpu, impl="torch")))
    for dtype, most in TOLERANCES.items():
        short = str(dtype).removeprefix("torch.")
        with at.book.attempt(f"log-probabilities, {name}, {short}"):
            found = asyncio.run(play(_engine(data, on(at.device, dtype), at.device)))
            for view, expected in exact.items():
                differences = [abs(a - b) for a, b in zip(found[view], expected, strict=True)]
                worst = math.nan if any(map(math.isnan, differences)) else max(differences)
                at.book.add(
                    f"log-probabilities, {name}, {short}: {view}", value=worst, unit="off at most",
                    bar=f"at most {most}", is_met=worst <= most,
                )  # fmt: skip


async def batches(at: Setting, engine: NativeEngine, label: str, prompts: list[list[int]], tokens: int) -> None:
    """`prompts`: of which the first eight are followed."""
    probes = min(8, len(prompts))
    # Backwards, so that it begins like none of them: what is found in the prefix index was computed in other chunks.
    long = [token for prompt in prompts for token in prompt][:3000][::-1]

    async def write(place: int, **params: Any) -> list[int]:
        branch = engine.open(prompts[place], path=(place,), seed=11)
        try:
            done = await branch.generate(SamplingParams(max_tokens=tokens, ignore_eos=True, **params))
        finally:
            branch.close()
        return list(done.token_ids)

    async def encode() -> None:
        await asyncio.sleep(0.01)
        branch = engine.open(long)
        await branch.generate(SamplingParams(max_tokens=0))
        branch.close()

    await engine.start()
    for mode, params in {"greedy": {}, "sampled": {"temperature": 1.0, "top_p": 0.95}}.items():
        alone = []
        for place in range(probes):
            engine.store.evict_all()
            alone.append(await write(place, **params))
        for count in (2, 5, 17, 64, 100):
            if count > len(prompts):
                break
            engine.store.evict_all()
            _, *crowd = await asyncio.gather(encode(), *(write(place, **params) for place in range(count)))
            same = sum(a == b for a, b in zip(alone, crowd, strict=False))
            asked = min(probes, count)
            at.book.add(
                f"same tokens in a batch of {count}, {mode}, {label}", value=same, unit=f"of {asked}",
                bar="all the same", is_met=same == asked,
            )  # fmt: skip
    await engine.close()


def any_method(rng: random.Random, numbers: Sequence[int], target: int) -> Method:
    def prompt(mode: str) -> str:
        return f"{mode} {target} : {' '.join(map(str, sorted(numbers, reverse=True)))} ;"

    temperature = rng.choice([0.0, 1.0])
    kind = rng.choice(["sequential", "self_consistency", "apr", "apr", "multiverse", "hogwild"])
    if kind == "sequential":
        return Sequential(prompt=prompt("seq"), answer="countdown", max_tokens=200, temperature=temperature)
    if kind == "self_consistency":
        return SelfConsistency(prompt=prompt("seq"), n=rng.randint(1, 5), answer="countdown", max_tokens=100)
    if kind == "multiverse":
        return Multiverse(prompt=prompt("mv"), answer="countdown", max_tokens=400, conclusion=None)
    if kind == "hogwild":
        return Hogwild(
            prompt=prompt("seq"), workers=("A", "B"), openers=("1", "2"), rules=False, headers=False,
            self_check_every=None, conclusion=None, answer="countdown", max_tokens=rng.choice([20, 60]),
        )  # fmt: skip
    return APR(
        prompt=prompt("apr"), dialect="compact", depth=rng.choice([0, 1, 2]), max_children=rng.choice([None, 3]),
        context_limit=rng.choice([None, 128, 512]), cancel_siblings=rng.random() < 0.5, temperature=temperature,
    )  # fmt: skip


async def jobs(at: Setting, count: int) -> None:
    rng = random.Random(0)
    engine = NativeEngine.load(SHIPPED, device=str(at.device), kv_tokens=8192)
    async with Runtime(engine=engine) as runtime:

        async def one() -> str:
            numbers, target = [rng.randint(1, 99) for _ in range(4)], rng.randint(10, 99)
            budget = Budget(total_tokens=rng.choice([None, 50, 1000]), width=rng.choice([None, 2, 8]))
            method, is_cancelled, wait = any_method(rng, numbers, target), rng.random() < 0.3, rng.random()
            job = await runtime.submit(method, budget=budget, seed=rng.randrange(100))
            if is_cancelled:
                await asyncio.sleep(wait)
                job.cancel("at random")
            try:
                return (await job).finish_reason.value
            except asyncio.CancelledError:
                return "cancelled"

        reasons = Counter(await asyncio.gather(*(one() for _ in range(count))))
        engine.store.check_integrity()
        usage = engine.block_usage()
    is_whole = usage.used == 0 and usage.free + usage.cached == usage.total and engine.num_branches == 0
    at.book.add(
        "200 jobs, some cancelled", value=sum(reasons.values()), unit="ended",
        note=", ".join(f"{number} {reason}" for reason, number in reasons.most_common()),
        bar="every KV block free or cached, check_integrity", is_met=is_whole and reasons["failed"] == 0,
    )  # fmt: skip


def run(at: Setting) -> None:
    book, rng = at.book, random.Random(3)
    for name, data in list(SMALL.items())[: 1 if at.is_dry else None]:
        if at.wants(what := f"log-probabilities, {name}"):
            with book.attempt(what):
                book.need(5)
                logits(at, name, data)
    count, tokens = (5, 20) if at.is_dry else (100, 120)
    name, data = next(iter(SMALL.items()))
    if at.wants(what := f"same tokens, {name}"):
        with book.attempt(what):
            book.need(5)
            engine = _engine(data, random_tensors(data, at.device, torch.bfloat16, std=_STD), at.device)
            prompts = [_tokens(rng, rng.randint(5, 200)) for _ in range(count)]
            asyncio.run(batches(at, engine, name, prompts, tokens))
    if at.wants(what := "same tokens, Countdown"):
        with book.attempt(what):
            book.need(5)
            shipped = NativeEngine.load(SHIPPED, device=str(at.device), kv_tokens=65536)
            texts = [f"seq {rng.randint(10, 99)} : 90 52 31 {rng.randint(1, 30)} ;" for _ in range(count)]
            prompts = [[*shipped.tokenizer.prefix_ids, *shipped.tokenizer.encode(text)] for text in texts]
            asyncio.run(batches(at, shipped, "Countdown", prompts, tokens))
    if at.wants(what := "200 jobs, some cancelled"):
        with book.attempt(what):
            book.need(5)
            asyncio.run(jobs(at, 8 if at.is_dry else 200))


def main(arguments: list[str] | None = None) -> None:
    run(setting("numerics", __doc__, arguments))


if __name__ == "__main__":
    main()
