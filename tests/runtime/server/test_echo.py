"""`echo`: prompts with their log-probabilities, against transformers' logits."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import plait
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.engines.text_stream import decode_behind
from plait.runtime.server import answers, sampled
from plait.runtime.server.sampled import _placed, _spelled
from plait.tests.runtime.engines.native.tokenizer_kinds import KINDS, ours

from .conftest import serving

FOLDER = Path(plait.__file__).parent / "models" / "countdown"
PROMPT = "seq 24 : 8 3 1 ; 8 - 3"
ASK = {"model": "countdown", "echo": True, "max_tokens": 0}


@cache
def known(prompt=PROMPT):
    """Token texts, and log-probabilities of all tokens at each place behind the first."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).input_ids
    with torch.inference_mode():
        rows = model(ids).logits[0].log_softmax(-1)
    return ids[0].tolist(), [tokenizer.decode([id]) for id in range(len(tokenizer))], rows


async def test_log_probabilities_of_a_prompt(served):
    ids, names, rows = known()
    async with served.openai() as client:
        got = await client.completions.create(**ASK, prompt=PROMPT, logprobs=2)
        of_ids = await client.completions.create(**ASK, prompt=ids, logprobs=2)
    choice, columns = got.choices[0], got.choices[0].logprobs
    assert choice.text == PROMPT and choice.finish_reason == "length"
    assert columns.tokens == [names[id] for id in ids]
    assert columns.token_logprobs[0] is None and columns.top_logprobs[0] is None
    expected = [float(rows[i, id]) for i, id in enumerate(ids[1:])]
    assert columns.token_logprobs[1:] == pytest.approx(expected, abs=1e-3)
    for place, top in enumerate(columns.top_logprobs[1:]):
        values, best = rows[place].topk(2)
        assert top == pytest.approx(
            {names[id]: float(v) for id, v in zip(best.tolist(), values, strict=True)}, abs=1e-3
        )
    spelled = zip(columns.tokens[2:], columns.text_offset[2:], strict=True)
    assert columns.text_offset[:2] == [0, 0]  # `<bos>` is not in the text
    assert all(PROMPT[at:].startswith(token) for token, at in spelled)
    shifted = [0, 0, *(at + 1 for at in columns.text_offset[2:])]  # the text of token ids begins with a space
    assert of_ids.choices[0].text == f" {PROMPT}"
    assert of_ids.choices[0].logprobs == columns.model_copy(update={"text_offset": shifted})
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(ids), 0)
    assert served.used == 0


async def test_what_follows_is_as_without_echo(served):
    options = {"model": "countdown", "prompt": PROMPT, "max_tokens": 60, "temperature": 1, "seed": 3, "n": 3}
    async with served.openai() as client:
        plain = await client.completions.create(**options, logprobs=1)
        echoed = await client.completions.create(**options, logprobs=1, echo=True)
        bare = await client.completions.create(**options, echo=True)
    size = len(known()[0])
    for one, other, third in zip(plain.choices, echoed.choices, bare.choices, strict=True):
        assert other.text == third.text == PROMPT + one.text
        assert third.logprobs is None
        new = other.logprobs.token_logprobs[size:]
        # The token that ends the text is there, so that readers can count from behind.
        ended = int(one.finish_reason == "stop")
        assert len(new) == len(one.logprobs.token_logprobs) + ended
        assert new[: len(new) - ended] == one.logprobs.token_logprobs
        for token, at in zip(other.logprobs.tokens[2:], other.logprobs.text_offset[2:], strict=True):
            assert other.text[at:].startswith(token) or (ended and at == len(other.text))
        assert len(other.logprobs.tokens) == len(other.logprobs.top_logprobs) == size + len(new)
    assert echoed.usage.completion_tokens == plain.usage.completion_tokens
    assert echoed.usage.prompt_tokens == plain.usage.prompt_tokens
    assert "stop" in {choice.finish_reason for choice in plain.choices}


@pytest.mark.parametrize(
    ("ids", "text", "offsets"),
    [
        ([1, 5, 6, 7], "hello, 😀", [0, 0, 5, 6]),
        ([1, 5, 8, 9, 10, 11, 5], "hello😀 hello", [0, 0, 5, 5, 5, 5, 6]),
        ([5, 5, 2], "hello hello", [0, 5, 11]),
        ([5, 6], "hel", [0, 3]),
        ([], "", []),
    ],
)
def test_offsets_where_texts_lose_a_space_and_characters_are_spelled_in_bytes(ids, text, offsets):
    """As sentencepiece has it: the space in front of a word is not there at the start of a text."""

    class Spaced(CharTokenizer):
        prefix_ids, eos_ids = (1,), (2,)

        def decode(self, token_ids):
            known = {1: b"<s>", 2: b"</s>", 5: b" hello", 6: b",", 7: " 😀".encode()}
            known |= dict(zip(range(8, 12), ([byte] for byte in "😀".encode()), strict=True))
            return b"".join(bytes(known[id]) for id in token_ids).decode(errors="replace").removeprefix(" ")

    told = _placed([{"token": id} for id in ids], ids, text, Spaced(), after=3, hidden=ids.count(1))
    assert [token["offset"] - 3 for token in told] == offsets
    assert [token["token"] for token in told] == ids


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_spelled_as_they_stand_behind_others(kind):
    tokenizer = ours(kind)
    spelled = [_spelled(id, tokenizer) for id in tokenizer.encode_continuation((), " brown fox")]
    assert "".join(one["token"] for one in spelled) == " brown fox"
    assert bytes(byte for one in spelled for byte in one["bytes"]) == b" brown fox"


async def test_one_token_and_several_prompts(served):
    async with served.openai() as client:
        got = await client.completions.create(**ASK, prompt=[[known()[0][0]], known()[0]], logprobs=0)
    assert [choice.text.strip() for choice in got.choices] == ["", PROMPT]  # the first is `<bos>` alone
    assert got.choices[0].logprobs.token_logprobs == [None]
    assert got.choices[1].logprobs.top_logprobs[1:] == [{}] * (len(known()[0]) - 1)


@pytest.mark.parametrize("wrong", [{"stream": True}, {"model": "countdown:sc8"}])
async def test_where_there_is_no_echo(served, wrong):
    async with served.openai() as client:
        with pytest.raises(openai.BadRequestError, match="echo"):
            await client.completions.create(**{**ASK, "prompt": PROMPT, **wrong})


async def test_a_budget_that_does_not_cover_the_prompt():
    async with serving(limits={"total_tokens": 3}) as served, served.openai() as client:
        with pytest.raises(openai.BadRequestError, match="budget"):
            await client.completions.create(**ASK, prompt=PROMPT, logprobs=1)
        assert (await client.completions.create(**ASK, prompt=PROMPT)).choices[0].text == PROMPT


async def test_many_log_probabilities_hold_nobody_up(monkeypatch):
    """What is done for each token is done once for each of the vocabulary, or not in the event loop."""
    spelled, own, places = [], threading.get_ident(), set()

    def spell(tokenizer, ids):
        spelled.append(tuple(ids))
        return decode_behind(tokenizer, ids)

    def watched(function):
        def call(given):
            if given is not None:
                places.add((function.__name__, threading.get_ident() == own))
            return function(given)

        return call

    def placed(*args, **options):
        places.add(("_placed", threading.get_ident() == own))
        return _placed(*args, **options)

    monkeypatch.setattr(sampled, "decode_behind", spell)
    monkeypatch.setattr(sampled, "_placed", placed)
    for name in ("_columns", "_content"):
        monkeypatch.setattr(answers, name, watched(getattr(answers, name)))
    ask = {"model": "countdown", "max_tokens": 20, "n": 8, "temperature": 1, "seed": 1}
    chat = {**ask, "messages": [{"role": "user", "content": PROMPT}], "logprobs": True, "top_logprobs": 20}
    async with serving() as served, served.openai() as client:
        for stream in (False, True):
            for got in (
                await client.completions.create(**ask, prompt=PROMPT, logprobs=20, stream=stream),
                await client.chat.completions.create(**chat, stream=stream),
            ):
                if stream:
                    _ = [part async for part in got]
        await client.completions.create(**ASK, prompt=PROMPT, logprobs=20)
    assert len(spelled) == len(set(spelled))
    assert places == {("_placed", False), ("_columns", False), ("_content", False)}
