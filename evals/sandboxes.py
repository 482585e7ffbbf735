"""`SandboxField`: what a benchmark runs code in that a model wrote."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny

from ..agents.sandbox.base import Sandbox, parse_sandbox


def _sandbox(value: object) -> object:
    if isinstance(value, str):
        value = {"sandbox": value}
    return parse_sandbox(value) if isinstance(value, dict) else value


SandboxField = Annotated[
    SerializeAsAny[Sandbox],
    BeforeValidator(_sandbox),
    Field(default_factory=lambda: parse_sandbox({"sandbox": "bubblewrap"})),
]
"""A sandbox, its name (`bubblewrap`, `local`), or a table; bubblewrap where nothing is said."""
