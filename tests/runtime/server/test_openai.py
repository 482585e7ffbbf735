"""OpenAI's API, by its own client, which nobody told that there is no OpenAI."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import jsonschema
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plait
from plait.runtime.server.bodies import parse_fields
from plait.runtime.server.problems import Refused
from plait.runtime.server.requests import Body, ChatBody, CompletionBody

from .conftest import serving

PROMPT = "seq 24 : 8 3 1 ;"
APR = "apr 24 : 9 8 7 2 ;"


async def expected(method, **options):
    async with plait.Runtime("countdown") as runtime:
        return await (await runtime.submit(method, **options))


async def parts_of(stream):
    """All parts of a stream; the client itself leaves its generators behind."""
    async with stream:
        async for part in stream:
            yield part
    gc.collect()
    await asyncio.sleep(0.01)


async def test_models(served):
    async with served.openai() as client:
        names = [model.id async for model in client.models.list()]
        assert names[0] == "countdown"
        assert "countdown:apr" in names and "countdown:code_monkeys" not in names
        assert (await client.models.retrieve("countdown:sc8")).id == "countdown:sc8"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt")


@pytest.mark.parametrize(
    "name",
    ["countdown:", "countdown:tree_search", "countdown:sc0", "countdown:sequential:zzz=1", "countdown:sc9999",
     "countdown:sequential:answer=regex:a", 'countdown:sc2:generator={"method": "code_monkeys"}'],
)  # fmt: skip
async def test_models_whose_names_are_refused_are_none(served, name):
    async with served.openai() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve(name)
        assert caught.value.body["code"] == "model_not_found"
        with pytest.raises(openai.APIStatusError) as refused:
            await client.completions.create(model=name, prompt=PROMPT)
    assert refused.value.body["message"] == caught.value.body["message"]


@pytest.mark.parametrize(
    ("methods", "listed"),
    [
        (("sequential", "apr"), ["countdown", "countdown:apr", "countdown:sequential"]),
        (("apr",), ["countdown:apr"]),  # what is asked for without a method is the method `sequential`
        (("apr", "code_monkeys"), ["countdown:apr"]),  # a method that needs fields
    ],
)
async def test_models_that_are_listed_are_served_as_they_are(methods, listed):
    async with serving(methods=methods) as served, served.openai() as client:
        names = [model.id async for model in client.models.list()]
        for name in names:
            assert (await client.models.retrieve(name)).id == name
            assert await client.completions.create(model=name, prompt=APR, max_tokens=2)
    assert names == listed


async def test_completion_is_what_the_runtime_gives(served):
    result = await expected(plait.Sequential(prompt=PROMPT, max_tokens=200, temperature=0))
    async with served.openai() as client:
        got = await client.completions.create(model="countdown", prompt=PROMPT, max_tokens=200, temperature=0)
    assert got.choices[0].text == result.text
    assert got.choices[0].finish_reason == "stop"
    assert got.usage.completion_tokens == result.usage.total_tokens
    assert got.usage.prompt_tokens == result.usage.prompt_tokens
    assert got.usage.plait["critical_tokens"] == result.usage.critical_tokens
    assert got.usage.plait["peak_kv_blocks"] > 0


async def test_max_tokens_stop_and_several_prompts(served):
    async with served.openai() as client:
        got = await client.completions.create(model="countdown", prompt=[PROMPT, APR], max_tokens=3, temperature=0)
        whole = await client.completions.create(model="countdown", prompt=PROMPT, max_tokens=200, temperature=0)
        cut = await client.completions.create(
            model="countdown", prompt=PROMPT, max_tokens=200, temperature=0, stop=["answer"]
        )
    assert [choice.index for choice in got.choices] == [0, 1]
    assert {choice.finish_reason for choice in got.choices} == {"length"}
    assert got.choices[0].text != got.choices[1].text
    assert cut.choices[0].text.strip() == whole.choices[0].text.partition("answer")[0].strip()


async def test_stream_is_the_whole_answer_in_parts(served):
    options = {"model": "countdown", "prompt": PROMPT, "max_tokens": 60, "n": 3, "temperature": 9, "seed": 5}
    async with served.openai() as client:
        whole = await client.completions.create(**options, logprobs=2)
        texts, ends, parts, usage, columns = {}, {}, 0, None, {}
        options |= {"stream": True, "stream_options": {"include_usage": True}}
        async for part in parts_of(await client.completions.create(**options, logprobs=2)):
            usage = part.usage or usage
            for choice in part.choices:
                parts += 1
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                ends[choice.index] = choice.finish_reason or ends.get(choice.index)
                columns[choice.index] = choice.logprobs or columns.get(choice.index)
    assert parts > 10
    assert len(set(texts.values())) > 1
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert {i: c.token_logprobs for i, c in columns.items()} == {
        choice.index: choice.logprobs.token_logprobs for choice in whole.choices
    }
    assert usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("stop", [" 8", " -", None])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
async def test_log_probabilities_come_in_one_part_of_a_stream(served, path, stop):
    is_chat = path != "completions"
    asked = {"messages": [{"role": "user", "content": PROMPT}]} if is_chat else {"prompt": PROMPT}
    body = {"model": "countdown", "max_tokens": 3, "temperature": 0, "stop": stop, "logprobs": is_chat or 0, **asked}
    async with served.http() as http:
        answer = (await http.post(f"/v1/{path}", json=body)).json()
        whole, usage = answer["choices"][0]["logprobs"], answer["usage"]
        lines = (await http.post(f"/v1/{path}", json={**body, "stream": True})).text.split("\n")
    parts = [json.loads(line[6:])["choices"][0]["logprobs"] for line in lines if line.startswith("data: {")]
    assert whole is not None and [part for part in parts if part is not None] == [whole]
    shown, first = len(whole["content" if is_chat else "tokens"]), stop == " 8"
    assert (shown == 0) == first and usage["completion_tokens"] == shown
    assert usage["plait"]["rolled_back_tokens"] == first


async def test_chat_with_log_probabilities(served):
    async with served.openai() as client:
        got = await client.chat.completions.create(
            model="countdown",
            messages=[{"role": "user", "content": PROMPT}],
            max_completion_tokens=200,
            temperature=0,
            logprobs=True,
            top_logprobs=3,
        )
    result = await expected(plait.Sequential(prompt=PROMPT, max_tokens=200, temperature=0))
    choice = got.choices[0]
    assert choice.message.content == result.text
    sampled = [p for segment in result.trace.segments for p in segment.pieces if p.kind == "sampled"]
    logprobs = [value for piece in sampled for value in piece.logprobs]
    told = [token.logprob for token in choice.logprobs.content]
    assert told == pytest.approx(logprobs[: len(told)], abs=1e-4)
    assert len(logprobs) - len(told) == 1  # the end of the sequence is no text
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert bytes(token.bytes).decode() == token.token


@pytest.mark.parametrize("way", ["name", "field", "word"])
async def test_method(served, way):
    apr = {"method": "apr", "dialect": "compact", "temperature": 0}
    how = {
        "name": {"model": "countdown:apr:dialect=compact,temperature=0"},
        "field": {"model": "countdown", "extra_body": {"method": apr}},
        "word": {"model": "countdown", "extra_body": {"method": "apr:dialect=compact,temperature=0"}},
    }[way]
    async with served.openai() as client:
        got = await client.completions.create(prompt=APR, **how)
    result = await expected(plait.APR(prompt=APR, dialect="compact", temperature=0))
    assert got.choices[0].text == result.text
    assert got.choices[0].plait["answer"] == result.answer
    assert got.usage.plait["critical_tokens"] == result.usage.critical_tokens < got.usage.completion_tokens
    assert got.usage.plait["branches"] == result.usage.branches > 1


async def test_method_streams_its_text_in_the_end(served):
    async with served.openai() as client:
        stream = await client.chat.completions.create(
            model="countdown:sc4",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=60,
            seed=1,
            n=2,
            stream=True,
        )
        texts, ends = {}, set()
        async for part in parts_of(stream):
            for choice in part.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
                ends.add((choice.index, choice.finish_reason))
    for number in range(2):
        result = await expected(plait.SelfConsistency(prompt=PROMPT, n=4, max_tokens=60), seed=1 + number)
        assert texts[number] == result.text
    assert {index for index, end in ends if end} == {0, 1}


BAD = {
    "model": ({"model": "gpt"}, 404),
    "method": ({"model": "countdown:nothing"}, 404),
    "empty method": ({"model": "countdown:"}, 404),
    "empty word": ({"extra_body": {"method": ""}}, 404),
    "empty method and another": ({"model": "countdown:", "extra_body": {"method": "sc2"}}, 400),
    "forbidden": ({"extra_body": {"method": {"method": "code_monkeys"}}}, 403),
    "not allowed": ({"extra_body": {"method": "tree_search"}}, 403),
    "two": ({"model": "countdown:sc2", "extra_body": {"method": "apr"}}, 400),
    "temperature": ({"temperature": -1}, 400),
    "n": ({"n": 1000}, 400),
    "field": ({"extra_body": {"nonsense": 1}}, 400),
    "many digits": ({"model": f"countdown:sc{'9' * 5000}"}, 404),
    "penalty": ({"frequency_penalty": 0.5}, 400),
    "text for a number": ({"extra_body": {"temperature": "0.5"}}, 400),
    "truth for a number": ({"extra_body": {"max_tokens": False}}, 400),
    "number for a truth": ({"extra_body": {"stream": 0}}, 400),
    "empty stop": ({"stop": ""}, 400),
    "budget": ({"extra_body": {"budget": {"total_tokens": 0}}}, 400),
    "long": ({"prompt": [5] * 100_000}, 400),
    "regex": ({"extra_body": {"method": {"method": "sequential", "answer": "regex:(a+)+$"}}}, 400),
    "forbidden inside": (
        {"extra_body": {"method": {"method": "self_consistency", "generator": {"method": "code_monkeys"}}}},
        403,
    ),
    "not allowed inside": (
        {
            "extra_body": {
                "method": {
                    "method": "apr",
                    "generator": {
                        "method": "self_consistency",
                        "prompt": "x",
                        "generator": {"method": "tree_search", "prompt": "x", "reward": "prm:/"},
                    },
                }
            }
        },
        403,
    ),
    "regex inside": (
        {
            "extra_body": {
                "method": {
                    "method": "self_consistency",
                    "generator": {"method": "sequential", "prompt": "x", "answer": "regex:(a|a)+$"},
                }
            }
        },
        400,
    ),
    "surrogates": ({"prompt": []}, 400),
    "stream options": ({"stream": True, "extra_body": {"stream_options": {"include_usage": True, "nonsense": 1}}}, 400),
    "no logprobs": ({"extra_body": {"logprobs": False}}, 400),
    "two prompts": ({"extra_body": {"method": {"method": "sequential", "prompt": "x"}}}, 400),
    "two prompts in the name": ({"model": "countdown:sequential:prompt=x"}, 400),
}


TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"default": None}}, "x": None}}
CALLED = {"name": "look", "arguments": "{}"}
CHAT = {
    "model": "countdown",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": CALLED}]},
    ],
    "tools": [{"type": "function", "function": TOOL}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [None], "x": None}}},
    "structured_outputs": {"choice": ["a"]},
    "stream_options": {"include_usage": True},
    "method": {"method": "apr", "x": None},
}
FREE = ("parameters", "schema", "method")
"""Objects whose fields are not the request's."""
NAMES = st.sampled_from(["annotations", "functions", "n", "seed", "budget", "strict", "index", "type", "regex", "name"])


@given(st.data())
def test_null_is_what_is_not_given(data):
    def write_out(value, name=""):
        if isinstance(value, dict) and name not in FREE:
            nulls = dict.fromkeys(data.draw(st.sets(NAMES)))
            return {**nulls, **{key: write_out(one, key) for key, one in value.items()}}
        return [write_out(one, name) for one in value] if isinstance(value, list) and name != "content" else value

    expected = parse_fields(ChatBody, CHAT)
    assert parse_fields(ChatBody, write_out(CHAT)) == expected
    assert expected.tools[0].function.parameters == TOOL["parameters"]
    assert expected.response_format.json_schema.schema_ == {"enum": [None], "x": None}
    assert expected.method == CHAT["method"]


SMALLEST: dict[type[Body], Any] = {
    CompletionBody: {"model": "m", "prompt": "x"},
    ChatBody: {"model": "m", "messages": CHAT["messages"]},
}
FIELDS = [(body, name) for body in SMALLEST for name in body.model_fields]
VALUES = st.sampled_from([True, False, 0, 1, 2, -1, 0.0, 0.5, 1.0, 2.0, "", "1", "0.5", "true", "yes", [], ["1"], {}])


@given(st.sampled_from(FIELDS), VALUES, st.sampled_from([None, "include_usage", "choice", "json_object", "type"]))
def test_what_is_taken_is_of_the_type_that_is_told(field, value, inside):
    body, name = field
    given_body = {**SMALLEST[body], name: value if inside is None else {inside: value}}
    try:
        parse_fields(body, given_body)
    except Refused:
        return
    jsonschema.validate(given_body, body.model_json_schema())
    if inside is None and isinstance(value, float):  # A schema takes 2.0 for an integer.
        assert "number" in json.dumps(body.model_json_schema()["properties"][name])


@pytest.mark.parametrize(
    ("body", "fields", "told"),
    [
        (CompletionBody, {"stop": ["a"] * 17}, "stop: List should have at most 16 items"),
        (CompletionBody, {"stop": 5}, "stop: Input should be a valid string or a valid list"),
        (CompletionBody, {"stop": ["a", 5]}, "stop.1: Input should be a valid string"),
        (CompletionBody, {"method": 5}, "method: Input should be a valid dictionary or a valid string"),
        (
            CompletionBody,
            {"structured_outputs": {"json": "{}"}},
            "structured_outputs.json: Input should be a valid dictionary or a valid boolean",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: Input should be a valid string or a valid list",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [{}, 5]}]},
            "messages.0.content.1: Input should be a valid dictionary",
        ),
        (ChatBody, {"tool_choice": "some"}, "tool_choice: Input should be 'auto', 'none' or 'required'"),
        (ChatBody, {"tool_choice": {"type": "function"}}, "tool_choice.function: Field required"),
        (ChatBody, {"messages": None}, "messages: Field required"),
    ],
)
def test_mistakes_are_told_by_the_names_of_fields(body, fields, told):
    with pytest.raises(Refused) as caught:
        parse_fields(body, {**SMALLEST[body], **fields})
    assert str(caught.value).startswith(told)
    assert caught.value.param == next(iter(fields))


def test_whole_numbers_are_numbers():
    taken = parse_fields(CompletionBody, {**SMALLEST[CompletionBody], "temperature": 1, "presence_penalty": 0})
    assert (taken.temperature, taken.presence_penalty) == (1.0, 0.0)


async def test_what_clients_write_out_is_taken(served):
    names = (*CompletionBody.model_fields, *ChatBody.model_fields, "functions", "suffix", "reasoning_effort")
    nulls = dict.fromkeys(names)
    chat = {"messages": [{"role": "user", "content": PROMPT, "annotations": None}], "max_tokens": 2}
    async with served.http() as http:
        for path, asked in (("completions", {"prompt": PROMPT}), ("chat/completions", chat)):
            body = {**nulls, "model": "countdown", "logit_bias": {}, **asked}
            answer = await http.post(f"/v1/{path}", json=body)
            assert answer.status_code == 200, answer.text
            for wrong in ({"logit_bias": {"50": 1}}, {"functions": []}, {"model": None}):
                answer = await http.post(f"/v1/{path}", json={**body, **wrong})
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == next(iter(wrong))


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests(served, name):
    changes, status = BAD[name]
    async with served.openai() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.completions.create(**{"model": "countdown", "prompt": PROMPT, **changes})
        assert caught.value.status_code == status
        assert caught.value.body["message"] and "Sampled" not in caught.value.body["message"]
        await client.completions.create(model="countdown", prompt=PROMPT, max_tokens=2)
    assert served.used == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_ends_the_job(stream):
    async with serving() as served, served.openai() as client:
        options = {"model": "countdown", "prompt": PROMPT, "max_tokens": 400, "n": 16, "temperature": 9}
        if stream:
            answer = await client.completions.create(**options, stream=True)
            async for part in answer:
                if part.choices[0].text:
                    break
            assert served.used > 0
            await answer.close()
            del answer
            gc.collect()
        else:
            with pytest.raises(openai.APITimeoutError):
                await client.completions.create(**options, timeout=0.15)
        gone = time.perf_counter()
        while served.used or served.service.active:
            await asyncio.sleep(0.01)
            assert time.perf_counter() - gone < 1
        assert 'reason="cancelled"' in served.service.metrics.render().decode()
