"""Constraints as fields of methods."""

from __future__ import annotations

import json

import pytest

from plait import (
    APR,
    ChoiceConstraint,
    GrammarConstraint,
    Hogwild,
    InvalidInput,
    InvalidJob,
    JobSpec,
    JsonConstraint,
    Multiverse,
    RegexConstraint,
    SelfConsistency,
    Sequential,
    TreeSearch,
    parse_job,
)

KINDS = [
    JsonConstraint(),
    JsonConstraint(json_schema={"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"const": "é"}}}),
    JsonConstraint(json_schema=True),
    RegexConstraint(pattern=r"(a|b)*\d"),
    ChoiceConstraint(choices=("a", " b")),
    GrammarConstraint(grammar='start: "a"+'),
]


@pytest.mark.parametrize("constraint", KINDS)
def test_a_constraint_is_json_and_back(constraint):
    job = JobSpec(method=SelfConsistency(prompt="x", constraint=constraint))
    again = parse_job(job.model_dump_json())
    assert again == job and again.method.constraint == constraint
    assert again.method.constraint.plain() == constraint.plain()


@pytest.mark.parametrize("method", [APR, Multiverse, Hogwild])
def test_methods_that_take_none_say_why(method):
    with pytest.raises(InvalidJob, match=f"{method.model_fields['method'].default} takes no constraint: its"):
        method(prompt="x", constraint=KINDS[0])
    assert method(prompt="x").constraint is None


def test_what_goes_ill_with_it():
    with pytest.raises(InvalidJob, match="conclusion"):
        Sequential(prompt="x", constraint=KINDS[0], conclusion="So:")
    with pytest.raises(InvalidJob, match="generator"):
        TreeSearch(prompt="x", constraint=KINDS[0], reward="prm:x", generator=Sequential(prompt="x"))


@pytest.mark.parametrize(
    "value",
    ["regex", 3, [], {}, {"constraint": "xml"}, {"constraint": "regex"}, {"constraint": "regex", "pattern": 3},
     {"constraint": "regex", "pattern": "a", "more": 1}, {"constraint": "choice", "choices": []},
     {"constraint": "choice", "choices": [1]}, {"constraint": "json", "json_schema": []},
     {"constraint": "grammar", "grammar": ""}],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_constraint(value):
    with pytest.raises((InvalidJob, InvalidInput), match="constraint"):
        Sequential(prompt="x", constraint=value)
    with pytest.raises(InvalidJob):
        parse_job({"method": {"method": "sequential", "prompt": "x", "constraint": value}})


def test_what_is_too_large():
    for constraint in (RegexConstraint(pattern="a" * 70_000), JsonConstraint(json_schema={"enum": ["a" * 70_000]})):
        with pytest.raises(InvalidInput, match="65536 at most"):
            constraint.plain()
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(InvalidInput):
        JsonConstraint(json_schema=deep).plain()
