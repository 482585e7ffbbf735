"""Bursts by Triton kernels, with what is drawn on the device, against plain torch: the same tokens."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait import NonFiniteLogits, SamplingParams
from plait.runtime.engines.native import assembly
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.gpu.stack import GpuStack
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_engine import running

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says so of what the interpreter computes
VOCAB, POISON = 131, 77
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3,
}  # fmt: skip
SAMPLED = SamplingParams(max_tokens=6, ignore_eos=True, temperature=1.2, top_k=30, top_p=0.9, min_p=0.01)


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny("qwen3", **SMALL)[1]


def make_engine(folder: Path, device: torch.device | None, *, is_invariant: bool = False) -> NativeEngine:
    """By Triton kernels on the device, drawing there; None: by plain torch, one step at a time, on the CPU."""
    options = NativeOptions(kv_tokens=1024)
    if device is None:
        engine = NativeEngine(load_model(folder, impl="torch"), IdTokenizer(VOCAB), options)
        assert engine.scheduler.max_steps == 1
        return engine
    model = load_model(folder, device=device, dtype=torch.float32, impl="triton", is_invariant=is_invariant)
    engine = NativeEngine(model, IdTokenizer(VOCAB), options)
    assert isinstance(model.stack, GpuStack) and engine.scheduler.max_steps > 1
    return engine


def prompt(length: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice([t for t in range(VOCAB) if t != POISON]) for _ in range(length)]


async def forks_and_merges(engine: NativeEngine) -> list[list[int]]:
    """A prompt; branches that are greedy, sampled or both by turns; what comes behind their merge."""
    async with running(engine):
        root = engine.open(prompt(20, 0), seed=3)
        found = [(await root.generate(SamplingParams(max_tokens=12, ignore_eos=True))).token_ids]
        children = root.fork(3)
        for child in children:
            child.extend(prompt(2, 1))
        each = [SamplingParams(max_tokens=9, ignore_eos=True), SAMPLED, SAMPLED]
        done = await asyncio.gather(*(child.generate(p) for child, p in zip(children, each, strict=True)))
        found += [completion.token_ids for completion in done]
        root.merge(children)
        root.extend(prompt(1, 2))
        found.append((await root.generate(SAMPLED)).token_ids)
        contexts = root.fork(2)
        for i, context in enumerate(contexts):
            context.extend(prompt(4 + i, 3 + i))
        root.attach(contexts, temperature=0.8, scale=0.9)
        root.extend(prompt(1, 5))
        found.append((await root.generate(SamplingParams(max_tokens=5, ignore_eos=True))).token_ids)
        for branch in (root, *children, *contexts):
            branch.close()
    return found


@pytest.mark.parametrize("is_invariant", [False, True] if torch.cuda.is_available() else [False])
async def test_forks_and_merges(folder: Path, bursts: list[int], is_invariant: bool, device: torch.device) -> None:
    expected = await forks_and_merges(make_engine(folder, None))
    assert not bursts
    assert await forks_and_merges(make_engine(folder, device, is_invariant=is_invariant)) == expected
    assert max(bursts) > 1
    assert expected[2] != expected[3]  # two that are sampled alike but for their seeds


async def test_invariant_to_the_batch(folder: Path, bursts: list[int], device: torch.device) -> None:
    """Short: the interpreter runs through all the rows that a step of one is filled up to."""
    each = [SamplingParams(max_tokens=3, ignore_eos=True), replace(SAMPLED, max_tokens=3)]
    found = []
    for at in (None, device):
        async with running(make_engine(folder, at, is_invariant=True)) as engine:
            branches = [engine.open(prompt(5 + seed, seed), seed=seed) for seed in range(2)]
            done = await asyncio.gather(*(b.generate(p) for b, p in zip(branches, each, strict=True)))
            found.append([completion.token_ids for completion in done])
            for branch in branches:
                branch.close()
    assert found[0] == found[1] and bursts


async def live_views(engine: NativeEngine) -> list[list[int]]:
    """Workers that see each other's tokens as they come, moved behind their own."""
    async with running(engine):
        root = engine.open(prompt(12, 6))
        workers = root.fork(2)
        for i, worker in enumerate(workers):
            worker.extend(prompt(3 + i, 7 + i))
        for i, worker in enumerate(workers):
            worker.watch(workers[1 - i], shift=5 * i)
            worker.extend(prompt(1, 9 + i))
            worker.lockstep("pair")
        each = [SamplingParams(max_tokens=6, ignore_eos=True), SAMPLED]
        done = await asyncio.gather(*(worker.generate(p) for worker, p in zip(workers, each, strict=True)))
        for branch in (root, *workers):
            branch.close()
    return [completion.token_ids for completion in done]


async def test_live_views(folder: Path, bursts: list[int], device: torch.device) -> None:
    expected = await live_views(make_engine(folder, None))
    assert await live_views(make_engine(folder, device)) == expected
    assert set(bursts) == {1}  # each step sees what the others wrote in the one before


@pytest.mark.parametrize("params", [SamplingParams(max_tokens=30), SAMPLED], ids=["greedy", "sampled"])
async def test_a_burst_ends_with_a_stop(
    folder: Path, bursts: list[int], params: SamplingParams, device: torch.device
) -> None:
    """Whoever ends in the middle of a burst has no token too many, and the others lose none."""
    long = replace(params, max_tokens=14, ignore_eos=True)
    async with running(make_engine(folder, device)) as engine:
        free = []
        for seed in (0, 1):
            branch = engine.open(prompt(20, seed), seed=seed)
            free.append((await branch.generate(long)).token_ids)
            branch.close()
        at = next(i for i in range(3, 14) if free[0][i] not in free[0][:i])
        stopping = replace(long, stop_token_ids=(free[0][at],))
        bursts.clear()
        branches = [engine.open(prompt(20, seed), seed=seed) for seed in (0, 1)]
        got = await asyncio.gather(branches[0].generate(stopping), branches[1].generate(long))
        assert got[0].token_ids == free[0][: at + 1] and got[0].stop == free[0][at]
        assert got[1].token_ids == free[1]
        assert max(bursts) > 1
        for branch in branches:
            branch.close()


@pytest.mark.parametrize("params", [SamplingParams(max_tokens=8), SAMPLED], ids=["greedy", "sampled"])
async def test_a_broken_generation_fails_alone(
    folder: Path, params: SamplingParams, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Damage is refused when a model is loaded; here it stands for numbers that overflow later.
    monkeypatch.setattr(assembly, "is_finite", lambda weights: True)
    damaged = tmp_path / "model"
    shutil.copytree(folder, damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = math.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    healthy = SamplingParams(max_tokens=5, ignore_eos=True)
    async with running(make_engine(damaged, device)) as engine:
        alone = engine.open(prompt(9, 0))
        expected = (await alone.generate(healthy)).token_ids
        alone.close()
        engine.store.evict_all()
        if POISON in expected:
            pytest.skip("the healthy text holds the damaged token")
        good, bad = engine.open(prompt(9, 0)), engine.open([*prompt(9, 1), POISON])
        generation = good.generate(healthy)
        with pytest.raises(NonFiniteLogits, match="position 10"):
            await bad.generate(params)
        assert bad.tokens == [*prompt(9, 1), POISON]
        assert (await generation).token_ids == expected
        for branch in (good, bad):
            branch.close()


async def test_single_steps_from_where_a_window_cuts(bursts: list[int], device: torch.device) -> None:
    _, folder = tiny("mistral", **SMALL, sliding_window=24)
    expected = []
    for at in (None, device):
        async with running(make_engine(folder, at)) as engine:
            branches = [engine.open(prompt(n, n), seed=n) for n in (10, 18)]
            each = [SamplingParams(max_tokens=12, ignore_eos=True), SAMPLED]
            done = await asyncio.gather(*(b.generate(p) for b, p in zip(branches, each, strict=True)))
            expected.append([completion.token_ids for completion in done])
            for branch in branches:
                branch.close()
    assert expected[0] == expected[1]
    assert max(bursts) > 1 and bursts.count(1) > 1


async def test_graphs_are_used_again(folder: Path, device: torch.device) -> None:
    """For steps of about the same size; the one used least recently goes."""
    engine = make_engine(folder, device)
    stack: Any = engine.model.stack
    async with running(engine):
        for seed in range(2):
            branch = engine.open(prompt(10 + seed, seed))
            await branch.generate(SamplingParams(max_tokens=4, ignore_eos=True))
            branch.close()
        assert len(stack._graphs) == 1
        branch = engine.open(prompt(10, 5))
        await branch.generate(SAMPLED)
        branch.close()
        assert len(stack._graphs) == 2
