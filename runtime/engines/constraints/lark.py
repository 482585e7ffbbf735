"""Constraints in the one language that llguidance reads them in here: its form of Lark."""

from __future__ import annotations

import json
from contextlib import suppress

from ...constraint import Constraint
from ...errors import InvalidInput
from .schema import followed

_HEAD = '%llguidance {"no_forcing": true}\n'
"""A token is allowed if the text can go on behind it; else llguidance allows only one way to spell forced text."""
_JSON = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
"""Between JSON's tokens; without an end small models write nothing else."""

MAX_ITEMS = 100_000
"""Of all arrays of a constraint together, by `minItems` and `maxItems`: older versions of the library, which vLLM asks
for, write so many rules."""
_COUNTS = ("minItems", "maxItems")


def as_lark(constraint: Constraint) -> str:
    """Raises `InvalidInput` for what is no JSON where JSON is needed."""
    return _HEAD + _RULES[constraint.kind](constraint.source)


def _json(source: str) -> str:
    schema = _value(source)
    _check_items(schema)
    if not isinstance(schema, dict | bool):
        raise InvalidInput(f"a JSON schema is an object, not {_shown(schema)}")
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    followed(schema)
    return f"start: %json {json.dumps({**schema, 'x-guidance': _JSON})}"


def _regex(source: str) -> str:
    from llguidance import regex_to_lark

    return f"start: /{regex_to_lark(source, '')}/"


def _choice(source: str) -> str:
    texts = _value(source)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"choices are a list of texts that is not empty, not {_shown(texts)}")
    # One terminal, since the parser counts what alternatives of a rule have begun alike.
    return "start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, texts))


def _grammar(source: str) -> str:
    if "%llguidance" in source:
        raise InvalidInput("a grammar sets no options of the library: leave out %llguidance")
    before, *parts = source.split("%json")
    found = [_schema(part) for part in parts]
    _check_items([schema for schema, _ in found])
    return "%json".join([before, *(_rewritten(part, *one) for part, one in zip(parts, found, strict=True))])


def _schema(part: str) -> tuple[object, int]:
    """What a grammar says behind `%json`, and where that ends. The library says what is wrong, if it is one at all."""
    with suppress(ValueError, RecursionError):
        return json.JSONDecoder().raw_decode(part, len(part) - len(part.lstrip()))
    return None, 0


def _rewritten(part: str, schema: object, end: int) -> str:
    before = json.dumps(schema)
    after = json.dumps(followed(schema))
    return part if after == before else f" {after}{part[end:]}"


def _check_items(schema: object) -> None:
    """Raise `InvalidInput` for too many items of arrays."""
    total, parts = 0.0, [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            counts = (part.get(name) for name in _COUNTS)
            total += sum(min(n, MAX_ITEMS + 1) for n in counts if isinstance(n, int | float) and n > 0)
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    if total > MAX_ITEMS:
        raise InvalidInput(f"minItems and maxItems of a constraint are {MAX_ITEMS:,} in all at most")


_RULES = {"json": _json, "regex": _regex, "choice": _choice, "grammar": _grammar}


def _value(source: str) -> object:
    try:
        found: object = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the constraint is no JSON: {error}") from None
    return found


def _shown(value: object) -> str:
    return "an empty list" if value == [] else f"a {type(value).__name__}"
