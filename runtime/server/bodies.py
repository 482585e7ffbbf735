"""Bodies of requests: JSON within bounds, so that looking at one takes little time whatever a client sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..mistakes import first_mistake, mistakes
from .problems import Refused

B = TypeVar("B", bound="Given")

MAX_DEPTH = 64
"""Of arrays and objects in each other."""
MAX_FIELDS = 1000
"""Of one object."""
MAX_PARTS = 10_000
"""Arrays and objects of a body: a megabyte of small ones takes a tenth of a second to make."""
SLICE = 1 << 14
"""Bytes of a body that are looked at at a time: while one call lasts, no other thread runs."""
CHARACTERS = 8
"""A text of more characters than this for each token of the context is refused before it is encoded, which takes
seconds for a megabyte. Texts of all kinds have about half as many."""

READ = ("model", "method", "prompt", "messages", "tools")
"""Fields of a request that are for the model to read, or hold a method that has such. Others have limits of their own,
as constraints have, or change nothing."""

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Given(BaseModel):
    """An object of a request. A field that is null is one that is not given, be it known or not: clients write out all
    the fields they have."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"additionalProperties": {"type": "null"}})

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, value: Any) -> Any:
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def parse_json(raw: bytes) -> Any:
    """The value. Raises `Refused` for what is not JSON of Unicode texts and finite numbers, or is built oddly."""
    _check_shape(raw)
    try:
        # Of bytes it would take half characters for text.
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_number)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "the body has half a character in it: \\ud800 to \\udfff come in pairs") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is malformed JSON: {error}") from None
    return value


def _check_shape(raw: bytes) -> None:
    """Raise `Refused` for arrays and objects that are too deep in each other, or too many."""
    depth = parts = 0
    for brackets in _brackets(raw):
        depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=depth))
        depth, parts = depths[-1], parts + brackets.count(b"[") + brackets.count(b"{")
        if max(depths) > MAX_DEPTH:
            raise Refused(400, f"the body has more than {MAX_DEPTH} arrays and objects in each other")
        if parts > MAX_PARTS:
            raise Refused(400, f"the body has more than {MAX_PARTS} arrays and objects")


def _brackets(raw: bytes) -> Iterator[bytes]:
    """Those outside of texts, slice by slice."""
    begin, is_text = 0, False
    while begin < len(raw):
        part = raw[begin : begin + SLICE]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            part = raw[begin : begin + SLICE + 1]  # An escape is not torn apart.
        begin += len(part)
        pieces = _ESCAPE.sub(b"", part).split(b'"')
        yield b"".join(pieces[is_text::2]).translate(None, _NOT_BRACKETS)
        is_text ^= len(pieces) % 2 == 0


def parse_fields(cls: type[B], value: Any) -> B:
    """The fields that JSON gives. Raises `Refused`, naming the first that is wrong."""
    if not isinstance(value, dict):
        raise Refused(400, f"the body is a JSON object, not {_kind(value)}")
    for name, one in value.items():
        if one is not None and name not in cls.model_fields:
            raise Refused(400, f"{name[:40]}: there is no such field, or it is not supported", param=name[:40])
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        name, _, _ = mistakes(error, value)[0][0].partition(".")
        raise Refused(400, first_mistake(error, value), param=name or None) from None


def check_lengths(fields: dict[str, Any], context: int) -> None:
    """Raise `Refused` for texts, chats, token ids and other lists of which one cannot fit a context of so many tokens,
    anywhere in those fields of a request that are `READ`."""
    for name in READ:
        if not _fits(fields.get(name), context):
            told = f"{name}: it is far too long for the context of {context} tokens"
            raise Refused(400, told, code="context_length_exceeded", param=name)


def _fits(value: Any, context: int) -> bool:
    """May all that stands in this JSON fit, as far as its length tells?"""
    if isinstance(value, str):
        return len(value) <= context * CHARACTERS
    if isinstance(value, dict):  # A constraint is a method's, and no text for the model.
        return all(_fits(part, context) for name, part in value.items() if name != "constraint")
    if not isinstance(value, list):
        return True
    if len(value) > context:
        return False
    if any(isinstance(part, dict) for part in value):
        return sum(_lengths(value)) <= context * CHARACTERS
    return all(type(part) is int for part in value) or all(_fits(part, context) for part in value)


def _lengths(messages: Iterable[Any]) -> Iterable[int]:
    given = [message for message in messages if isinstance(message, dict)]
    for content in (message.get(name) for message in given for name in ("content", "name", "tool_call_id")):
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        yield sum(len(text) for text in texts if isinstance(text, str))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        raise ValueError(f"an object has more than {MAX_FIELDS} fields")
    return dict(pairs)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON's")


def _kind(value: object) -> str:
    names = {str: "a string", list: "an array", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
