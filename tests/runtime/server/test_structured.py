"""Structured outputs and tools, by OpenAI's own client."""

from __future__ import annotations

import json
import re

import openai
import pytest
from transformers import AutoTokenizer

import plait
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.constraints import ChoiceConstraint
from plait.runtime.server.bodies import parse_fields
from plait.runtime.server.problems import Refused
from plait.runtime.server.requests import ChatBody, CompletionBody
from plait.tests.real import folder
from plait.tests.runtime.engines.constraints.byte_model import save_byte_model

from .conftest import serving
from .test_openai import PROMPT, parts_of

MODEL = "countdown"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ASK = [{"role": "user", "content": "Weather?"}]


def byte_engine():
    return NativeEngine.load(save_byte_model())


@pytest.mark.parametrize("stream", [False, True])
async def test_json_schema(stream):
    async with serving(engine=byte_engine()) as served, served.openai() as client:
        options = {"model": MODEL, "messages": ASK, "response_format": FORMAT, "n": 2, "seed": 3, "max_tokens": 200}
        if stream:
            texts = {0: "", 1: ""}
            async for part in parts_of(await client.chat.completions.create(**options, stream=True)):
                for choice in part.choices:
                    texts[choice.index] += choice.delta.content or ""
        else:
            got = await client.chat.completions.create(**options)
            texts = {choice.index: choice.message.content for choice in got.choices}
            assert {choice.finish_reason for choice in got.choices} == {"stop"}
    for text in texts.values():
        found = json.loads(text)
        assert list(found) == ["n", "ok"] and 0 <= found["n"] <= 99 and isinstance(found["ok"], bool)


async def test_completions_of_all_kinds():
    kinds = {
        "json": (SCHEMA, lambda text: "ok" in json.loads(text)),
        "regex": ("[ab]{3}", lambda text: re.fullmatch("[ab]{3}", text)),
        "choice": (["yes", "no"], lambda text: text in ("yes", "no")),
        "grammar": ('start: "a" "b"', lambda text: text == "ab"),
    }
    async with serving(engine=byte_engine()) as served, served.openai() as client:
        for kind, (value, is_right) in kinds.items():
            extra = {"structured_outputs": {kind: value}}
            got = await client.completions.create(model=MODEL, prompt="ab", max_tokens=200, extra_body=extra, seed=1)
            assert got.choices[0].finish_reason == "stop" and is_right(got.choices[0].text)
        for form in ({"type": "text"}, {"type": "json_object"}):
            got = await client.chat.completions.create(
                model=MODEL, messages=ASK, max_tokens=5, response_format=form, temperature=0
            )
            assert got.choices[0].message.content.startswith("{") == (form["type"] == "json_object")


async def test_a_method_takes_it_too():
    async with serving(engine=byte_engine()) as served, served.openai() as client:
        got = await client.completions.create(
            model=f"{MODEL}:sc3", prompt="ab", extra_body={"structured_outputs": {"choice": ["x", "y"]}}
        )
    assert got.choices[0].text in ("x", "y") and got.choices[0].plait["answer"] == got.choices[0].text


BAD = {
    "type": {"response_format": {"type": "xml"}},
    "schema": {"response_format": {"type": "json_schema"}},
    "schema without its type": {"response_format": {**FORMAT, "type": "text"}},
    "malformed": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    },
    "not supported": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}
    },
    "regex": {"extra_body": {"structured_outputs": {"regex": "("}}},
    "none": {"extra_body": {"structured_outputs": {}}},
    "two": {"extra_body": {"structured_outputs": {"regex": "a", "choice": ["a"]}}},
    "both": {"response_format": FORMAT, "extra_body": {"structured_outputs": {"regex": "a"}}},
    "method": {"extra_body": {"method": "apr", "structured_outputs": {"regex": "a"}}},
    "tools": {"tools": [WEATHER]},
    "choice without tools": {"tool_choice": "required"},
    "calls": {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]},
    "no content": {"messages": [{"role": "user"}]},
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests(served, name):
    async with served.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**{"model": MODEL, "messages": ASK, **BAD[name]})
        assert caught.value.body["message"]
        await client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2)
    assert served.used == 0


def scripted(*texts):
    return plait.ScriptedEngine(list(texts))


async def test_tool_calls():
    engine = scripted(f"Let me see.\n{CALL}", CALL, "It is warm.")
    async with serving(engine=engine) as served, served.openai() as client:
        options = {"model": MODEL, "tools": [WEATHER, NOW], "temperature": 0}
        first = (await client.chat.completions.create(messages=ASK, **options)).choices[0]
        forced = (await client.chat.completions.create(messages=ASK, tool_choice="required", **options)).choices[0]
        call = first.message.tool_calls[0]
        answered = first.message.model_dump()  # with null for all that the client's library knows beyond ours
        said = [*ASK, answered, {"role": "tool", "tool_call_id": call.id, "content": "20 C"}]
        last = (await client.chat.completions.create(messages=said, **options)).choices[0]
    assert first.finish_reason == forced.finish_reason == "tool_calls"
    assert first.message.content == "Let me see." and forced.message.content is None
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert len(forced.message.tool_calls) == 1 and forced.message.tool_calls[0].id != call.id
    assert (last.finish_reason, last.message.content, last.message.tool_calls) == ("stop", "It is warm.", None)
    assert engine.prompts[0].startswith("<tool>get_weather\n<tool>now\n<user>Weather?")
    assert engine.prompts[2].endswith(f"<assistant>Let me see.\n{CALL}\n<tool>20 C\n<assistant>")


def called(*ids):
    function = {"name": "now", "arguments": "{}"}
    return {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function} for id in ids]}


def result(id, **more):
    return {"role": "tool", "content": f"of {id}", "tool_call_id": id, **more}


def chat(*messages):
    return parse_fields(ChatBody, {"model": MODEL, "messages": [*ASK, *messages]})


def test_results_are_those_of_their_calls():
    unnamed = {"role": "tool", "content": "of any"}
    said = chat(
        called("a", "b", "c"), result("c"), result("a", name="now"), result("b"),
        called("b", "a"), result("a"), unnamed, called("a"), result("a"),
    )  # fmt: skip
    (prompt,) = said.prompts(CharTokenizer(), is_plain=True)
    got = [(m["content"], m.get("tool_call_id"), m.get("name")) for m in prompt if m["role"] == "tool"]
    first = [("of a", "a", "now"), ("of b", "b", None), ("of c", "c", None)]
    assert got == [*first, ("of a", "a", None), ("of any", None, None), ("of a", "a", None)]


NO_RESULTS = {
    "unknown": [called("a"), result("b")],
    "twice": [called("a", "b"), result("a"), result("a")],
    "earlier": [called("a"), result("a"), called("b"), result("a")],
    "no calls": [result("a")],
}


@pytest.mark.parametrize("name", NO_RESULTS)
def test_results_of_no_call_are_refused(name):
    with pytest.raises(plait.InvalidInput, match="tool_call_id 'a'|tool_call_id 'b'"):
        chat(*NO_RESULTS[name]).prompts(CharTokenizer(), is_plain=True)


async def test_a_name_is_not_left_out(served):
    """A model without a chat template has no place for it."""
    body = {"model": MODEL, "messages": [{**ASK[0], "name": "ann"}], "max_tokens": 1}
    async with served.http() as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 400
        del body["messages"][0]["name"]
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        body["messages"][0]["name"] = "a" * 500_000
        assert "far too long" in (await http.post("/v1/chat/completions", json=body)).text


TEXTS = {
    "call": (CALL, "", 1),
    "text and calls": (f"So: {CALL}\n{CALL}", "So:", 2),
    "text alone": ("a < b <tool", "a < b <tool", 0),
    "malformed": ('<tool_call>{"name": 3}</tool_call> so', '<tool_call>{"name": 3}</tool_call> so', 0),
    "unknown": (CALL.replace("get_weather", "drop"), CALL.replace("get_weather", "drop"), 0),
    "open": (CALL[:-3], CALL[:-3], 0),
}


@pytest.mark.parametrize("name", TEXTS)
async def test_streamed_calls_are_those_of_the_whole_answer(name):
    text, content, count = TEXTS[name]
    async with serving(engine=scripted(text, text)) as served, served.openai() as client:
        options = {"model": MODEL, "messages": ASK, "tools": [WEATHER]}
        whole = (await client.chat.completions.create(**options)).choices[0]
        said, calls, finish = "", {}, None
        async for part in parts_of(await client.chat.completions.create(**options, stream=True)):
            choice = part.choices[0]
            said, finish = said + (choice.delta.content or ""), choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                held = calls.setdefault(call.index, [call.id, call.function.name, ""])
                held[2] += call.function.arguments
    assert said == (whole.message.content or "") == content
    assert len(calls) == len(whole.message.tool_calls or ()) == count
    assert finish == whole.finish_reason == ("tool_calls" if count else "stop")
    for index, (id, name, arguments) in calls.items():
        assert id.startswith("call_") and name == whole.message.tool_calls[index].function.name
        assert arguments == whole.message.tool_calls[index].function.arguments


async def test_our_own_engine_for_servers_passes_constraints_on():
    async with serving() as served:
        options = {"tokenizer": "countdown", "timeout": 10.0}
        async with (
            plait.Runtime(f"openai:{served.url}/v1#countdown", **options) as remote,
            plait.Runtime("countdown") as here,
        ):
            for constraint in (
                plait.RegexConstraint(pattern="( [0-9]{1,2}){3}"),
                plait.ChoiceConstraint(choices=(" 24 + 1", " 24 - 1")),
                plait.GrammarConstraint(grammar='start: " 1" x\nx: " + 2" x | " = 3"'),
            ):
                method = plait.Sequential(prompt=PROMPT, constraint=constraint, temperature=0, max_tokens=60)
                results = [await (await runtime.submit(method)) for runtime in (here, remote)]
                assert results[0].text == results[1].text != ""
                assert results[0].finish_reason == results[1].finish_reason
            searching = plait.TreeSearch(
                prompt=PROMPT, reward=lambda p, s: 0.5, constraint=constraint, strategy="rebase"
            )
            with pytest.raises(plait.UnsupportedByEngine, match="at every step"):
                await remote.submit(searching)
            with pytest.raises(plait.InvalidInput):
                await remote.submit(plait.Sequential(prompt=PROMPT, constraint=plait.RegexConstraint(pattern="(")))
        async with plait.Runtime(
            f"openai:{served.url}/v1#countdown", constraints="response_format", **options
        ) as remote:
            with pytest.raises(plait.UnsupportedByEngine, match="JSON schemas alone"):
                await remote.submit(plait.Sequential(prompt=PROMPT, constraint=plait.RegexConstraint(pattern="a")))


async def test_a_real_model():
    async with serving(engine=NativeEngine.load(folder("q05"))) as served, served.openai() as client:
        options = {"model": MODEL, "temperature": 0, "max_tokens": 60}
        question = [{"role": "user", "content": "What is the weather in Paris?"}]
        got = await client.chat.completions.create(
            messages=question, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}},
            **options,
        )  # fmt: skip
        call = got.choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments)["city"] == "Paris"
        said = [*question, got.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}]
        got = await client.chat.completions.create(messages=said, tools=[WEATHER], **options)
    # What the model reads is what transformers makes of the same messages.
    called = {"name": "get_weather", "arguments": json.loads(call.function.arguments)}
    said = [
        *question,
        {"role": "assistant", "tool_calls": [{"function": called}]},
        {"role": "tool", "content": "17 degrees"},
    ]
    function = {name: WEATHER["function"][name] for name in ("name", "description", "parameters")}
    tools = [{"type": "function", "function": function}]
    tokenizer = AutoTokenizer.from_pretrained(folder("q05"))
    expected = tokenizer.apply_chat_template(said, tools=tools, add_generation_prompt=True, tokenize=False)
    assert got.usage.prompt_tokens == len(tokenizer(expected, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("stream", [False, True])
async def test_each_of_several_choices_has_its_own_calls(stream):
    async with (
        serving(engine=plait.ScriptedEngine(lambda text: f"{CALL}\n{CALL}")) as served,
        served.openai() as client,
    ):
        options = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "n": 2, "parallel_tool_calls": False}
        if stream:
            calls = []
            async for part in parts_of(await client.chat.completions.create(**options, stream=True)):
                choice = part.choices[0]
                calls += [(choice.index, call.index) for call in choice.delta.tool_calls or ()]
        else:
            got = await client.chat.completions.create(**options)
            calls = [(choice.index, n) for choice in got.choices for n, _ in enumerate(choice.message.tool_calls)]
    assert sorted(calls) == [(0, 0), (1, 0)]


CHOICES = [f" {i} {j}" for i in range(70) for j in range(70)]
"""More than the shipped model's context has tokens; what is below is longer than eight characters for each of them."""
LARGE = {
    "choice": {"structured_outputs": {"choice": CHOICES}},
    "user": {"user": "x" * 40_000},
    "metadata": {"metadata": {"x": ["x" * 40_000]}},
    "method": {"method": {"method": "sequential", "constraint": {"constraint": "choice", "choices": CHOICES}}},
    "inside": {
        "method": {
            "method": "self_consistency",
            "n": 1,
            "generator": {
                "method": "sequential",
                "prompt": "?",
                "constraint": {"constraint": "choice", "choices": CHOICES},
            },
        }
    },
}


@pytest.mark.parametrize("name", LARGE)
async def test_what_never_enters_the_context_may_be_longer_than_it(served, name):
    body = {"model": "countdown", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, **LARGE[name]}
    async with served.http() as http:
        answer = await http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text


TOO_LONG = {
    "text": "x" * 40_000,
    "texts": [PROMPT, "x" * 40_000],
    "ids": [5] * 40_000,
    "lists of ids": [[5], [5] * 40_000],
}


@pytest.mark.parametrize("name", TOO_LONG)
async def test_what_is_far_too_long_for_the_context_is_named(served, name):
    long = TOO_LONG[name]
    prompt = long if isinstance(long, str) else "x" * 40_000
    messages = [{"role": "user", "content": prompt}]
    asked = [
        ("/v1/completions", {"model": "countdown", "prompt": long}, "prompt"),
        ("/v1/chat/completions", {"model": "countdown", "messages": messages}, "messages"),
        ("/v1/jobs", {"method": {"method": "sequential", "prompt": long}}, "method"),
        ("/v1/jobs", {"method": {"method": "sequential", "prompt": PROMPT, "contexts": [long]}}, "method"),
    ]
    async with served.http() as http:
        for path, body, param in asked:
            error = (await http.post(path, json=body)).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", param), path
            assert error["message"].startswith(f"{param}: ")


def test_of_many_wrong_choices_one_is_told():
    for body in ({"structured_outputs": {"choice": [1] * 5000}}, {"structured_outputs": {"choice": ["a"] * 30_000}}):
        with pytest.raises(Refused, match="structured_outputs.choice") as caught:
            parse_fields(CompletionBody, {"model": "m", "prompt": "x", **body})
        assert len(str(caught.value)) < 200
    with pytest.raises(plait.InvalidInput, match="choices.0") as wrong:
        ChoiceConstraint(choices=[1] * 5000)
    assert len(str(wrong.value)) < 200


async def test_log_probabilities_of_parts_of_characters():
    """Of texts that a byte model is made to write: each token's own bytes, and where its character stands."""
    text = "\u00e9\U0001f600a"
    body = {"model": MODEL, "structured_outputs": {"choice": [text]}, "max_tokens": 20}
    async with serving(engine=byte_engine()) as served, served.http() as http:
        chat = await http.post("/v1/chat/completions", json={**body, "messages": ASK, "logprobs": True})
        plain = await http.post("/v1/completions", json={**body, "prompt": "x", "logprobs": 0})
    tokens = chat.json()["choices"][0]["logprobs"]["content"]
    assert chat.json()["choices"][0]["message"]["content"] == text
    assert [token["bytes"] for token in tokens] == [[byte] for byte in text.encode()]
    assert plain.json()["choices"][0]["logprobs"]["text_offset"] == [0, 0, 1, 1, 1, 1, 2]
