"""What a text must look like, as a field of a method (`Decoding.constraint`): kinds by the field `constraint`."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..constraint import Constraint
from ..errors import InvalidInput
from ..spec import Several, Spec


class TextConstraint(Spec):
    """Base of the kinds. Raises `InvalidInput` for wrong fields; what a schema, expression or grammar says is looked at
    when the job is submitted."""

    refusal = InvalidInput

    constraint: str
    """The kind's name."""

    @classmethod
    def title(cls) -> str:
        return "constraint"

    @abstractmethod
    def plain(self) -> Constraint:
        """As engines take it. Raises `InvalidInput` if it is too large."""


class JsonConstraint(TextConstraint):
    """JSON that a schema allows. Properties come in the schema's order; between JSON's tokens stand at most 32 spaces,
    tabs and line ends."""

    constraint: Literal["json"] = "json"
    """The kind's name."""
    json_schema: dict[str, Any] | bool = {"type": "object"}
    """The schema; as it stands any object, `true`: any value. Keywords that are not supported are refused."""

    def plain(self) -> Constraint:
        return Constraint(kind="json", source=_dumps(self.json_schema))


class RegexConstraint(TextConstraint):
    """A text that a regular expression matches as a whole."""

    constraint: Literal["regex"] = "regex"
    """The kind's name."""
    pattern: Annotated[str, Field(strict=True)]
    """In the syntax of Rust's `regex`: that of Python without look-around and back references."""

    def plain(self) -> Constraint:
        return Constraint(kind="regex", source=self.pattern)


class ChoiceConstraint(TextConstraint):
    """One of several texts."""

    constraint: Literal["choice"] = "choice"
    """The kind's name."""
    choices: Several[Annotated[str, Field(strict=True)]] = Field(min_length=1, fail_fast=True)
    """The texts, with the spaces that they begin with where the model writes some."""

    def plain(self) -> Constraint:
        return Constraint(kind="choice", source=_dumps(self.choices))


class GrammarConstraint(TextConstraint):
    """A text of a context-free grammar."""

    constraint: Literal["grammar"] = "grammar"
    """The kind's name."""
    grammar: Annotated[str, Field(min_length=1, strict=True)]
    """In llguidance's form of Lark: rules and terminals, from the rule `start`; `%json {...}` is JSON of a schema."""

    def plain(self) -> Constraint:
        return Constraint(kind="grammar", source=self.grammar)


_KINDS: dict[str, type[TextConstraint]] = {
    "json": JsonConstraint,
    "regex": RegexConstraint,
    "choice": ChoiceConstraint,
    "grammar": GrammarConstraint,
}


def parse_constraint(value: object) -> object:
    """The constraint that a JSON object describes, or that it is already. Raises `InvalidInput`."""
    if isinstance(value, TextConstraint):
        return value
    if not isinstance(value, dict):
        raise InvalidInput(f"a constraint is an object with a field `constraint`, not a {type(value).__name__}")
    kind = _KINDS.get(str(value.get("constraint")))
    if kind is None:
        raise InvalidInput(f"unknown constraint {value.get('constraint')!r}; known: {', '.join(_KINDS)}")
    return kind(**value)


AnyConstraint = Annotated[
    JsonConstraint | RegexConstraint | ChoiceConstraint | GrammarConstraint, BeforeValidator(parse_constraint)
]
"""One of the kinds, or a JSON object that names it."""


def _dumps(value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the constraint is no JSON: {error}") from None
