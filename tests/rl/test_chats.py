"""Chats with tools as training data: calls are trained as they are served, against how methods read and write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.rl.config import DataConfig
from plait.rl.texts import chat_samples, read_samples
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.native.tokenizer import TOOL_MARKS, HFTokenizer
from plait.runtime.errors import InvalidInput
from plait.runtime.methods.tools import ToolCall, read_calls, written
from plait.tests.rl.tools import REWRITING, TEMPLATE, folder

CALLS = (
    "{% if tools %}<|start|>system{% for t in tools %}{{ '\n' ~ t | tojson }}{% endfor %}<|end|>{{ '\n' }}{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.content or not m.tool_calls %}{{ '\n' ~ m.content }}{% endif %}"
    '{% for c in m.tool_calls or [] %}{{ \'\n<tool_call>\n{"name": "\' ~ c.function.name ~ \'", "arguments": \' }}'
    "{{ c.function.arguments | tojson }}}{{ '\n' }}</tool_call>{% endfor %}<|end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{{ '\n' }}{% endif %}"
)
"""As Qwen2.5's."""
THOUGHT = "{{ '\n<t>' ~ m.r ~ '</t>' if m.role == 'assistant' }}"
THINKING = CALLS.replace("{% if m.content", THOUGHT + "{% if m.content")
"""What an assistant thought stands in front, though it be nothing."""
FIRST = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
SILENT = CALLS.replace("{% if m.content or not m.tool_calls %}", "{% if not m.tool_calls %}")
ENDING = CALLS.replace("{% endfor %}<|end|>", "{% endfor %}{{ '<|pad|>' if m.tool_calls else '<|end|>' }}")
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def call(name: str, arguments: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def turn(*calls: dict[str, object], content: str | None = None, **fields: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **fields}


ASKED = {"role": "user", "content": "1 + 2?"}
ADDED = {"role": "tool", "content": "3"}
ADD = call("add", {"a": 1})


def source(path: Path, row: dict[str, object]) -> DataConfig:
    (path / "one.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n" + json.dumps(row) + "\n")
    return DataConfig(kind="chat", paths=(str(path / "one.jsonl"),))


def trained(tokenizer: HFTokenizer, sample) -> str:
    return tokenizer.decode([sample.mask.token_ids[at] for at in sorted(sample.target[sample.is_trained].tolist())])


@pytest.fixture(scope="module")
def calling(tmp_path_factory) -> HFTokenizer:
    return load_tokenizer(folder(tmp_path_factory.mktemp("model"), template=CALLS))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('aé"\\\n{<', max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(ToolCall, st.sampled_from(["add", "find"]), st.dictionaries(st.text("xé", min_size=1), values))


@settings(deadline=None, max_examples=25)
@given(
    made=st.lists(calls, min_size=1, max_size=3),
    content=st.sampled_from([None, "", "so"]),
    is_text=st.booleans(),
    has_tools=st.booleans(),
)
def test_calls_are_trained_as_they_are_read_when_served(made, content, is_text, has_tools, calling, tmp_path_factory):
    spelled = [call(one.name, json.dumps(one.arguments) if is_text else one.arguments) for one in made]
    row = {"messages": [ASKED, turn(*spelled, content=content), ADDED, {"role": "assistant", "content": "3"}]}
    row |= {"tools": TOOLS} if has_tools else {}
    given = source(tmp_path_factory.mktemp("data"), row)
    _, sample = read_samples(given, calling, 99_999).parallel
    first, second, rest = trained(calling, sample).split("<|end|>")
    assert (second, rest) == ("3", "")
    assert first == "\n".join([*([content] if content else []), *(written(one, TOOL_MARKS) for one in made)])
    assert read_calls(first, TOOL_MARKS, ["add", "find"])[1] == made
    asked = calling.chat([ASKED], TOOLS) if has_tools else calling.chat([ASKED])
    assert sample.mask.token_ids[: len(asked)] == asked
    # One sequence: the template writes the same again when the chat goes on.
    assert calling.decode(sample.mask.token_ids).endswith(
        "<|end|>\n<|start|>tool\n3<|end|>\n<|start|>assistant\n3<|end|>"
    )


@pytest.mark.parametrize(
    ("thought", "text"),
    [("", "so\n" + written(ToolCall("add", {"a": 1}), TOOL_MARKS)), ("hm", "<t>hm</t>\nso\n")],
)
def test_what_stands_in_front_of_every_turn_is_not_trained_and_thoughts_are(thought, text, tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path, template=THINKING))
    message = {"role": "assistant", "content": "so", "tool_calls": [ADD], **({"r": thought} if thought else {})}
    (sample,) = chat_samples(tokenizer, [ASKED, message])
    assert trained(tokenizer, sample).startswith(text) and trained(tokenizer, sample).endswith("</tool_call><|end|>")


def test_tools_of_a_row_reach_prompts_of_texts_and_messages(calling, tmp_path):
    for prompt, messages in (("1 + 2?", [ASKED]), ([ASKED, turn(ADD), ADDED], [ASKED, turn(ADD, content=""), ADDED])):
        row = {"prompt": prompt, "completion": "3", "tools": TOOLS}
        _, sample = read_samples(source(tmp_path, row), calling, 999).parallel
        asked = calling.chat(messages, TOOLS)
        assert sample.mask.token_ids[: len(asked)] == asked != calling.chat(messages)


@pytest.mark.parametrize(
    ("template", "message", "fields", "refusal"),
    [
        (TEMPLATE, turn(ADD), {}, "does not write them"),
        (REWRITING, turn(ADD), {}, "does not write them"),
        (FIRST, turn(ADD, ADD), {}, "calls beside others"),
        (SILENT, turn(ADD, content="so"), {}, "leaves out what is said"),
        (ENDING, turn(ADD), {}, "cannot be told"),
        (CALLS, turn(call("add", "[1]")), {}, "arguments of a call of add are no JSON object"),
        (CALLS, turn(call("add", "{")), {}, "arguments of a call of add are no JSON object"),
        (CALLS, turn({"name": "add"}), {}, "no list of objects with a `function`"),
        (CALLS, {**turn(ADD), "role": "user"}, {}, "the assistant's"),
        (CALLS, {"role": "assistant", "content": None}, {}, "`role` and `content`"),
        (CALLS, turn(ADD), {"tools": "add"}, "`tools` is no list"),
        (CALLS, turn(ADD), {"tools": ["add"]}, "`tools` is no list"),
        (TEMPLATE, {"role": "assistant", "content": "so"}, {"tools": TOOLS}, "chat template has none"),
    ],
)
def test_what_cannot_be_trained_as_it_would_be_written_is_refused(template, message, fields, refusal, tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path, template=template))
    with pytest.raises(InvalidInput, match=rf"one\.jsonl:2: .*{refusal}"):
        read_samples(source(tmp_path, {"messages": [ASKED, message], **fields}), tokenizer, 999)


def test_fields_that_the_template_does_not_write_change_nothing(calling, tmp_path):
    row = {"messages": [ASKED, {"role": "assistant", "content": "3", "tool_calls": None, "id": "x"}], "tools": None}
    _, sample = read_samples(source(tmp_path, row), calling, 999).parallel
    assert trained(calling, sample) == "3<|end|>"
