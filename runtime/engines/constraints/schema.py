"""JSON schemas as the library can follow them: what it gets wrong is refused, or written otherwise."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

from ...errors import InvalidInput

_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords that hold schemas by names, which are no keywords."""
_DATA = ("const", "enum", "default", "examples")
"""Keywords that hold no schemas."""
_EXACT = 2**53
"""Larger integers are rounded by the library, as floating point is."""


def followed(schema: object) -> object:
    """The schema, changed in place. Raises `InvalidInput`."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            _check_free_keys(part)
            _check_excluded(part)
            _exclude_nul(part)
            for name, value in part.items():
                if name not in _DATA:
                    parts += value.values() if name in _NAMED and isinstance(value, dict) else [value]
    return schema


def _check_free_keys(schema: dict[str, Any]) -> None:
    """Keys that the schema does not name are not kept apart, so no number of them is sure to be reached."""
    least, required = schema.get("minProperties"), schema.get("required")
    is_free = schema.get("additionalProperties") is not False or schema.get("patternProperties")
    if not is_free or not isinstance(least, int | float):
        return
    named = len(set(map(str, required))) if isinstance(required, list) else 0
    if least > max(named, 1):
        reason = f"minProperties is {least}, but {named} keys are required: others may be one key that repeats"
        raise InvalidInput(f"json constraint: {reason}")


def _check_excluded(schema: dict[str, Any]) -> None:
    """The library takes an excluded whole number itself where the numbers allowed all begin with its digits, and where
    it reckons with rounded integers."""
    for name, other, sign in (("exclusiveMinimum", "Maximum", 1), ("exclusiveMaximum", "Minimum", -1)):
        bound = _number(schema, name) * sign
        end = min(_number(schema, one) * sign for one in (other.lower(), f"exclusive{other}"))
        is_rounded = "integer" in str(schema.get("type")) and _EXACT <= abs(bound) < math.inf
        if is_rounded or (bound >= 0 and bound.is_integer() and bound <= end < bound + 1):
            reason = f"{name} {schema[name]} would be allowed itself: give {name[9:].lower()}, a little further on"
            raise InvalidInput(f"json constraint: {reason}")


def _number(schema: dict[str, Any], name: str) -> float:
    """The bound of this name; what is none bounds nothing, or is the library's to refuse."""
    value = schema.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max:
        return float(value)
    return -math.inf if name.endswith("inimum") else math.inf


def _exclude_nul(schema: dict[str, Any]) -> None:
    """The library takes a class with all control characters for one with quotes and backslashes, too. Without one of
    them it does not; texts with U+0000 are no loss."""
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = without_nul(pattern)
    if isinstance(patterns := schema.get("patternProperties"), dict):
        schema["patternProperties"] = {without_nul(pattern): value for pattern, value in patterns.items()}


def without_nul(pattern: str) -> str:
    """The expression, no class of which matches U+0000."""
    return "".join(f"[{part}--\\x00]" if part[0] == "[" or part[:2] == "\\P" else part for part in _parts(pattern))


def _parts(pattern: str) -> Iterator[str]:
    """Classes, escapes and single characters."""
    start = 0
    while start < len(pattern):
        end = _class_end(pattern, start) if pattern[start] == "[" else _escape_end(pattern, start)
        yield pattern[start:end]
        start = end


def _escape_end(pattern: str, start: int) -> int:
    """Behind one character or escape."""
    if pattern[start] != "\\":
        return start + 1
    if pattern[start + 1 : start + 3] in ("p{", "P{"):
        return pattern.find("}", start) + 1 or len(pattern)
    return start + (3 if pattern[start + 1 : start + 2] in ("p", "P") else 2)


def _class_end(pattern: str, start: int) -> int:
    """Behind a class; classes hold others, and may begin with a bracket that is one of their characters."""
    depth, at = 0, start
    while at < len(pattern):
        if pattern[at] == "[":
            depth += 1
            at += 2 if pattern[at + 1 : at + 2] == "^" else 1
            at += pattern[at : at + 1] == "]"
        elif pattern[at] == "]":
            depth, at = depth - 1, at + 1
            if not depth:
                return at
        else:
            at = _escape_end(pattern, at)
    return len(pattern)
