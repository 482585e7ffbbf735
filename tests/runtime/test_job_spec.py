"""Jobs as JSON, and the registries."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, Field

from plait import (
    APR,
    Budget,
    ChoiceConstraint,
    Hogwild,
    InvalidInput,
    InvalidJob,
    JobSpec,
    Method,
    PlaitError,
    Runtime,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    Tool,
    TreeSearch,
    parse_job,
    register,
    register_scheme,
)
from plait.runtime.methods import registry
from plait.runtime.methods.nesting import reading

METHODS = [
    Sequential(prompt="x", stop=("a", "b"), answer="boxed", conclusion="so"),
    SelfConsistency(prompt=[{"role": "user", "content": "hi"}], n=3, temperature=0.7),
    APR(prompt=[1, 2, 3], dialect="paper", depth=2, max_children=4, verify_join=True),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_jobs_are_json_and_back(method):
    spec = JobSpec(method=method, budget=Budget(total_tokens=5, seconds=1.5), seed=7, metadata={"a": [1]})
    text = spec.model_dump_json()
    assert parse_job(text) == parse_job(json.loads(text)) == parse_job(text.encode()) == spec
    assert JobSpec.model_validate_json(text) == spec
    assert type(parse_job(text).method) is type(method)


def test_lists_are_taken_and_kept_as_tuples() -> None:
    facts = ["a"]  # With its type, since a list of them is no list of what else contexts may be.
    search = TreeSearch(
        prompt="x", contexts=facts, stop=["b"], stop_token_ids=[3], delimiters=[";"], finished="regex:c"
    )
    assert search == TreeSearch(
        prompt="x", contexts=("a",), stop=("b",), stop_token_ids=(3,), delimiters=(";",), finished=("regex:c",)
    )
    team = Hogwild(prompt="x", workers=["Ann"], openers=["d"], answer_at=[5])
    assert team == Hogwild(prompt="x", workers=("Ann",), openers=("d",), answer_at=(5,))
    assert Sequential(prompt="x", tools=[Tool(name="t")]).tools == (Tool(name="t"),)
    assert ChoiceConstraint(choices=["a"]).choices == ("a",)


@pytest.mark.parametrize("wrong", [{"stop": "a"}, {"stop": 3}, {"workers": "Ann"}, {"workers": 2.5}, {"openers": "a"}])
def test_what_is_no_list_is_refused_as_such(wrong):
    with pytest.raises(InvalidJob, match="should be a valid tuple"):
        Hogwild(prompt="x", **wrong)


@pytest.mark.parametrize("alias", [{"alias": "search_depth"}, {"validation_alias": AliasChoices("search_depth", "d")}])
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_field_with_an_alias_is_known_by_both_names(alias, is_inside, monkeypatch):
    class Aliased(Sequential):
        method: Literal["aliased"] = "aliased"  # type: ignore[assignment]
        depth: int = Field(default=2, **alias)  # type: ignore[misc]

    monkeypatch.setitem(registry.METHODS._things, "aliased", Aliased)
    method = Aliased(prompt="x", search_depth=4)
    assert method == Aliased(prompt="x", depth=4)
    spec = JobSpec(method=SelfConsistency(prompt="x", generator=method) if is_inside else method)
    assert parse_job(spec.model_dump(mode="json")) == spec
    assert reading(method, "y", None).depth == 4
    with pytest.raises(InvalidInput, match="depths: Extra"):
        Aliased(prompt="x", depths=4)
    for wrong in ("4", 4.0, True):
        for name in ("depth", "search_depth"):
            with pytest.raises(InvalidJob, match=f"{name}: Input should be a valid integer"):
                Aliased(prompt="x", **{name: wrong})


def test_defaults():
    spec = parse_job('{"method": {"method": "sequential", "prompt": "x"}}')
    assert spec == JobSpec(method=Sequential(prompt="x")) and spec.budget == Budget()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["method", "budget", "prompt"]), inner),
    max_leaves=10,
)


@given(json_values)
def test_any_json_is_a_job_or_one_error(value):
    try:
        parse_job(json.dumps(value))
    except PlaitError:
        pass


def test_a_method_name_is_taken_once():
    with pytest.raises(InvalidInput, match="taken"):

        @register
        class Other(Method):
            method: Literal["apr"] = "apr"

    with pytest.raises(InvalidInput, match="default"):

        @register
        class Nameless(Method):
            pass


def test_an_alias_is_no_other_fields_name():
    class Range(Sequential):
        method: Literal["range"] = "range"  # type: ignore[assignment]
        low: int = Field(1, alias="lo")
        lo: int = Field(5, alias="low")

    with pytest.raises(InvalidInput, match="Range: 'lo' is the alias of low and another field's name"):
        register(Range)
    assert "range" not in registry.METHODS.names()


async def test_schemes_can_be_added():
    register_scheme("echo", lambda rest, options: ScriptedEngine([rest], **options))
    async with Runtime("echo:hello", context_limit=77) as runtime:
        assert runtime.engine.context_limit == 77
        assert (await (await runtime.submit(Sequential(prompt="q")))).text == "hello"
