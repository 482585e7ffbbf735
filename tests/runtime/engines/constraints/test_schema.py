"""Schemas of which the library would allow more than they say."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Constraint, InvalidInput, Tool
from plait.runtime.engines.constraints.matcher import accepts, check_text
from plait.runtime.engines.constraints.schema import followed, without_nul
from plait.runtime.methods.tools import forcing

CHARS = '"\\/ab!~ \n\t\x01\x1f\x7f\u2028\N{GRINNING FACE}'
PARTS = [
    "a",
    '"',
    r"\\",
    r"\n",
    r"\t",
    r"\x00-\x1f",
    "!-~",
    " -~",
    r"\w",
    r"\u2028",
    "/",
    r"\x00-!#-\[",
    r"\]",
]


def json_constraint(schema):
    return Constraint(kind="json", source=json.dumps(schema))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["", "^"]), st.lists(st.sampled_from(PARTS), min_size=1, max_size=3), st.sampled_from(["", "x|"])
)
def test_classes_match_no_quotes_and_backslashes_but_their_own(negation, parts, before):
    one = f"[{negation}{''.join(parts)}]"
    constraint = json_constraint({"type": "string", "pattern": f"^(?:{before}{one})$"})
    try:
        check_text(constraint)
    except InvalidInput:  # no character is left
        assert not any(re.fullmatch(one, char) for char in '"\\ab!~/ ') and not before
        return
    for char in CHARS:
        matches = re.fullmatch(one, char) is not None
        text = json.dumps(char, ensure_ascii=False)
        assert accepts(constraint, text) == matches or (matches and char == "\x7f"), (one, char)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r'^[^"]{3}$', r'^[[^"]--\x00]{3}$'),
        (r"[^]a][]a]", r"[[^]a]--\x00][[]a]--\x00]"),
        (r"[a-z&&[^b]]x", r"[[a-z&&[^b]]--\x00]x"),
        (r"[[:^alpha:]\]]x", r"[[[:^alpha:]\]]--\x00]x"),
        (r"\P{L}\PL\p{L}\pL\[a]\\[b]", r"[\P{L}--\x00][\PL--\x00]\p{L}\pL\[a]\\[[b]--\x00]"),
    ],
)
def test_where_classes_end(pattern, expected):
    assert without_nul(pattern) == expected
    check_text(json_constraint({"type": "string", "pattern": pattern}))


@given(st.text("[]^\\Ppa{}-", max_size=12))
def test_what_is_no_expression_is_none_afterwards(pattern):
    try:
        check_text(json_constraint({"type": "string", "pattern": pattern}))
    except InvalidInput:
        pass
    assert without_nul(pattern).replace("--\\x00]", "").replace("[", "") == pattern.replace("[", "")


PATTERN = {"type": "string", "pattern": '^[^"]$'}
PLACES = {
    "items": ({"type": "array", "items": PATTERN}, "[{}]"),
    "a property with a keyword's name": (
        {"type": "object", "properties": {"const": PATTERN}, "required": ["const"], "additionalProperties": False},
        '{{"const":{}}}',
    ),
    "a definition": ({"$defs": {"enum": PATTERN}, "$ref": "#/$defs/enum"}, "{}"),
    "one of several": ({"anyOf": [{"type": "null"}, PATTERN]}, "{}"),
    "a key": (
        {"type": "object", "patternProperties": {'^[^"]$': {"type": "null"}}, "additionalProperties": False},
        "{{{}:null}}",
    ),
}


@pytest.mark.parametrize(("schema", "text"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("kind", ["json", "grammar"])
def test_patterns_wherever_they_stand(kind, schema, text):
    source = json.dumps(schema)
    constraint = Constraint(kind=kind, source=source if kind == "json" else f'start: "x"? %json {source}\n')
    assert accepts(constraint, text.format('"a"')) and not accepts(constraint, text.format(r'"\""'))


def test_patterns_of_tools():
    tool = Tool(
        name="t", description="", parameters={"type": "object", "properties": {"a": PATTERN}, "required": ["a"]}
    )
    constraint = forcing((tool,), ("<", ">"), parallel=False).plain()
    call = '<\n{{"name": "t", "arguments": {{"a":{}}}}}\n>'
    assert accepts(constraint, call.format('"b"')) and not accepts(constraint, call.format(r'"\""'))


def test_data_is_no_schema():
    data = {"pattern": "[^a]", "minProperties": 3}
    for keyword in ("const", "default"):
        assert followed({keyword: dict(data)}) == {keyword: data}
    assert accepts(json_constraint({"const": data}), json.dumps(data, separators=(",", ":")))


ONE = {"a": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "is_refused"),
    [
        ({"minProperties": 2}, True),
        ({"patternProperties": {"^[ab]$": {"type": "null"}}, "additionalProperties": False, "minProperties": 2}, True),
        ({"properties": ONE, "required": ["a"], "minProperties": 2}, True),
        ({"minProperties": 1, "maxProperties": 3}, False),
        ({"properties": ONE, "required": ["a"], "minProperties": 1}, False),
        ({"properties": ONE, "required": ["a"], "additionalProperties": False, "minProperties": 1}, False),
    ],
)
def test_more_keys_than_are_named_cannot_be_asked_for(schema, is_refused):
    schema = {"type": "object", **schema}
    for constraint in (
        json_constraint(schema),
        Constraint(kind="grammar", source=f"start: %json {json.dumps(schema)}"),
    ):
        if not is_refused:
            check_text(constraint)
            continue
        with pytest.raises(InvalidInput, match="json constraint: minProperties is 2, but . keys are required"):
            check_text(constraint)


def test_free_keys_may_repeat():
    """Why a number of them cannot be asked for."""
    assert accepts(json_constraint({"type": "object"}), '{"a":1,"a":2}')


def test_one_of_names_what_helps():
    overlapping = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 9}]}
    with pytest.raises(InvalidInput, match="oneOf.*Use anyOf$"):
        check_text(json_constraint(overlapping))


NUMBERS = st.sampled_from([-1.5, -1, -0.5, -0.25, 0, 0.1, 0.5, 0.99, 1, 1.5, 3, 10, 100, 2**53, 1e16])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["number", "integer", ["integer", "null"]]),
    st.none() | st.tuples(st.sampled_from(["minimum", "exclusiveMinimum"]), NUMBERS),
    st.none() | st.tuples(st.sampled_from(["maximum", "exclusiveMaximum"]), NUMBERS),
)
def test_an_excluded_bound_is_not_allowed(kind, low, high):
    """However it is spelled; a schema with one that would be is refused."""
    constraint = json_constraint({"type": kind, **dict(bound for bound in (low, high) if bound is not None)})
    try:
        check_text(constraint)
    except InvalidInput:
        return
    for name, bound in (bound for bound in (low, high) if bound is not None):
        text = f"{Decimal(str(bound)):f}"
        spelled = [text, f"{text.partition('.')[0]}.0", *(["-0", "-0.0"] if bound == 0 else [])]
        for one in spelled:
            assert not (
                name.startswith("exclusive") and Decimal(one) == Decimal(str(bound)) and accepts(constraint, one)
            )


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum 0 would be allowed itself: give minimum,"),
        ({"minimum": -1.5, "exclusiveMaximum": -1}, "exclusiveMaximum -1 would be allowed itself: give maximum,"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, None),
        ({"exclusiveMinimum": 0}, None),
        ({"exclusiveMinimum": 0.1, "maximum": 0.5}, None),
        ({"exclusiveMinimum": -1, "maximum": -0.5}, None),
    ],
)
def test_which_excluded_bounds_are_refused(bounds, message):
    constraint = json_constraint({"properties": {"a": {"type": "number", **bounds}}})
    if message is None:
        check_text(constraint)
    else:
        with pytest.raises(InvalidInput, match=message):
            check_text(constraint)
