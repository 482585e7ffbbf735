"""Methods as one word of a command line or a model's name, and `NAME=VALUE` texts."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import InvalidInput

_SHORT = re.compile(r"sc([0-9]{1,9})")
_DECODER = json.JSONDecoder()
_NAME = re.compile(r"\s*([^=,\s]+)\s*=")
_END = re.compile(r"\s*(,|$)")


def method_of(text: str) -> dict[str, Any]:
    """The fields of a method that is one word of a command line: `sequential`, `self_consistency:n=8,stop=["a"]`, or
    `sc8` for short. Raises `InvalidInput`."""
    name, _, rest = text.partition(":")
    short = _SHORT.fullmatch(name)
    method = {"method": "self_consistency", "n": int(short[1])} if short else {"method": name}
    fields = parse_fields(rest)
    if "method" in fields:
        raise InvalidInput(f"the method of {text!r} stands in front of the colon, and again behind it")
    return {**method, **fields}


def parse_field(text: str) -> tuple[str, Any]:
    """`n=4`; a value that is no JSON is text, commas and all. Raises `InvalidInput`."""
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise InvalidInput(f"{text!r} should be FIELD=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def parse_fields(text: str) -> dict[str, Any]:
    """`n=4,stop=["a", "b"],answer=boxed`: names and values. Values are JSON, in which commas may stand; what is no JSON
    is text up to the next comma. Raises `InvalidInput`."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(text):
        match = _NAME.match(text, at)
        if match is None:
            part = text[at:].partition(",")[0]
            raise InvalidInput(f'{part!r} should be FIELD=VALUE (a value with commas is JSON: ["a", "b"])')
        name, value, at = match[1], *_value(text, match.end())
        if name in found:
            raise InvalidInput(f"{name!r} stands twice in {text!r}")
        found[name] = value
    return found


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins here, and where the next name does."""
    start = at + len(text[at:]) - len(text[at:].lstrip())
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        end = -1
    if end >= 0 and (after := _END.match(text, end)):
        return value, after.end()
    word, _, _ = text[at:].partition(",")
    return word, at + len(word) + 1
