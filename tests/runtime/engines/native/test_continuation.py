"""Texts and their continuations as tokens, over the kinds of tokenizers, against transformers and whole texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.text_stream import TextStream, decode_behind
from plait.tests.runtime.engines.native.tokenizer_kinds import BOS, CORPUS, KINDS, ours, raw, save

WORDS = sorted({word for text in CORPUS for word in text.split(" ")})
FRAGMENTS = ["\n", "\n\n", " ", "  ", ":", " = ", "12", "3456", "'s", "é", "你", "\t", "</Path>", "<Path>\n1:", ", "]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(FRAGMENTS), st.just(" ")), max_size=12).map("".join)
SPACED = {kind for kind in KINDS if "space" in kind or kind == "unigram"}
"""These put a space in front, and take one away when they decode."""


def known(kind, text):
    """Does the vocabulary hold all of the text?"""
    tokenizer = raw(kind)
    unknown = tokenizer.token_to_id("<unk>")
    return unknown is None or unknown not in tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(TEXTS)
@example("")
@example("Answer: 12 + 345")
def test_a_continuation_is_the_rest_of_the_whole_wherever_a_boundary_allows(kind, text):
    if not known(kind, text):
        return
    tokenizer = ours(kind)
    ids = tokenizer.encode(text)
    first = len(tokenizer.prefix_ids)
    for i in range(first, len(ids) + 1):
        before, rest = ids[:i], tokenizer.decode(ids)[len(tokenizer.decode(ids[:i])) :]
        if "\ufffd" in tokenizer.decode(before) + rest:
            continue  # a character that is split over tokens
        if i == first and kind in SPACED:
            rest = text  # the space in front is the tokenizer's
        assert tokenizer.encode_continuation(before, rest) == ids[i:], (before, rest)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=80)
@given(TEXTS, TEXTS)
@example("so far", "bar")
@example("so far", " bar")
@example("x", "</Path>\n")
@example("12", "34")
def test_nothing_comes_between_a_text_and_its_continuation(kind, before, text):
    if not known(kind, before + text):
        return
    tokenizer = ours(kind)
    for left in (tokenizer.encode(before), []):
        tokens = tokenizer.encode_continuation(left, text)
        assert not set(tokens) & set(tokenizer.prefix_ids)
        if before:
            behind = tokenizer.encode(before)
            assert tokenizer.decode(behind + tokens) == tokenizer.decode(behind) + text


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_of_a_long_text_and_of_tokens_nobody_would_write(kind):
    tokenizer = ours(kind)
    text = " ".join(CORPUS[1].split() * 60)
    ids = tokenizer.encode(text)
    assert tokenizer.encode_continuation(ids, ". And")[:3] == tokenizer.encode(f"{text}. And")[len(ids) :][:3]
    letters = [id for word in ("q", "u", "i") for id in tokenizer.encode_continuation((), word)]
    assert tokenizer.decode([*letters, *tokenizer.encode_continuation(letters, " brown fox")]).endswith("qui brown fox")


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(TEXTS)
@example(f"{BOS}once")
def test_ids_are_those_of_transformers(kind, tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / kind.replace(" ", "_")
    theirs = peer(kind, folder)
    mine = HFTokenizer.load(folder)
    expected = theirs(text).input_ids
    if text.startswith(BOS) and mine.prefix_ids:
        assert expected[:2] == [mine.bos_id, mine.bos_id]  # theirs has it twice
        expected = expected[1:]
    assert mine.encode(text) == expected
    assert mine.decode(expected) == theirs.decode(expected)


def peer(kind, folder, known={}):  # noqa: B006
    if kind not in known:
        from transformers import AutoTokenizer

        known[kind] = AutoTokenizer.from_pretrained(save(kind, folder))
    return known[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(st.randoms(use_true_random=False))
def test_what_was_streamed_joins_to_the_text(kind, rng: random.Random):
    tokenizer = ours(kind)
    size = tokenizer.vocab_size
    some = sorted(tokenizer.byte_ids)
    tokens = [
        rng.choice(some) if some and rng.random() < 0.5 else rng.randrange(size) for _ in range(rng.randrange(30))
    ]
    tokens.append(tokenizer.encode_continuation((), "a")[-1])  # behind which nothing is left open
    letter = tokenizer.encode_continuation((), "a")
    for behind in (False, True):
        stream, whole = TextStream(tokenizer, behind=behind), decode_behind(tokenizer, tokens, behind=behind)
        assert whole == (tokenizer.decode([*letter, *tokens])[1:] if behind else tokenizer.decode(tokens))
        said, count = "", 0
        for token in tokens:
            text, number = stream.push(token)
            said, count = said + text, count + number
            assert whole.startswith(said)
        assert (said, count) == (whole, len(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_as_soon_as_it_is_certain(kind):
    tokenizer = ours(kind)
    tokens = tokenizer.encode("The quick brown fox")[len(tokenizer.prefix_ids) :]
    stream = TextStream(tokenizer)
    assert all(stream.push(token)[1] for token in tokens)
