"""Types of what a trace file says, checked when it is read: whoever draws or exports a trace may rely on them."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict, is_typeddict

from ..errors import InvalidInput
from ..plain import mistakes

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
    names = fields(type(record))  # type: ignore[arg-type]
    values = {field.name: getattr(record, field.name) for field in names}
    check_types(type(record), values)
    for name, value in values.items():
        if isinstance(value, float) and not abs(value) <= MAX_SECONDS:
            raise InvalidInput(f"{name}: {value} s is no time since a job began")
    return record


def check_types(kind: type, data: dict[str, Any]) -> None:
    """Raise `InvalidInput` that names the first field of `data` that is not as the class `kind` says."""
    try:
        _adapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        where, what = mistakes(error)[0]
        raise InvalidInput(f"{'.'.join(where.split('.')[:3])}: {what}") from None


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    if is_typeddict(kind):
        return TypeAdapter(kind)
    described = TypedDict(kind.__name__, get_type_hints(kind))  # type: ignore[misc]
    return TypeAdapter(with_config(ConfigDict(arbitrary_types_allowed=True))(described))
