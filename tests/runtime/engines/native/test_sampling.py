"""From logits to tokens: the filters against transformers' own, arbitrary parameters, logits that are not finite."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plait import InvalidInput, NonFiniteLogits, Runtime, SamplingParams, SelfConsistency, Sequential
from plait.runtime.engines.native.engine import NativeEngine, NativeOptions
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.sampling import NO_TOKEN, Draw, adjusted, greedy, sample, weights
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_engine import running

VOCAB = 131
FOLDER = tiny()[1]
MODEL = load_model(FOLDER)


def make_engine(model=MODEL, **options) -> NativeEngine:
    return NativeEngine(model, IdTokenizer(VOCAB), NativeOptions(**{"kv_tokens": 8192, **options}))


# -- the filters -----------------------------------------------------------------------------------------------


def theirs(logits, seen: list[int], p: SamplingParams):
    """Probabilities (V,) by transformers' processors, in the order in which its `generate` has them."""
    chain: Any = LogitsProcessorList()
    if p.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    chain.append(TemperatureLogitsWarper(float(p.temperature)))
    if p.top_k:
        chain.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        chain.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        chain.append(MinPLogitsWarper(p.min_p))
    return chain(torch.tensor([seen]), logits[None].double())[0].softmax(-1)


def ours(logits: torch.Tensor, seen: list[int], p: SamplingParams) -> torch.Tensor:
    found = weights(adjusted(logits, p, seen), p)
    return found / found.sum()


shapes = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5.0),
    top_k=st.sampled_from([0, 1, 2, 5, 40, VOCAB, 500]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2.0)),
)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), p=shapes, scale=st.sampled_from([0.5, 2.0, 8.0]))
def test_kept_tokens_and_probabilities_are_those_of_transformers(seed, p, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(VOCAB, generator=generator)
    seen = torch.randint(VOCAB, (9,), generator=generator).tolist()
    found, expected = ours(logits, seen, p), theirs(logits, seen, p)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(found > 0, expected > 0)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_ties_at_top_k_and_min_p(seed, k, min_p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(4, (30,), generator=generator).float()
    p = SamplingParams(temperature=0.7, top_k=k, min_p=min_p)
    torch.testing.assert_close(ours(logits, [], p), theirs(logits, [], p), atol=1e-6, rtol=0)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), top_p=st.floats(0.05, 0.95))
def test_ties_at_top_p_keep_the_lowest_ids_and_as_many_as_transformers(seed, top_p):
    """Which of several equal tokens transformers keeps is up to its sort; how many there are is not."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(4, (30,), generator=generator).float()
    p = SamplingParams(temperature=1.0, top_p=top_p)
    found, expected = ours(logits, [], p), theirs(logits, [], p)
    torch.testing.assert_close(found.sort().values, expected.sort().values, atol=1e-6, rtol=0)
    for value in logits.unique():
        kept = (found[logits == value] > 0).tolist()
        assert kept == sorted(kept, reverse=True)


def test_the_order_of_the_filters():
    """One case for each pair of neighbours in which the other order would keep other tokens."""
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0])

    def kept(**values) -> list[int]:
        seen = values.pop("seen", [])
        p = SamplingParams(**{"temperature": 1.0, **values})
        return (ours(logits, seen, p) > 0).nonzero()[:, 0].tolist()

    # Penalty before bias: 4 / 2 + 1 = 3, not (4 + 1) / 2.
    biased = adjusted(logits, SamplingParams(repetition_penalty=2.0, logit_bias={0: 1.0}), [0])
    assert biased.tolist() == [3.0, 3.0, 2.0, 1.0]
    # A forbidden token takes no place among the k likeliest, nor any mass of top-p.
    assert kept(forbidden_ids=(0,), top_k=2) == [1, 2]
    assert kept(forbidden_ids=(0,), top_p=0.6) == [1]
    # Temperature before top-p and min-p.
    assert (kept(top_p=0.6), kept(top_p=0.6, temperature=4.0)) == ([0], [0, 1])
    assert (kept(min_p=0.3), kept(min_p=0.3, temperature=4.0)) == ([0, 1], [0, 1, 2, 3])
    # Top-p is of what top-k left: of two, the first alone has 0.73.
    assert (kept(top_p=0.7), kept(top_p=0.7, top_k=2)) == ([0, 1], [0])
    # Min-p behind top-p: were the two least likely gone before, 0.7 would take the first alone.
    assert kept(top_p=0.7, min_p=0.3) == [0, 1]


# -- arbitrary parameters --------------------------------------------------------------------------------------

odd = st.sampled_from([0, 1, -1, 0.0, -0.0, 0.5, 1.5, 1e-310, 1e308, 5e-324, math.nan, math.inf, -math.inf, True, None])
numbers = st.one_of(odd, st.floats(), st.integers(-2, 200), st.floats(0, 1))
ids = st.one_of(st.lists(st.integers(0, VOCAB - 1), max_size=4).map(tuple), st.lists(st.integers(-1, 200)).map(tuple))
arbitrary = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "repetition_penalty"), numbers),
        "max_tokens": st.integers(-1, 12),
        "stop": st.lists(st.sampled_from(["", "1", ".2", "9."]), max_size=2).map(tuple),
        **dict.fromkeys(("stop_token_ids", "forced", "forbidden_ids"), ids),
        "logit_bias": st.dictionaries(st.integers(-1, 200), st.one_of(st.floats(), st.floats(-9, 9)), max_size=3),
        "logprobs": st.sampled_from([None, 0, 3, VOCAB, VOCAB + 1, -1, True]),
        **dict.fromkeys(("ignore_eos", "include_stop", "hidden_state"), st.booleans()),
    },
)
NEIGHBOURS = [
    SamplingParams(max_tokens=24),
    SamplingParams(max_tokens=24, temperature=1.0, top_p=0.9, logprobs=0),
]


async def decode(engine, other):
    """What the neighbours of a branch with parameters `other` sample, and that branch's completion."""
    branches = [engine.open([3, 1, 4], path=(i,), seed=5) for i in range(len(NEIGHBOURS))]
    running = [branch.generate(params) for branch, params in zip(branches, NEIGHBOURS, strict=True)]
    odd_one, done = engine.open([2, 7], path=(9,), seed=5), None
    try:
        if other is not None:
            done = await odd_one.generate(other)
    except InvalidInput as error:
        done = error
    tokens = [(await generation).token_ids for generation in running]
    for branch in (*branches, odd_one):
        branch.close()
    return tokens, done


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def started(loop):
    engine = make_engine()
    loop.run_until_complete(engine.start())
    yield engine
    loop.run_until_complete(engine.close())


@settings(max_examples=250, deadline=None)
@given(values=arbitrary)
def test_any_parameters_are_refused_or_decode_and_neighbours_do_not_notice(started, loop, values):
    alone, _ = loop.run_until_complete(decode(started, None))
    try:
        params = SamplingParams(**values)
    except InvalidInput as error:
        assert any(name in str(error) for name in values)
        return
    if params.max_tokens is None:
        params = SamplingParams(**{**values, "max_tokens": 12})
    tokens, done = loop.run_until_complete(decode(started, params))
    assert tokens == alone
    if isinstance(done, InvalidInput):
        with pytest.raises(InvalidInput):
            params.check_vocabulary(VOCAB)
        return
    assert len(done.token_ids) <= params.max_tokens
    sampled = done.token_ids[len(params.forced) :]
    assert not set(sampled) & set(params.forbidden_ids)
    if params.logprobs is not None:
        assert len(done.logprobs) == len(done.token_ids) and all(math.isfinite(p) for p in done.logprobs)


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-310, math.nan, math.inf])
async def test_groups_that_no_pass_could_compute_are_refused(bad):
    async with running(make_engine()) as engine:
        branch = engine.open([1, 2])
        for values in ({"temperature": bad}, {"scale": bad} if not math.isfinite(bad) else {"temperature": bad}):
            with pytest.raises(InvalidInput, match="temperature"):
                branch.attach_contexts([[3, 4]], **values)
        assert branch.tokens == [1, 2]
        branch.close()


# -- logits that are not finite --------------------------------------------------------------------------------

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
