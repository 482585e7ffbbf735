"""Constraints in the fields of other servers."""

from __future__ import annotations

import json

import pytest

from plait import Constraint, InvalidInput, SamplingParams, UnsupportedByEngine
from plait.runtime.engines.openai.dialect import Dialect
from plait.runtime.engines.openai.options import read_options

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
KINDS = {"json": SCHEMA, "regex": "[ab]+", "choice": ["x", "y"], "grammar": 'start: "a"'}


def made(kind):
    value = KINDS[kind]
    return Constraint(kind=kind, source=value if isinstance(value, str) else json.dumps(value))


def body(constraint, way, *, is_chat=False):
    dialect = Dialect(is_chat=is_chat, constraints=way)
    dialect.check_constraint(constraint)
    params = SamplingParams(constraint=constraint)
    dialect.check(params)
    return dialect.body(params, max_tokens=5, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_go_to_vllm(kind):
    assert body(made(kind), "structured_outputs")["structured_outputs"] == {kind: KINDS[kind]}
    assert body(made(kind), "guided")[f"guided_{kind}"] == KINDS[kind]


@pytest.mark.parametrize("is_chat", [False, True])
def test_json_alone_goes_to_others(is_chat):
    form = body(made("json"), "response_format", is_chat=is_chat)["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"] == SCHEMA and form["json_schema"]["name"]
    anything = Constraint(kind="json", source='{"type":"object"}')
    assert body(anything, "response_format")["response_format"] == {"type": "json_object"}
    for kind in ("regex", "choice", "grammar"):
        with pytest.raises(UnsupportedByEngine, match="JSON schemas alone"):
            body(made(kind), "response_format")


def test_llama_cpp_takes_json_in_chats_and_choices():
    form = body(made("json"), "llama_cpp", is_chat=True)["response_format"]
    assert form == {"type": "json_object", "schema": SCHEMA}
    for is_chat in (False, True):
        assert body(made("choice"), "llama_cpp", is_chat=is_chat)["grammar"] == 'root ::= "x" | "y"'
        for kind in ("regex", "grammar", *(() if is_chat else ("json",))):
            with pytest.raises(UnsupportedByEngine, match=kind):
                body(made(kind), "llama_cpp", is_chat=is_chat)
    odd = Constraint(kind="choice", source=json.dumps(['a"b\\', "é\n"]))
    assert body(odd, "llama_cpp")["grammar"] == r'root ::= "a\U00000022b\U0000005C" | "é\U0000000A"'


def test_a_server_begins_a_text_anew():
    for given in ({"constrained": (1,)}, {"forced": (1,)}):
        with pytest.raises(UnsupportedByEngine, match="go on from another text"):
            Dialect().check(SamplingParams(constraint=made("json"), **given))


def test_the_option():
    assert read_options("http://host/v1", {"constraints": "guided"}).constraints == "guided"
    with pytest.raises(InvalidInput, match="constraints"):
        read_options("http://host/v1", {"constraints": "all"})
