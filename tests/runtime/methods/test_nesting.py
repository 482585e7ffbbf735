"""What a method inside another one is given to read, and what it keeps."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    field_validator,
    model_validator,
)

import plait
from plait import InvalidJob, Method, Sequential
from plait.runtime.methods.nesting import reading


class Options(BaseModel):
    a: int = 1


class Minutes(Sequential):
    seconds: Annotated[float, BeforeValidator(lambda v: v * 60), PlainSerializer(lambda v: v / 60)] = 60.0


class Table(Sequential):
    table: Annotated[dict[str, int], BeforeValidator(json.loads), PlainSerializer(json.dumps)] = Field(
        default={}, alias="rows"
    )


class Opened(Sequential):
    options: Annotated[Options, BeforeValidator(lambda given: Options(**given))] = Options()


class Older(Sequential):
    options: Options = Options()

    @model_validator(mode="before")
    @classmethod
    def _old(cls, data: Any) -> Any:
        return {**data, "options": {"a": data["options"].get("a", 1)}} if "options" in data else data


class Own(Method):
    method: Literal["own"] = "own"
    prompt: str | list[int]
    context_limit: int = Field(default=128, ge=64)
    children: list[Own] = []
    _length: int = PrivateAttr(default=0)

    @field_validator("prompt")
    @classmethod
    def _no_blanks(cls, prompt: str | list[int]) -> str | list[int]:
        return prompt.strip() if isinstance(prompt, str) else prompt

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.prompt == "none":
            raise ValueError("nothing to read")
        self._length = len(self.prompt)
        return self

    async def run(self, ctx):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Minutes, {"seconds": 2}),
        (Table, {"rows": '{"a": 1}'}),
        (Opened, {"options": {"a": 3}}),
        (Older, {"options": {"a": 3}}),
    ],
)
def test_what_validators_made_is_not_given_to_them_again(kind, fields):
    method = kind(prompt="x", chat=True, context_limit=9, **fields)
    inner = reading(method, "y", 7)
    assert type(inner) is kind
    assert inner == kind(prompt="y", context_limit=7, **fields)


def test_what_is_given_is_checked_as_when_the_method_is_made():
    method = Own(prompt="abc", children=[Own(prompt="d")])
    inner = reading(method, " xy ", 100)
    assert (inner.prompt, inner.context_limit, inner._length, inner.children) == ("xy", 100, 2, method.children)
    for prompt, limit, what in [
        ("none", None, "Own: nothing to read"),
        ("x", 40, "context_limit: Input should be greater than or equal to 64"),
        ([{"role": "user", "content": "?"}], None, "prompt.0: Input should be"),
    ]:
        with pytest.raises(InvalidJob, match=f"^malformed Own: {what}"):
            reading(method, prompt, limit)


def test_what_a_class_checks_of_several_fields_holds():
    search = plait.TreeSearch(prompt="x", generator=Sequential(prompt="-", contexts=("a",)))
    with pytest.raises(InvalidJob, match="the generator reads the chat as tokens"):
        reading(search, [{"role": "user", "content": "?"}], None)
    assert reading(search, "y", None).prompt == "y"


def test_a_method_without_a_prompt_cannot_be_inside():
    class Nothing(Method):
        method: Literal["nothing"] = "nothing"

        async def run(self, ctx):
            raise NotImplementedError

    with pytest.raises(InvalidJob, match="malformed Nothing: prompt: Extra inputs are not permitted"):
        reading(Nothing(), "x", None)
