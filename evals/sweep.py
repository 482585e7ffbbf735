"""Sweeps: one method's fields with lists of values, and the methods that they stand for."""

from __future__ import annotations

from itertools import product
from typing import Any

from ..runtime.errors import InvalidInput
from ..runtime.methods.base import Method
from ..runtime.methods.registry import METHODS
from .fields import describe_value, read_fields


def expand(given: object) -> list[object]:
    """The methods that one entry of a configuration stands for: itself, or, where fields hold lists of values, one for
    every combination of them (the last field changes fastest).

    A list is a list of values where the field itself takes no such list: `temperature = [0, 0.6]`, `n = [4, 16]`,
    `stop = [["a"], ["b", "c"]]`, whereas `stop = ["a", "b"]` is one value. A label is lengthened by the values.
    Raises `InvalidInput` where a list is neither.
    """
    if not isinstance(given, dict):
        return [given]
    nested = isinstance(given.get("fields"), dict)
    fields: dict[str, Any] = given["fields"] if nested else given
    cls = METHODS.find(fields.get("method"))
    if cls is None:
        return [given]  # refused elsewhere
    lists = {name: value for name, value in fields.items() if isinstance(value, list) and _is_sweep(cls, name, value)}
    label = given.get("label")
    found: list[object] = []
    for chosen in product(*lists.values()):
        values = dict(zip(lists, chosen, strict=True))
        entry = {**given, "fields": {**fields, **values}} if nested else {**given, **values}
        if isinstance(label, str) and label and values:
            entry["label"] = " ".join(
                (label, *(f"{name}={describe_value(cls, name, v)}" for name, v in values.items()))
            )
        found.append(entry)
    return found


def _is_sweep(cls: type[Method], name: str, value: list[Any]) -> bool:
    if name not in cls.model_fields:
        return False  # `label`, `attempts`, or refused elsewhere
    mistake = _mistake(cls, name, value)
    if mistake is None:
        return False
    mistakes = [_mistake(cls, name, one) for one in value]
    wrong = [one for one in mistakes if one is not None]
    if not wrong and value:
        return True
    raise mistake if len(wrong) == len(mistakes) else wrong[0]


def _mistake(cls: type[Method], name: str, value: Any) -> InvalidInput | None:
    try:
        read_fields(cls, {name: value})
    except InvalidInput as error:
        return error
    return None
