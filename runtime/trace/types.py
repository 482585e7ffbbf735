"""Types of what a trace file says, checked when it is read: whoever draws or exports a trace may rely on them."""

from __future__ import annotations

from typing import Any, TypeVar

from typing_extensions import TypedDict

from ..errors import InvalidInput
from ..mistakes import check_fields

R = TypeVar("R")

MAX_SECONDS = 1e12
"""Of times: in microseconds they are to be numbers still."""


class Header(TypedDict, total=False):
    """Of the first line, what is read of it."""

    format: int
    model: str | None
    method: dict[str, Any] | None
    seed: int
    settings: dict[str, Any]


class _Ended(TypedDict):
    finish: str


class Figures(TypedDict, total=False):
    """Of the last line's `usage`, what is read of it."""

    total_tokens: int
    prompt_tokens: int
    generated_tokens: int
    injected_tokens: int
    critical_tokens: int
    peak_kv_blocks: int
    seconds: float
    phases: dict[str, float]
    counts: dict[str, int]


class End(_Ended, total=False):
    """Of the last line."""

    answer: str | None
    error: str
    details: dict[str, Any]
    usage: Figures


def checked(record: R) -> R:
    """The record, if its fields are of the types that its class says. Raises `InvalidInput`."""
    for name, value in check_fields(record).items():
        if isinstance(value, float) and not abs(value) <= MAX_SECONDS:
            raise InvalidInput(f"{name}: {value} s is no time since a job began")
    return record
