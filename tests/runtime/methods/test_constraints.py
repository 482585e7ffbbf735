"""Constraints as fields of methods."""

from __future__ import annotations

import json
import re

import pytest

from plait import (
    APR,
    ChoiceConstraint,
    Finish,
    GrammarConstraint,
    Hogwild,
    InvalidInput,
    InvalidJob,
    JobSpec,
    JsonConstraint,
    Multiverse,
    RegexConstraint,
    Runtime,
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
        TreeSearch(prompt="x", constraint=KINDS[0], reward="prm:x", conclusion="So:")
    with pytest.raises(InvalidJob, match="hogwild takes no constraint"):
        Hogwild(prompt="x", constraint=KINDS[0], conclusion="So:")
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


TERM = RegexConstraint(pattern=r" [0-9]{1,2}( [-+*/] [0-9]{1,2}){2}")
THINKING = {
    "sequential": Sequential(prompt="seq 24 : 8 3 1 ;", max_tokens=40),
    "self_consistency": SelfConsistency(prompt="seq 24 : 8 3 1 ;", max_tokens=40, n=3),
    "multiverse": Multiverse(prompt="mv 24 : 63 9 5 2 ;"),
}


@pytest.mark.parametrize("name", THINKING)
async def test_behind_a_conclusion_a_constraint_holds_for_the_answer_alone(name):
    method = type(THINKING[name])(**{**dict(THINKING[name]), "temperature": 0.0})
    bound = type(method)(**{**dict(method), "constraint": TERM, "conclusion": " answer"})
    async with Runtime("countdown") as runtime:
        free, result = [await (await runtime.submit(one)) for one in (method, bound)]
    thought, _, term = result.text.rpartition(" answer")
    # What comes before is as it would have been.
    assert thought == free.text and re.fullmatch(TERM.pattern, term) and not re.search(TERM.pattern + "$", thought)
    assert result.answer == term.strip() and result.finish_reason is Finish.EOS
    assert result.usage.counts["concluded"] == (3 if name == "self_consistency" else 1)


async def test_what_was_not_concluded_has_no_answer():
    """The free text is none, whatever it says: here the context has no room for more."""
    fields = {"prompt": "seq 24 : 8 3 1 ;", "temperature": 0.0, "conclusion": " answer", "constraint": TERM}
    async with Runtime("countdown") as runtime:
        result = await (await runtime.submit(Sequential(**fields, max_tokens=40, context_limit=60)))
    assert "answer" in result.text and result.answer is None and not result.usage.counts["concluded"]


async def test_a_constraint_behind_a_conclusion_is_looked_at_at_submit():
    async with Runtime("countdown") as runtime:
        with pytest.raises(InvalidInput):
            await runtime.submit(Multiverse(prompt="x", conclusion=" answer", constraint=RegexConstraint(pattern="(")))
