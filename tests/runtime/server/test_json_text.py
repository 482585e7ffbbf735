"""Whatever a model wrote, a client gets JSON."""

from __future__ import annotations

import json
import sys

import pytest

from plait import ScriptedEngine
from plait.tests.runtime.server.conftest import serving

TOOL = {"name": "add", "parameters": {"type": "object"}}


@pytest.mark.parametrize("value", ["1e999", "Infinity", r'"\ud800"', "2"])
async def test_what_a_model_writes_for_arguments_is_never_an_error(value):
    text = f'<tool_call>{{"name": "add", "arguments": {{"x": {value}}}}}</tool_call>'
    messages = [{"role": "user", "content": "?"}]
    engine = ScriptedEngine(lambda _: text)
    async with serving(engine=engine) as served, served.http() as http:
        body = {"model": "countdown", "messages": messages, "tools": [{"type": "function", "function": TOOL}]}
        chat = await http.post("/v1/chat/completions", json=body)
        stream = await http.post("/v1/chat/completions", json={**body, "stream": True})
        method = {"method": "sequential", "prompt": messages, "tools": [TOOL]}
        job = (await http.post("/v1/jobs", json={"method": method})).json()["id"]
        events = await http.get(f"/v1/jobs/{job}/events")
        result = await http.get(f"/v1/jobs/{job}/result")
        trace = await http.get(f"/v1/jobs/{job}/trace")
    assert {one.status_code for one in (chat, stream, events, result, trace)} == {200}
    said, calls = chat.json()["choices"][0]["message"], result.json()["details"]["tool_calls"]
    numbers = {"2": 2, "1e999": sys.float_info.max}
    if value in numbers:
        arguments = json.loads(said["tool_calls"][0]["function"]["arguments"])
        assert arguments == calls[0]["arguments"] == {"x": numbers[value]}
    else:
        assert said["content"] == result.json()["text"] == text and "tool_calls" not in said and not calls


@pytest.mark.parametrize("arguments", ['{"x": NaN}', '{"x": -Infinity}', r'{"x": "\ud800"}'])
async def test_calls_of_earlier_answers_are_json_too(arguments):
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]
    async with serving(engine=ScriptedEngine(lambda _: "a")) as served, served.http() as http:
        answer = await http.post("/v1/chat/completions", json={"model": "countdown", "messages": messages})
    assert answer.status_code == 400 and "no JSON object" in answer.text
