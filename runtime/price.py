"""`Price`: what a provider bills for a model's tokens."""

from __future__ import annotations

from pydantic import Field

from .errors import InvalidInput
from .spec import Spec

MILLION = 1_000_000


class Price(Spec):
    """Of one model, per million tokens, in any one currency."""

    refusal = InvalidInput

    input: float = Field(ge=0)
    """Of what a model reads."""
    output: float = Field(ge=0)
    """Of what it writes."""
    cached: float | None = Field(default=None, ge=0)
    """Of input that was read before; None: as other input."""

    def of(self, *, input: int, cached: int, output: int) -> float:
        """The money for so many tokens; `input`: without those that were read before (`cached`)."""
        again = self.input if self.cached is None else self.cached
        return (input * self.input + cached * again + output * self.output) / MILLION
