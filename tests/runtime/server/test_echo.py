"""`echo`: prompts with their log-probabilities, against transformers' logits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import plait

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
    assert "".join(columns.tokens)[columns.text_offset[3] :].startswith(columns.tokens[3])
    assert of_ids.choices[0].logprobs == columns
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
        assert len(other.logprobs.tokens) == len(other.logprobs.top_logprobs) == size + len(new)
    assert echoed.usage.completion_tokens == plain.usage.completion_tokens
    assert echoed.usage.prompt_tokens == plain.usage.prompt_tokens
    assert "stop" in {choice.finish_reason for choice in plain.choices}


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
