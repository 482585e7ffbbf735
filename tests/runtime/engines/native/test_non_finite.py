"""Logits that are not finite: the generation fails alone, wherever they come from."""

from __future__ import annotations

import asyncio
import math
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait import NonFiniteLogits, Runtime, SamplingParams, SelfConsistency, Sequential
from plait.runtime.engines.native import assembly
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.sampling import NO_TOKEN, Draw, greedy, sample
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_engine import running

VOCAB = 131
FOLDER = tiny()[1]


def make_engine(model) -> NativeEngine:
    return NativeEngine(model, IdTokenizer(VOCAB), NativeOptions(kv_tokens=8192))


BAD = {"nan": [0.0, math.nan, 1.0], "inf": [0.0, math.inf, 1.0], "nothing": [-math.inf] * 3, "first": [math.nan, 0, 1]}


@pytest.mark.parametrize("name", BAD)
def test_logits_that_are_no_distribution_give_no_token(name):
    logits = torch.tensor([[0.0, 2.0, 1.0], BAD[name], [-math.inf, 0.0, 1.0]])
    assert [drawn.token for drawn in greedy(logits)] == [1, NO_TOKEN, 2]
    for params in (
        SamplingParams(logprobs=0),
        SamplingParams(temperature=1.0, top_k=1, logprobs=2),
        SamplingParams(forbidden_ids=(0,)),
    ):
        assert [d.token for d in sample(logits, [Draw(params, 0.5)] * 3)] == [1, NO_TOKEN, 2]
    assert [d.token for d in sample(logits, [Draw(SamplingParams(), 0.5, forced=0)] * 3)] == [0, NO_TOKEN, 0]


def test_forbidding_all_that_the_model_allows_gives_no_token():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, forbidden_ids=(1,))
        assert sample(logits, [Draw(params, 0.5)])[0].token == NO_TOKEN


POISON = 77
"""A token whose embedding is damaged."""


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Damage is refused when a model is loaded; here it stands for numbers that overflow later."""
    monkeypatch.setattr(assembly, "is_finite", lambda weights: True)


@pytest.fixture(scope="module", params=[math.nan, math.inf], ids=str)
def damaged(request, tmp_path_factory):
    """A model that reads `POISON` as NaN or infinity, and a copy of its folder."""
    folder = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(FOLDER, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = request.param
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompt(seed: int, length: int = 20) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice([t for t in range(VOCAB) if t != POISON]) for _ in range(length)]


async def fresh(engine, prompts, params):
    """What comes behind each prompt; nothing of it stays in the store."""
    found = []
    for tokens in prompts:
        branch = engine.open(tokens)
        found.append((await branch.generate(params)).token_ids)
        branch.close()
        engine.store.evict_all()
    return found


CALLS = {
    "burst": SamplingParams(max_tokens=60),
    "sampled": SamplingParams(max_tokens=60, temperature=1.0, logprobs=2),
    "forced": SamplingParams(max_tokens=60, forced=(1, 2, 3, 4, 5)),
    "hidden": SamplingParams(max_tokens=0, hidden_state=True),
}


@pytest.mark.parametrize("impl", ["cpu", "torch"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_broken_generation_fails_alone(damaged, name, impl):
    params = CALLS[name]
    healthy = SamplingParams(max_tokens=40, forbidden_ids=(POISON,))
    model = load_model(damaged, impl=impl)
    async with running(make_engine(model)) as engine:
        expected = await fresh(engine, map(prompt, range(3)), healthy)
        good = [engine.open(prompt(i)) for i in range(3)]
        bad = engine.open([*prompt(9), POISON])
        generations = [branch.generate(healthy) for branch in good[:2]]
        with pytest.raises(NonFiniteLogits, match="position 21"):
            await bad.generate(params)
        assert bad.tokens == [*prompt(9), POISON]
        bad.close()
        engine.store.evict_all()
        generations.append(good[2].generate(healthy))  # in blocks that may have held what was not finite
        assert [(await g).token_ids for g in generations] == expected
        for branch in good:
            branch.close()


@pytest.mark.parametrize("impl", ["cpu", "torch"])
async def test_nobody_reuses_what_stood_before_the_damage(damaged, impl):
    """Rows of one chunk are computed side by side, and zero times NaN is NaN."""
    healthy = SamplingParams(max_tokens=20, forbidden_ids=(POISON,))
    text = prompt(9, 50)
    async with running(make_engine(load_model(damaged, impl=impl))) as engine:
        [expected] = await fresh(engine, [text], healthy)
        bad = engine.open([*text, POISON])
        with pytest.raises(NonFiniteLogits):
            await bad.generate(healthy)
        for _ in range(2):
            good = engine.open(text)
            assert (await good.generate(healthy)).token_ids == expected
            good.close()
        bad.close()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_what_came_before_stays(damaged, is_streamed):
    """The greedy path runs into the damage in the midst of a burst."""
    biased = load_file(damaged / "model.safetensors")
    assert "lm_head.weight" in biased  # else the damage is in every row of logits
    async with running(make_engine(load_model(damaged))) as engine:
        branch = engine.open(prompt(4))
        generation = branch.generate(SamplingParams(max_tokens=9, forced=(*prompt(5, 5), POISON, 1)))
        seen = []
        with pytest.raises(NonFiniteLogits):
            if is_streamed:
                async for token in generation:
                    seen.append(token)  # noqa: PERF401 - what came before the error counts
            await generation
        assert branch.tokens == [*prompt(4), *prompt(5, 5), POISON]
        assert seen == ([*prompt(5, 5), POISON] if is_streamed else [])
        branch.rewind(20)
        assert len((await branch.generate(SamplingParams(max_tokens=3, forbidden_ids=(POISON,)))).token_ids) == 3
        branch.close()


async def test_a_burst_ends_where_a_row_breaks(damaged):
    """Without `POISON` in the prompt: a model that always goes on to it, but for the tokens it reads first."""
    model = load_model(damaged, impl="cpu")
    engine = make_engine(model)
    plain = make_engine(model)
    plain.scheduler.max_steps = 1
    prompts = [prompt(i, 8) for i in range(60)]
    outcomes = []
    for one in (engine, plain):
        async with running(one):
            branches = [one.open(p) for p in prompts]
            done = await asyncio.gather(
                *(_await(b.generate(SamplingParams(max_tokens=100, ignore_eos=True))) for b in branches),
                return_exceptions=True,
            )
            outcomes.append([(type(d), b.tokens) for d, b in zip(done, branches, strict=True)])
            for branch in branches:
                branch.close()
    assert outcomes[0] == outcomes[1]
    broken = [tokens for kind, tokens in outcomes[0] if kind is NonFiniteLogits]
    assert broken and all(tokens[-1] == POISON for tokens in broken)
    assert len(broken) < len(prompts)


async def _await(generation):
    return await generation


async def test_a_job_counts_it_and_the_others_end_well(damaged):
    engine = make_engine(load_model(damaged))
    async with Runtime(engine=engine) as runtime:
        good = await runtime.submit(Sequential(prompt=prompt(1), max_tokens=30))
        bad = await runtime.submit(SelfConsistency(prompt=[POISON], n=2, max_tokens=30, answer="text"))
        with pytest.raises(NonFiniteLogits):
            await bad
        assert bad.trace.end["usage"]["counts"]["non_finite_logits"] >= 1
        assert bad.trace.end["error"].startswith("NonFiniteLogits: branch (")
        assert len((await good).trace.segments) == 1


async def test_a_gang_ends_with_its_broken_member(damaged):
    async with running(make_engine(load_model(damaged))) as engine:
        branches = [engine.open(tokens, job="g") for tokens in (prompt(1), [*prompt(2), POISON])]
        for branch in branches:
            branch.lockstep("gang")
        done = await asyncio.wait_for(
            asyncio.gather(
                *(_await(b.generate(SamplingParams(max_tokens=50))) for b in branches), return_exceptions=True
            ),
            20,
        )
        assert done[0].finish_reason == "gang" and isinstance(done[1], NonFiniteLogits)
        for branch in branches:
            branch.close()
