"""Calls of tools in texts, and `Sequential` with tools."""

from __future__ import annotations

import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import ChoiceConstraint, InvalidInput, InvalidJob, JsonConstraint, Runtime, ScriptedEngine, Sequential, Tool
from plait.runtime.engines.constraints.matcher import accepts
from plait.runtime.events import ToolCalled, parse_event
from plait.runtime.methods.tools import MAX_INSIDE, CallReader, ToolCall, forcing, read_calls, written
from plait.runtime.plain import MAX_DEPTH, MAX_WHOLE
from plait.tests.real import folder

MARKS = ("<tool_call>", "</tool_call>")
NAMES = {"add", "find"}
WEATHER = Tool(
    name="get_weather",
    description="The weather of a city",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)

marked = st.lists(st.sampled_from([*MARKS, '"', "\\", "{", "a", "\n"]), max_size=4).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | marked,
    lambda inner: st.lists(inner, max_size=2),
)
calls = st.builds(ToolCall, st.sampled_from(sorted(NAMES)), st.dictionaries(st.text(max_size=3), values, max_size=2))
texts = st.text("ab <>/\n", max_size=8).map(str.strip)


@given(st.lists(st.one_of(calls, texts)), st.lists(st.integers(1, 9), min_size=1))
def test_calls_are_read_wherever_the_text_is_cut(parts, sizes):
    text = "\n".join(part if isinstance(part, str) else written(part, MARKS) for part in parts)
    said, found = read_calls(text, MARKS, NAMES)
    assert found == [part for part in parts if isinstance(part, ToolCall)]
    assert "".join(said.split()) == "".join("".join(part for part in parts if isinstance(part, str)).split())
    reader, pieces, at = CallReader(MARKS, NAMES), [], 0
    for number in range(len(text) + 1):
        size = sizes[number % len(sizes)]
        pieces += reader.push(text[at : at + size])
        at += size
    pieces += reader.finish()
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == said
    assert [piece for piece in pieces if not isinstance(piece, str)] == found


MALFORMED = [
    "<tool_call>",
    "<tool_call>{}</tool_call>",
    "<tool_call>[]</tool_call>",
    '<tool_call>{"name": "add", "arguments": 3}</tool_call>',
    '<tool_call>{"name": "drop", "arguments": {}}</tool_call>',
    '<tool_call>{"name": ["add"], "arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {}, "more": 1}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"x": ' + "[" * 100_000 + "}}</tool_call>",
    r'<tool_call>{"name": "add", "arguments": {"x": "\ud800"}}</tool_call>',
    r'<tool_call>{"name": "add", "arguments": {"\udfff": 1}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"x": "</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"x": "</tool_call>\n"}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"x": "' + "</tool_call>" * (MAX_INSIDE + 1) + '"}}</tool_call>',
    '</tool_call>{"name": "add", "arguments": {}}<tool_call>',
    '{"name": "add", "arguments": {}}',
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_call_is_text(text):
    assert read_calls(text, MARKS, NAMES) == (text, [])
    call = ToolCall("add", {"a": 1})
    said, found = read_calls(f"{text}</tool_call>\n{written(call, MARKS)}", MARKS, NAMES)
    assert found in ([call], []) and (text[:20] in said)


def nested(depth, width):
    """Arguments that are so many objects and lists in each other."""
    value = 1
    for level in range(depth - 1):
        value = {"a": value} if level % width else [value]
    return {"x": value}


@given(st.integers(1, 300), st.integers(1, 3))
def test_a_call_nested_too_deeply_for_who_reads_it_is_text(depth, width):
    call = ToolCall("add", nested(depth, width))
    expected = ("", [call]) if depth < MAX_DEPTH else (written(call, MARKS), [])
    assert read_calls(written(call, MARKS), MARKS, NAMES) == expected


@pytest.mark.parametrize("depth", [2 * MAX_DEPTH, 800])
async def test_a_job_whose_model_nests_too_deeply_ends_with_its_text(depth):
    text = written(ToolCall("get_weather", nested(depth, 2)), MARKS)
    async with Runtime(engine=ScriptedEngine([text], context_limit=100_000)) as rt:
        job = await rt.submit(Sequential(prompt="x", chat=True, tools=[WEATHER], max_tokens=20_000))
        assert not [event async for event in job if isinstance(event, ToolCalled)]
        assert (await job).text == text and not job.trace.tools


@pytest.mark.parametrize("before", ["<tool_call>", "<tool_call>\n", "<tool_call>{<tool_call> "])
@pytest.mark.parametrize("cut", [True, False])
def test_a_call_begins_at_the_last_mark(before, cut):
    call = ToolCall("add", {"x": "</tool_call>"})
    reader, text = CallReader(MARKS, NAMES), before + written(call, MARKS) + " so"
    found = [part for piece in (text if cut else [text]) for part in reader.push(piece)] + reader.finish()
    assert [part for part in found if not isinstance(part, str)] == [call]
    assert "".join(part for part in found if isinstance(part, str)) == before.rstrip() + "so"


def test_many_marks_take_little_time():
    units = ["<tool_call>", "</tool_call>", '<tool_call>{"a": "</tool_call>', '<tool_call>"</tool_call>"']
    for text in [*(unit * (200_000 // len(unit)) for unit in units), '<tool_call>{"a": "' + "</tool_call>" * 16_000]:
        began = time.process_time()
        assert read_calls(text, MARKS, NAMES) == (text, [])
        assert time.process_time() - began < 2


def test_only_the_first_call():
    one, two = ToolCall("add", {}), ToolCall("find", {"x": "y"})
    text = f"so: {written(one, MARKS)} and {written(two, MARKS)}"
    assert read_calls(text, MARKS, NAMES, parallel=False) == ("so:", [one])
    assert read_calls(text, MARKS, NAMES) == ("so:and", [one, two])


async def run(text, **fields):
    """(result, events, prompt) of a scripted text."""
    engine = ScriptedEngine([text])
    method = Sequential(prompt=[{"role": "user", "content": "?"}], tools=(WEATHER, Tool(name="now")), **fields)
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(method)
        events = [event async for event in job if isinstance(event, ToolCalled)]
        return await job, events, engine.prompts[0]


async def test_calls_are_events_and_details():
    paris = ToolCall("get_weather", {"city": "Paris"})
    text = f"Let me see.\n{written(paris, MARKS)}\n{written(ToolCall('now', {}), MARKS)}"
    result, events, prompt = await run(text)
    assert result.text == "Let me see."
    assert result.details["tool_calls"] == [paris.to_json(), {"name": "now", "arguments": {}}]
    assert [(event.tool, event.arguments) for event in events] == [("get_weather", {"city": "Paris"}), ("now", {})]
    assert parse_event(events[0].to_json()) == events[0]
    assert prompt.startswith("<tool>get_weather\n<tool>now\n<user>?")
    job = Sequential(**json.loads(Sequential(prompt="x", tools=(WEATHER,)).model_dump_json()))
    assert job.tools == (WEATHER,)


async def test_none_is_without_tools():
    text = written(ToolCall("now", {}), MARKS)
    result, events, prompt = await run(text, tool_choice="none")
    assert (result.text, result.details, events, prompt) == (text, {}, [], "<user>?\n<assistant>")


@pytest.mark.parametrize(
    ("choice", "texts", "refused"),
    [
        ("required", ["{w}", "{n}", "{w}\n{n}"], ["", "hello", "{w}{n}", "{w}\nand", "{bad}", "{more}"]),
        ("get_weather", ["{w}"], ["{n}", "{w}\n{w}"]),
    ],
)
async def test_what_has_to_be_called_is_a_constraint(choice, texts, refused):
    names = {
        "w": written(ToolCall("get_weather", {"city": "Paris", "unit": "c"}), MARKS),
        "n": written(ToolCall("now", {}), MARKS),
        "more": written(ToolCall("now", {"city": "Paris"}), MARKS),
        "bad": written(ToolCall("get_weather", {"town": "Paris"}), MARKS),
    }
    for text in texts:
        result, events, _ = await run(text.format(**names), tool_choice=choice)
        assert result.text == "" and len(events) == text.count("{")
    for text in refused:
        with pytest.raises(InvalidInput, match="not what the constraint asks for"):
            await run(text.format(**names), tool_choice=choice)


loose = st.sampled_from([
    {},
    {"properties": {"x": {"type": "number"}}},
    {"type": ["null", "object"], "additionalProperties": {"type": "integer"}},
    {"anyOf": [{"type": "null"}, {"type": "object"}, {"type": "array"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "string"}, {"type": "object"}]}}},
])  # fmt: skip
arguments = st.sampled_from(["[]", "null", '"Paris"', "3", "1e999", "[{}]", "{}"]) | st.builds(
    '{{"x": {}{}{}}}'.format,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "7", "9" * 300, "9" * 301, "1" * 4301, "5" * 9000]),
    st.sampled_from(["", ".5", "e999", "E+308", "e-999"]),
)


@given(loose, arguments)
def test_whatever_a_forced_call_may_be_is_read(schema, given_arguments):
    tool = Tool(name="add", parameters=schema)
    text = f'{MARKS[0]}\n{{"name": "add", "arguments": {given_arguments}}}\n{MARKS[1]}'
    is_allowed = accepts(forcing([tool], MARKS, parallel=False).plain(), text)
    said, found = read_calls(text, MARKS, NAMES)
    assert is_allowed <= (said == "" and len(found) == 1)
    assert is_allowed or given_arguments[0] != "{" or "additionalProperties" in schema
    json.dumps([call.to_json() for call in found], allow_nan=False)


def test_numbers_beyond_a_doubles_range_are_its_ends():
    def number(written: str) -> object:
        text = f'<tool_call>{{"name": "add", "arguments": {{"y": "</tool_call>", "x": {written}}}}}</tool_call>'
        (call,) = read_calls(text, MARKS, NAMES)[1]
        return call.arguments["x"]

    largest = sys.float_info.max
    assert [number(text) for text in ("1e999", "-1e999", "9" * 10_000, "-" + "9" * 400)] == [largest, -largest] * 2
    assert number("1" * 305) == float("1" * 305)
    at_most = [number(f"{sign}{MAX_WHOLE + more}") for sign in ("", "-") for more in (0, 1)]
    assert at_most == [MAX_WHOLE, float(MAX_WHOLE), -MAX_WHOLE, -float(MAX_WHOLE)]
    assert [type(value) for value in at_most] == [int, float] * 2


def test_a_mark_behind_a_long_number_is_within_the_call():
    text = '<tool_call>{"name": "add", "arguments": {"x": ' + "9" * 5000 + ', "y": "</tool_call>"}}</tool_call>'
    assert read_calls(text, MARKS, NAMES)[0] == ""


WRONG = {
    "unknown": {"tool_choice": "later"},
    "twice": {"tools": (WEATHER, WEATHER)},
    "none": {"tools": (), "tool_choice": "required"},
    "constraint": {"constraint": ChoiceConstraint(choices=("a",))},
    "contexts": {"contexts": ["a text"]},
    "name": {"tools": ({"name": "a b"},)},
    "reserved": {"tools": ({"name": "auto"},)},
    "array": {"tools": ({"name": "a", "parameters": {"type": "array"}},)},
    "no object": {"tools": ({"name": "a", "parameters": {"type": ["string", "null"]}},)},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields(name):
    with pytest.raises(InvalidJob):
        Sequential(**{"prompt": "x", "chat": True, "tools": (WEATHER,), **WRONG[name]})


async def test_what_is_refused_at_submit():
    bad = Tool(name="bad", parameters={"properties": {"x": {"type": "nonsense"}}})
    never = Tool(name="never", parameters={"enum": [1, []]})
    async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
        with pytest.raises(InvalidInput, match="tools are for chats"):
            await runtime.submit(Sequential(prompt="x", tools=(WEATHER,)))
        with pytest.raises(InvalidInput, match="nonsense"):
            await runtime.submit(Sequential(prompt="x", chat=True, tools=(bad,), tool_choice="bad"))
        with pytest.raises(InvalidInput, match="constraint"):
            await runtime.submit(Sequential(prompt="x", chat=True, tools=(never,), tool_choice="never"))
    async with Runtime("countdown") as runtime:
        with pytest.raises(InvalidInput, match="has no tools"):
            await runtime.submit(Sequential(prompt="x", chat=True, tools=(WEATHER,)))


async def test_a_real_model_calls_and_keeps_to_schemas():
    async with Runtime(folder("q05")) as runtime:
        question = [{"role": "user", "content": "What is the weather in Paris, in Celsius?"}]
        fields = {"prompt": question, "temperature": 0, "max_tokens": 60}
        job = await runtime.submit(Sequential(**fields, tools=(WEATHER, Tool(name="now")), tool_choice="required"))
        called = (await job).details["tool_calls"]
        assert called == [{"name": "get_weather", "arguments": {"city": "Paris", "unit": "c"}}]
        schema = {"properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
        schema |= {"type": "object", "additionalProperties": False}
        job = await runtime.submit(Sequential(**fields, constraint=JsonConstraint(json_schema=schema)))
        assert json.loads((await job).text)["city"]
