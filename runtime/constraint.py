"""`Constraint`: what a text must look like, in the plain form in which engines take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InvalidInput

Kind = Literal["json", "regex", "choice", "grammar"]
KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar")
MAX_SOURCE = 1 << 16
"""Characters of a schema, expression, list or grammar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Raises `InvalidInput` for what is no text or too long; what it says is looked at by the engine that follows it
    (`Engine.check_constraint`)."""

    kind: Kind
    source: str
    """json: a JSON schema as JSON text. regex: an expression, in the syntax of Rust's `regex` without look-around, that
    the whole text matches. choice: a JSON list of texts. grammar: in llguidance's form of Lark, from the rule `start`.
    """

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"unknown kind of constraint {self.kind!r}; known: {', '.join(KINDS)}")
        if not isinstance(self.source, str):
            raise InvalidInput(f"the source of a constraint is text, not {type(self.source).__name__}")
        if len(self.source) > MAX_SOURCE:
            raise InvalidInput(f"a constraint of {len(self.source)} characters: {MAX_SOURCE} at most")
        try:
            self.source.encode()
        except UnicodeEncodeError:
            raise InvalidInput("a constraint holds halves of characters (surrogates)") from None
