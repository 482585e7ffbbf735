"""The mask in vLLM's processes and the matcher that follows it in this one, without vLLM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Constraint, SamplingParams
from plait.runtime.engines.constraints.matcher import Compiler, accepts, dead_end
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.vllm.constrained import NOTHING, Texts, arguments, follow
from plait.tests.runtime.engines.constraints.byte_model import EOS, save_byte_model

CONSTRAINTS = [
    Constraint(kind="regex", source="([ab]{1,3}|é)z?"),
    Constraint(kind="choice", source='["one", "two", "twofold"]'),
    Constraint(kind="json", source='{"type": "array", "items": {"enum": [12, "ab"]}, "minItems": 1, "maxItems": 2}'),
]
STOP = 7
"""A stop token."""


@pytest.fixture(scope="module")
def tokenizer():
    return HFTokenizer.load(save_byte_model())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CONSTRAINTS), st.integers(0, 2**31), st.booleans())
def test_what_the_mask_leaves_is_followed_and_nothing_else(tokenizer, constraint, seed, goes_on):
    params, random = SamplingParams(constraint=constraint, stop_token_ids=(STOP,)), torch.Generator().manual_seed(seed)
    matcher = Compiler(tokenizer, "here").matcher(params)
    texts, written, given_before = Texts(tokenizer), [], 0
    text = texts.begin(arguments(params, ()))
    for _ in range(200):
        logits = torch.randn(272, generator=random)
        text.mask(logits, written[given_before:])
        assert logits.isfinite().any() and not logits.isnan().any()
        token = int(logits.argmax())
        refused = int((~logits.isfinite()).nonzero()[0])
        if token in (EOS, STOP):
            assert matcher.is_complete and not follow(matcher, refused, 262)
            break
        assert follow(matcher, token, 262)
        written.append(token)
        if goes_on and len(written) == 2:  # as a request that was preempted, or had tokens given
            text, given_before = texts.begin(arguments(params, tuple(written))), 2
    else:
        pytest.fail(f"no end: {written}")
    assert accepts(constraint, tokenizer.decode(written))
    text = texts.begin(arguments(params, (*written, token, 1), (EOS, STOP)))  # all of it was given
    text.mask(logits := torch.zeros(272), [])
    assert logits[token].isfinite()


@pytest.mark.parametrize("forbidden", [(ord("x") - 33, ord("y") - 33), range(262)])
def test_a_dead_end_is_told_by_a_token(tokenizer, forbidden):
    params = SamplingParams(constraint=Constraint(kind="regex", source="a(x|y)"))
    matcher = Compiler(tokenizer, "here").matcher(params)
    first = ord("a") - 33
    assert follow(matcher, first, 262)
    logits = torch.zeros(272)
    logits[list(forbidden)] = -torch.inf
    Texts(tokenizer).begin(arguments(params, ())).mask(logits, [first])
    assert int(logits.isfinite().sum()) == 1
    assert not follow(matcher, int(logits.argmax()), 262)


@pytest.mark.parametrize("letters", ["a", "ab"])
def test_the_limits_of_the_library_are_told_too(tokenizer, letters):
    """Whether they are reached behind a token or when it is asked what may come next."""
    rules = "\n".join(f's{i}: s{i} s{(i + 1) % 20} | s{(i * 7 + 1) % 20} | "{letters}"' for i in range(20))
    params = SamplingParams(constraint=Constraint(kind="grammar", source=f"start: s0\n{rules}"))
    matcher = Compiler(tokenizer, "here").matcher(params)
    text, written = Texts(tokenizer).begin(arguments(params, ())), []
    is_followed = True
    while is_followed and len(written) < 100:
        text.mask(logits := torch.zeros(272), written)
        written.append(int(logits.argmax()))
        is_followed = follow(matcher, written[-1], 262)
    assert not is_followed and "too complex" in dead_end((), matcher)
    text.mask(logits := torch.zeros(272), [*written, 7])
    assert logits.isfinite().nonzero().tolist() == [[NOTHING]]


def test_other_requests_are_free(tokenizer):
    assert arguments(SamplingParams(), (1, 2)) is None
    assert Texts(tokenizer).begin(None) is None and Texts(tokenizer).begin({"other": 1}) is None
