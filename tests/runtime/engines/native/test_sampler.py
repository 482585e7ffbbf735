"""The compiled kernel that samples against plain torch, row by row."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait import Constraint, SamplingParams
from plait.runtime.engines.native import sampling
from plait.runtime.engines.native.kernels import kernel_library
from plait.runtime.engines.native.sampler import sample
from plait.runtime.engines.native.sampling import NO_TOKEN, NONE_ALLOWED, Draw, Drawn, weights
from plait.tests.runtime.engines.native.test_draw import NUMBERS, VOCAB, kinds, make_row, params

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="no compiled kernels here")

rows = st.builds(
    lambda params, kind, number, forced, logprobs, certainty: (
        kind,
        Draw(dataclasses.replace(params, logprobs=logprobs, certainty=certainty), number, forced=forced),
    ),
    params, kinds, NUMBERS, st.none() | st.none() | st.integers(0, VOCAB - 1), st.sampled_from([None, 0, 3]),
    st.booleans(),
)  # fmt: skip


def is_right(logits: Tensor, draw: Draw, token: int) -> bool:
    """Would numbers that differ in the last places give the token? The number drawn may lie where one token's share
    ends and the next one's begins, and the end of what top-p keeps between tokens that are equally likely."""
    for nudge in (1.0, 1 - 1e-12, 1 + 1e-12):
        params = dataclasses.replace(draw.params, top_p=min(draw.params.top_p * nudge, 1.0))
        shares = weights(sampling.adjusted(logits, params), params)
        shares = shares / shares.sum()
        begin = float(shares[:token].sum())
        if shares[token] > 0 and begin - 1e-12 < draw.uniform < begin + float(shares[token]) + 1e-12:
            return True
    return False


# Half of the likeliest tokens, which are equally likely: rounding says whether one more is in it.
@example([("ties", Draw(SamplingParams(temperature=0.05, top_k=1, top_p=0.5), 0.40625))], 1)
@settings(max_examples=150, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 999))
def test_as_plain_torch(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.stack([make_row(kind, generator) for kind, _ in rows])
    draws = [draw for _, draw in rows]
    padded = torch.cat([logits, torch.full((len(rows), 5), torch.nan)], 1)[:, :VOCAB]
    found = sample(padded, draws)
    for i, (one, expected, draw) in enumerate(zip(found, sampling.sample(logits, draws), draws, strict=True)):
        assert sample(logits[i : i + 1], [draw]) == [one]  # alone as among others
        if one.token != expected.token:
            assert is_right(logits[i], draw, one.token)
            continue
        if one.token == NO_TOKEN:
            assert one == sampling.Drawn(NO_TOKEN)
            continue
        for name in ("logprob", "certainty"):
            mine, other = getattr(one, name), getattr(expected, name)
            assert mine == other is None or mine == pytest.approx(other, rel=1e-6, abs=1e-5)
        assert (one.top is None) == (expected.top is None)
        if one.top is not None and expected.top is not None:
            assert sorted(one.top.values()) == pytest.approx(sorted(expected.top.values()), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("size", [1, 7, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("shape", [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}, {"top_k": 300, "top_p": 0.7}])
def test_large_vocabularies_and_their_ends(size, shape):
    logits = 4 * torch.randn(1, size, generator=torch.Generator().manual_seed(size))
    given = SamplingParams(
        temperature=0.8, **{name: min(v, size) if name == "top_k" else v for name, v in shape.items()}
    )
    for step in range(101):
        draw = Draw(given, min(step / 100, 1 - 2.0**-53))
        (one,), (expected,) = sample(logits, [draw]), sampling.sample(logits, [draw])
        assert one.token == expected.token or is_right(logits[0], draw, one.token)


@settings(deadline=None)
@given(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=40))
def test_log_probabilities_are_those_of_double_precision(values):
    logits = torch.tensor([values])
    exact = logits.double().log_softmax(-1)[0]
    for token in range(len(values)):
        (one,) = sample(logits, [Draw(SamplingParams(logprobs=0, certainty=True), 0.0, forced=token)])
        assert one.logprob is not None and one.logprob == pytest.approx(float(exact[token]), abs=1e-12)
        assert one.certainty == pytest.approx(-float(exact.mean()) - math.log(len(values)), abs=1e-12)


LARGE = 3 * torch.randn(4, 40_000, generator=torch.Generator().manual_seed(21))
bent = st.builds(
    lambda number, temperature, top_p, logprobs, certainty, how: Draw(
        SamplingParams(temperature=temperature, top_p=top_p, logprobs=logprobs, certainty=certainty, **how),
        number,
        seen={1, 2},
        allowed=torch.arange(LARGE.shape[1]) % 3 > 0 if "constraint" in how else None,
    ),
    NUMBERS, st.sampled_from([0.0, 1.0]), st.sampled_from([1.0, 0.9]), st.sampled_from([0, 2]), st.booleans(),
    st.sampled_from([
        {}, {"repetition_penalty": 1.3}, {"logit_bias": {7: 9.0}}, {"forbidden_ids": (5,)},
        {"constraint": Constraint(kind="regex", source=".")},
    ]),
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.lists(bent, min_size=1, max_size=len(LARGE)))
def test_the_bits_of_a_row_depend_on_no_others_and_on_no_threads(draws):
    count = torch.get_num_threads()
    try:
        for draw_all in (sample, sampling.sample):
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found += [draw_all(LARGE[: len(draws)], draws)]
                found += [[draw_all(LARGE[i : i + 1], [draw])[0] for i, draw in enumerate(draws)]]
            assert found == found[:1] * 4
    finally:
        torch.set_num_threads(count)


def test_a_row_without_a_token_has_none_where_scores_are_wanted():
    scored = SamplingParams(logprobs=0, certainty=True, constraint=Constraint(kind="regex", source="."))
    nothing = Draw(scored, 0.5, allowed=torch.zeros(9, dtype=torch.bool))
    broken = Draw(dataclasses.replace(scored, constraint=None, repetition_penalty=1.3), 0.5, seen={1})
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(3))
    logits[1] = math.nan
    for draw_all in (sample, sampling.sample):
        assert draw_all(logits, [nothing, broken]) == [Drawn(NONE_ALLOWED), Drawn(NO_TOKEN)]


@given(bent)
def test_log_probabilities_are_the_same_whatever_a_text_is_under(draw):
    (one,) = sample(LARGE[:1], [draw])
    plain = SamplingParams(logprobs=draw.params.logprobs, certainty=draw.params.certainty)
    assert sample(LARGE[:1], [Draw(plain, 0.0, forced=one.token)]) == [one]


def test_rows_that_are_bent_go_the_other_way_and_keep_their_places():
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(0))
    plain = Draw(SamplingParams(temperature=1.0, logprobs=0), 0.5)
    bent = Draw(SamplingParams(temperature=0.0, logit_bias={7: 100.0}, logprobs=0), 0.5)
    barred = Draw(SamplingParams(temperature=1.0), 0.5, allowed=torch.arange(VOCAB) == 9)
    found = sample(logits, [plain, bent, barred, plain])
    assert [one.token for one in found[1:3]] == [7, 9]
    assert [found[0], found[3]] == [sample(logits[i : i + 1], [plain])[0] for i in (0, 3)]
