"""Data from outside: whatever its values and its depth, it is taken or refused by one clear error."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from plait import Budget, JobSpec, PlaitError, SelfConsistency, Sequential, parse_job
from plait.runtime.errors import InvalidInput, InvalidJob
from plait.runtime.mistakes import mistakes
from plait.runtime.plain import MAX_DEPTH, check_plain, json_text, parse_json, read_object

SOUND = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64) + 1, 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)  # fmt: skip
BAD = st.one_of(
    st.integers(min_value=2**64),
    st.integers(max_value=-(2**64)),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.builds(lambda a, c, b: a + c + b, st.text(), st.characters(categories=["Cs"]), st.text()),
)


def nest(leaves):
    return st.recursive(
        leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("ab"), part, max_size=3), max_leaves=8
    )


def within(value, bad, steps):
    """`bad` inside lists and objects, beside a sound value."""
    for step in steps:
        bad = [value, bad] if step else {"x": value, "y": bad}
    return bad


@given(nest(SOUND))
def test_json_values_are_taken(value):
    check_plain(value, only_json=True)
    job = parse_job(json.dumps({"method": {"method": "sequential", "prompt": "x"}, "metadata": {"a": value}}))
    assert job.metadata == {"a": value}
    json.dumps(job.metadata, allow_nan=False, ensure_ascii=False).encode()


@given(nest(SOUND), BAD, st.lists(st.booleans(), max_size=6))
def test_a_value_that_is_none_is_found_wherever_it_is(value, bad, steps):
    data = within(value, bad, steps)
    with pytest.raises(ValueError):
        check_plain(data)
    job = {"method": {"method": "sequential", "prompt": "x"}, "metadata": {"a": data}}
    for form in (job, json.dumps(job)):
        with pytest.raises(InvalidJob, match="metadata") as caught:
            parse_job(form)
        str(caught.value).encode()


FIELDS = ["prompt", "max_tokens", "stop", "stop_token_ids", "temperature", "top_p", "n", "answer", "context_limit"]


@given(st.sampled_from(FIELDS), nest(st.one_of(SOUND, BAD)))
def test_any_value_of_any_field_is_taken_or_refused(name, value):
    fields = {"method": "self_consistency", "prompt": "x", "n": 2, name: value}
    for form in ({"method": fields}, json.dumps({"method": fields})):
        try:
            parse_job(form)
        except PlaitError as error:
            assert "Value error" not in str(error)  # pydantic's own words for ours


@given(st.sampled_from(["seed", "priority", "budget", "metadata", "method"]), nest(st.one_of(SOUND, BAD)))
def test_any_value_of_any_part_is_taken_or_refused(name, value):
    try:
        parse_job({"method": {"method": "sequential", "prompt": "x"}, name: value})
    except PlaitError as error:
        assert "Value error" not in str(error)


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 100_000])
def test_depth(depth):
    text = '{"method": {"method": "sequential", "prompt": "x"}, "metadata": {"a": ' + "[" * depth + "]" * depth + "}}"
    with pytest.raises(InvalidJob):
        parse_job(text)
    value = {}
    for _ in range(depth):
        value = {"a": value}
    with pytest.raises(InvalidJob):
        parse_job({"method": {"method": "sequential", "prompt": "x"}, "metadata": value})
    circle = {}
    circle["a"] = circle
    with pytest.raises(InvalidJob):
        JobSpec(method=Sequential(prompt="x"), metadata=circle)


@pytest.mark.parametrize(
    "data",
    [
        {"method": {"method": "sequential", "prompt": "x", 1: 2}},
        {"method": {"method": "sequential", "prompt": "x"}, 1: 2},
        {"method": {"method": "sequential", "prompt": "x"}, "budget": {1: 2}},
        {"method": {"method": "sequential", "prompt": "x"}, "metadata": {"a": {1: 2}}},
        {"method": {"method": "sequential", "prompt": "x"}, "metadata": {"a": object()}},
        {"method": {"method": "self_consistency", "prompt": "x", "n": 10**12}},
    ],
)
def test_what_json_cannot_hold(data):
    with pytest.raises(InvalidJob):
        parse_job(data)


def test_constructors_refuse_the_same():
    for make in (
        lambda: Sequential(prompt="\ud800"),
        lambda: Sequential(prompt="x", stop_token_ids=[10**40]),
        lambda: SelfConsistency(prompt="x", n=10**24),
        lambda: Budget(seconds=math.inf),
        lambda: Budget(total_tokens=10**24),
    ):
        with pytest.raises(PlaitError):
            make()


@given(st.binary())
def test_any_bytes_are_json_or_refused(data):
    try:
        parse_json(data, "it")
    except InvalidInput as error:
        assert str(error).startswith("it is not valid JSON")


def test_files(tmp_path):
    file = tmp_path / "a.json"
    for text in ("[" * 100_000, "[]", "nope", "\ud800".encode("utf-8", "surrogatepass")):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InvalidInput, match=r"a\.json"):
            read_object(file)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_object(tmp_path)


values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\udfff a"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def same(value, read):
    """Is this what was written, but for numbers that JSON has not?"""
    if isinstance(value, float) and not math.isfinite(value):
        return read is None
    if isinstance(value, dict):
        return value.keys() == read.keys() and all(same(part, read[name]) for name, part in value.items())
    if isinstance(value, list):
        return len(value) == len(read) and all(map(same, value, read))
    return value == read


@given(values, st.booleans())
def test_all_values_are_json(value, is_ascii):
    def no_number(name):
        raise AssertionError(name)

    text = json_text(value, is_ascii=is_ascii)
    assert (text.isascii() or not is_ascii) and same(value, json.loads(text, parse_constant=no_number))


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Number(Part):
    x: int


class Several(Part):
    y: list[Number | str]


class Holder(Part):
    one: Number | Several | None = None
    named: dict[int, Number] = {}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"one": {"x": "s"}}, [("one.x", "Input should be a valid integer")]),
        ({"one": {}}, [("one.x", "Field required")]),
        ({"one": {"z": 1}}, [("one.z", "Extra inputs are not permitted")]),
        ({"one": {"x": 1, "y": 5}}, [("one.y", "Extra inputs are not permitted")]),
        ({"one": {"y": [{"x": "s"}, 5]}}, [("one.y.0.x", "Input should be a valid integer")]),
        # Fields that are called like a type.
        ({"one": {"x": 1, "Number": 5}}, [("one.Number", "Extra inputs are not permitted")]),
        ({"one": {"Number": {"x": 5}}}, [("one.Number", "Extra inputs are not permitted")]),
        ({"named": {"s": {"x": "s"}}}, [("named.s", "integer"), ("named.s.x", "Input should be a valid integer")]),
    ],
)
def test_of_a_value_of_several_types_one_mistake_is_told(data, told):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Holder).validate_python(data)
    found = mistakes(caught.value, data)
    assert [where for where, _ in found] == [where for where, _ in told]
    assert all(wanted in what for (_, what), (_, wanted) in zip(found, told, strict=True))
