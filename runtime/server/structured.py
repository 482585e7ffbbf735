"""What a request says an answer must look like: OpenAI's `response_format` and vLLM's `structured_outputs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ..constraint import MAX_SOURCE
from ..methods.constraints import (
    AnyConstraint,
    ChoiceConstraint,
    GrammarConstraint,
    JsonConstraint,
    RegexConstraint,
)
from .bodies import Given
from .problems import Refused

MAX_CHOICES = MAX_SOURCE // 3
"""More texts are longer than a constraint may be: each has two quotation marks and a comma."""


class _Schema(Given):
    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    """The schema is kept to in any case."""


class ResponseFormat(Given):
    """OpenAI's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None

    def constraint(self) -> AnyConstraint | None:
        """Raises `Refused` for a schema where none belongs, or none where one does."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise Refused(400, "json_schema and the type json_schema come together", param="response_format")
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            return JsonConstraint()
        return JsonConstraint(json_schema=self.json_schema.schema_)


class StructuredOutputs(Given):
    """vLLM's: one of these."""

    json_: dict[str, Any] | bool | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True, max_length=MAX_CHOICES)] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def constraint(self) -> AnyConstraint:
        """Raises `Refused` for none or several, and `InvalidInput`."""
        found: list[AnyConstraint] = []
        if self.json_ is not None:
            found.append(JsonConstraint(json_schema=self.json_))
        if self.regex is not None:
            found.append(RegexConstraint(pattern=self.regex))
        if self.choice is not None:
            found.append(ChoiceConstraint(choices=tuple(self.choice)))
        if self.grammar is not None:
            found.append(GrammarConstraint(grammar=self.grammar))
        if self.json_object:
            found.append(JsonConstraint())
        if len(found) != 1:
            what = "one of json, regex, choice, grammar and json_object"
            raise Refused(400, f"structured_outputs takes {what}, not {len(found)}", param="structured_outputs")
        return found[0]
