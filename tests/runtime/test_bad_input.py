"""Bad input: each kind is one clear `PlaitError`, raised before any work."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import pytest

from plait import (
    APR,
    Budget,
    Hogwild,
    InvalidBudget,
    InvalidInput,
    InvalidJob,
    Multiverse,
    PlaitError,
    PromptTooLong,
    Runtime,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    UnknownModel,
    parse_job,
)

JOBS = {
    "not json": ("{", InvalidJob, "malformed job JSON"),
    "not an object": ("[1, 2]", InvalidJob, "JSON object"),
    "an answer that is no text": ({"method": {"method": "hogwild", "prompt": "x", "answer": []}}, InvalidJob, "answer"),
    "bytes that are no text": (b"\xff\xfe", InvalidJob, "malformed job JSON"),
    "no method": ("{}", InvalidJob, "needs a method"),
    "method is a string": ({"method": "sequential"}, InvalidJob, "needs a method"),
    "unknown method": ({"method": {"method": "telepathy"}}, InvalidJob, "known: .*apr.*sequential"),
    "method name is no string": ({"method": {"method": ["apr"]}}, InvalidJob, "unknown method"),
    "no prompt": ({"method": {"method": "sequential"}}, InvalidJob, "prompt: Field required"),
    "empty prompt": ({"method": {"method": "sequential", "prompt": ""}}, InvalidJob, "prompt"),
    "unknown field": ({"method": {"method": "apr", "prompt": "x", "colour": 1}}, InvalidJob, "colour"),
    "field out of range": ({"method": {"method": "apr", "prompt": "x", "top_p": 2}}, InvalidJob, "top_p"),
    "unknown dialect": ({"method": {"method": "apr", "prompt": "x", "dialect": "latin"}}, InvalidJob, "paper"),
    "unknown answer rule": (
        {"method": {"method": "sequential", "prompt": "x", "answer": "guess"}},
        InvalidJob,
        "boxed",
    ),
    "broken pattern": ({"method": {"method": "sequential", "prompt": "x", "answer": "regex:("}}, InvalidJob, "regex"),
    "unknown job field": ({"method": {"method": "sequential", "prompt": "x"}, "speed": 1}, InvalidJob, "speed"),
    "seed is no number": ({"method": {"method": "sequential", "prompt": "x"}, "seed": "a"}, InvalidJob, "seed"),
    "zero budget": (
        {"method": {"method": "sequential", "prompt": "x"}, "budget": {"total_tokens": 0}},
        InvalidBudget,
        "must be positive",
    ),
    "budget is a number": ({"method": {"method": "sequential", "prompt": "x"}, "budget": 5}, InvalidJob, "budget"),
    "unknown limit": (
        {"method": {"method": "sequential", "prompt": "x"}, "budget": {"tokens": 5}},
        InvalidBudget,
        "budget.tokens",
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_job_json(name):
    data, kind, message = JOBS[name]
    for form in (data, json.dumps(data)) if isinstance(data, dict) else (data,):
        with pytest.raises(kind, match=message) as caught:
            parse_job(form)
        assert isinstance(caught.value, PlaitError)


MODELS = {
    "unknown model": ("no-such-model", UnknownModel, "countdown|not a shipped model"),
    "file instead of folder": (__file__, UnknownModel, "not a folder"),
    "unknown scheme": ("telepathy:model", UnknownModel, "native:, openai:, replay:, .*transformers:"),
    "vllm": ("vllm:some/model", InvalidInput, "plait.vllm.|some/model"),
    "openai": ("openai:localhost/v1", InvalidInput, "http://localhost"),
    "no name": ("", UnknownModel, "no model is named"),
    "a scheme's without a name": ("transformers:", UnknownModel, "no model is named"),
    "a name that no file has": ("a" * 5000, UnknownModel, "no model 'aaa"),
    "a zero byte": ("native:\0", UnknownModel, "no model"),
    "no recording": ("replay:/no/such/file", InvalidInput, "not a recording"),
}


@pytest.mark.parametrize("name", MODELS)
async def test_models(name):
    model, kind, message = MODELS[name]
    with pytest.raises(kind, match=message) as caught:
        async with Runtime(model):
            pytest.fail("opened")
    assert isinstance(caught.value, PlaitError) and len(str(caught.value)) < 600


async def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(PlaitError):
        async with Runtime(tmp_path):
            pytest.fail("opened")


LONG = {
    "engine's limit": Sequential(prompt="x" * 100),
    "own limit": Sequential(prompt="x" * 20, context_limit=21),
    "messages": SelfConsistency(prompt=[{"role": "user", "content": "x" * 90}]),
    "tokens": APR(prompt=[5] * 100),
}


@pytest.mark.parametrize("name", LONG)
async def test_prompts_longer_than_the_context(name):
    engine = ScriptedEngine([], context_limit=100)
    async with Runtime(engine=engine) as runtime:
        with pytest.raises(PromptTooLong, match="context"):
            await runtime.submit(LONG[name])
        assert not runtime.jobs and not engine.branches and not engine.prompts


async def test_options_that_do_not_fit_together():
    async with Runtime(engine=ScriptedEngine([])) as runtime:
        with pytest.raises(InvalidInput, match="sub_call_budget"):
            await runtime.submit(APR(prompt=[5, 6], sub_call_budget=3))


SCALARS = [True, 0, 7, 1.0, 2.5, "4", "yes", ""]


@pytest.mark.parametrize("method", [Sequential, SelfConsistency, APR, Hogwild, Multiverse])
def test_a_number_is_no_text_and_a_truth_value_no_number(method):
    """Fields of plain types take values of these types only, all of them; integers are numbers, too."""
    for name, field in method.model_fields.items():
        is_union = get_origin(field.annotation) in (Union, UnionType)
        kinds = set(get_args(field.annotation) if is_union else (field.annotation,))
        if not kinds <= {int, float, bool, str, NoneType}:
            continue
        for value in SCALARS:
            if type(value) in kinds or (type(value) is int and float in kinds):
                continue
            with pytest.raises(InvalidJob, match=name):
                method(**{"prompt": "x", name: value})


@pytest.mark.parametrize("prompt", [["1", "2"], [True, False], [1.0], [{"role": "user", "content": b"x"}], [None]])
def test_prompts_are_not_made_into_ids_or_texts(prompt):
    with pytest.raises(InvalidJob, match="prompt"):
        Sequential(prompt=prompt)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": 5}, "prompt: Input should be a valid string or a valid list"),
        ({"prompt": [{"role": 5}]}, "prompt.0.role: Input should be a valid string"),
    ],
)
def test_a_value_of_several_types_is_named_once(fields, told):
    with pytest.raises(InvalidJob) as caught:
        Sequential(**fields)
    assert str(caught.value) == f"malformed Sequential: {told}"


def test_all_mistakes_are_named_at_once():
    with pytest.raises(InvalidJob) as told:
        SelfConsistency(prompt="x", n="4", temperature=-1, chat="yes", nonsense=1)
    assert all(f"{name}: " in str(told.value) for name in ("n", "temperature", "chat", "nonsense"))


def test_constructors_raise_the_same_errors():
    with pytest.raises(InvalidJob, match="n: "):
        SelfConsistency(prompt="x", n=0)
    with pytest.raises(InvalidBudget):
        Budget(width=0)
    assert issubclass(InvalidJob, ValueError)
