"""From logits to tokens: the filters against transformers' own, and arbitrary parameters."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plait import Constraint, InvalidInput, SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.sampling import (
    NO_TOKEN,
    NONE_ALLOWED,
    Decoded,
    Draw,
    Drawn,
    adjusted,
    sample,
    uniform,
    uniforms,
    weights,
)
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
    if p.logit_bias:
        chain.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in p.logit_bias.items()]))
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
    temperature=st.one_of(st.just(1.0), st.floats(0.05, 5.0)),
    top_k=st.sampled_from([0, 1, 2, 5, 40, VOCAB, 500]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2.0)),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-20, 20).filter(bool), max_size=20),
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

    # Bias before penalty: (4 + 1) / 2, not 4 / 2 + 1.
    biased = adjusted(logits, SamplingParams(repetition_penalty=2.0, logit_bias={0: 1.0}), [0])
    assert biased.tolist() == [2.5, 3.0, 2.0, 1.0]
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


# -- what is drawn ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.integers(0, 2**40), st.integers(1, 5))
def test_numbers_of_a_burst_are_those_drawn_one_by_one(seeds, first, count):
    found = uniforms(seeds, [first + i for i in range(len(seeds))], count)
    assert found.tolist() == [[uniform(seed, first + i + at) for i, seed in enumerate(seeds)] for at in range(count)]
    assert 0 <= found.min() and found.max() < 1


def test_numbers_are_those_of_splitmix64():
    """The first outputs of its reference implementation for the seed 1234567, their upper 53 bits."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [uniform(1234567, i) for i in range(4)] == [(x >> 11) / 2**53 for x in outputs]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), p=shapes, number=st.one_of(st.floats(0, 1, exclude_max=True), st.just(1 - 2**-53)))
def test_a_number_takes_the_token_whose_part_of_all_probability_it_lies_in(seed, p, number):
    logits = 3 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    probs = weights(adjusted(logits, p), p)
    (drawn,) = sample(logits[None], [Draw(p, number)])
    below, total = math.fsum(probs[: drawn.token].tolist()), math.fsum(probs.tolist())
    assert probs[drawn.token] > 0
    assert below <= number * total * (1 + 1e-9) and number * total <= (below + float(probs[drawn.token])) * (1 + 1e-9)


def test_the_very_end_of_all_probability_is_the_last_token_that_has_any():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    p = SamplingParams(temperature=1.0, top_k=2)
    assert [sample(logits, [Draw(p, number)])[0].token for number in (0.0, 1.0)] == [0, 1]


def test_what_is_ruled_out_is_not_taken():
    logits = torch.tensor([[-math.inf, 1.0, 2.0, -math.inf]])

    def taken(allowed=None, **values) -> list[int]:
        constraint = None if allowed is None else Constraint(kind="regex", source=".")
        given = [SamplingParams(temperature=t, constraint=constraint, **values) for t in (0.0, 1.0)]
        return [sample(logits, [Draw(p, 0.99, allowed=allowed)])[0].token for p in given]

    assert taken() == [2, 2]
    assert taken(forbidden_ids=(2,)) == taken(allowed=torch.tensor([True, True, False, True])) == [1, 1]
    assert taken(forbidden_ids=(1, 2)) == [NO_TOKEN, NO_TOKEN]
    assert taken(allowed=torch.tensor([True, False, False, True])) == [NONE_ALLOWED, NONE_ALLOWED]


def test_what_is_told_of_each_row_is_what_it_asks_for():
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(0))
    asked = [
        SamplingParams(),
        SamplingParams(logprobs=0),
        SamplingParams(logprobs=3),
        SamplingParams(certainty=True),
        SamplingParams(logprobs=2, certainty=True, logit_bias={7: 50.0}),
    ]
    drawn = sample(logits, [Draw(p, 0.5, forced=11 if i == 1 else None) for i, p in enumerate(asked)])
    logprobs = logits.double().log_softmax(-1)
    assert [d.token for d in drawn] == [*(11 if i == 1 else int(logits[i].argmax()) for i in range(4)), 7]
    for i, (p, one) in enumerate(zip(asked, drawn, strict=True)):
        if p.logprobs is None:
            assert one.logprob is None
        else:
            assert one.logprob == pytest.approx(float(logprobs[i, one.token]), abs=1e-5)
        if p.logprobs:
            best = logprobs[i].topk(p.logprobs)
            assert one.top is not None and list(one.top) == best.indices.tolist()
            assert list(one.top.values()) == pytest.approx(best.values.tolist(), abs=1e-5)
        else:
            assert one.top is None
        kl = -math.log(VOCAB) - float(logprobs[i].mean())
        assert one.certainty == (pytest.approx(kl, abs=1e-5) if p.certainty else None)


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
    """An engine, and what the neighbours sample there alone."""
    engine = make_engine()
    loop.run_until_complete(engine.start())
    yield engine, loop.run_until_complete(decode(engine, None))[0]
    loop.run_until_complete(engine.close())


@settings(max_examples=250, deadline=None)
@given(values=arbitrary)
def test_any_parameters_are_refused_or_decode_and_neighbours_do_not_notice(started, loop, values):
    engine, alone = started
    try:
        params = SamplingParams(**values)
    except InvalidInput as error:
        assert any(name in str(error) for name in values)
        return
    if params.max_tokens is None:
        params = SamplingParams(**{**values, "max_tokens": 12})
    tokens, done = loop.run_until_complete(decode(engine, params))
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


# -- self-certainty --------------------------------------------------------------------------------------------


async def test_certainty_is_the_distance_from_the_uniform_distribution():
    """KL(uniform || p) by torch's own, of the logits behind every token, forced and drawn ones alike."""
    prompt, forced = [3, 1, 4, 1, 5], (9, 2, 6)
    async with running(make_engine(keep_logits=True)) as engine:
        branch = engine.open(prompt)
        found = await branch.generate(
            SamplingParams(max_tokens=6, forced=forced, temperature=1.0, certainty=True, ignore_eos=True)
        )
        other = engine.open([*prompt, *found.token_ids])
        assert (await other.generate(SamplingParams(max_tokens=2, certainty=False))).certainty is None
        assert (await other.generate(SamplingParams(max_tokens=0, certainty=True))).certainty is None
        values = []
        for count in range(6):
            step = engine.open([*prompt, *found.token_ids[:count]])
            await step.generate(SamplingParams(max_tokens=1))
            log_p = step.logits.double().log_softmax(-1)
            uniform = torch.full_like(log_p, 1 / len(log_p))
            values.append(torch.nn.functional.kl_div(log_p, uniform, reduction="sum").item())
        assert found.certainty == pytest.approx(sum(values) / 6, abs=1e-4)
        assert max(values) - min(values) > 0.01  # a mean that could be wrong


async def test_certainty_is_of_the_tokens_that_stay():
    async with running(make_engine()) as engine:
        whole = await engine.open([7, 8]).generate(SamplingParams(max_tokens=5, certainty=True, ignore_eos=True))
        stop = engine.tokenizer.decode(whole.token_ids)[len(engine.tokenizer.decode(whole.token_ids[:3])) :]
        kept = await engine.open([7, 8]).generate(
            SamplingParams(max_tokens=5, certainty=True, ignore_eos=True, stop=(stop,))
        )
        count = len(kept.token_ids)
        part = await engine.open([7, 8]).generate(SamplingParams(max_tokens=count, certainty=True, ignore_eos=True))
        assert 0 < count < 5 and kept.certainty == pytest.approx(part.certainty, abs=1e-6)


# -- bursts ----------------------------------------------------------------------------------------------------


def test_rows_of_a_burst_have_the_scores_that_they_asked_for():
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    scores = np.arange(16.0).reshape(2, 2, 4)
    asked = [
        SamplingParams(),
        SamplingParams(logprobs=0),
        SamplingParams(certainty=True),
        SamplingParams(logprobs=0, certainty=True),
    ]
    assert Decoded(tokens, scores).rows(asked) == [
        [Drawn(1), Drawn(5)],
        [Drawn(2, logprob=1.0), Drawn(6, logprob=5.0)],
        [Drawn(3, certainty=10.0), Drawn(7, certainty=14.0)],
        [Drawn(4, logprob=3.0, certainty=11.0), Drawn(8, logprob=7.0, certainty=15.0)],
    ]
    assert Decoded(tokens).rows(asked)[3] == [Drawn(4), Drawn(8)]
