"""`job_data`: a job as the JSON that workers get, where it is the same job there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from pydantic import BaseModel

from ..errors import InvalidJob, PlaitError
from ..job_spec import JobSpec
from ..methods.base import blaming_method


def job_data(spec: JobSpec) -> dict[str, Any]:
    """The job as JSON. Raises `InvalidInput` for a method that has none, and `InvalidJob`, which names the field, for
    one that is another when its JSON is read: a field is left out there (`exclude`), or its type does not say what the
    JSON was. What cannot be read at all is left to the workers, who may know more methods."""
    method = spec.method
    with blaming_method(method):
        data = spec.model_dump(mode="json")
    data["budget"] = spec.budget.model_dump(exclude_none=True)
    if _difference(_fields(method), data["method"]) is None:
        return data  # Reading a long prompt again takes its time.
    try:
        with blaming_method(method):
            again = type(method)(**data["method"])
    except PlaitError:
        return data
    if (place := _difference(method, again)) is not None:
        raise InvalidJob(f"the method {method.method!r} cannot be sent: in its JSON, {place} is not what it is here")
    return data


def _difference(one: Any, other: Any) -> str | None:
    """The place of the first value that differs; None: there is none. A list is as good as a tuple."""
    if _are_equal(one, other):
        return None
    if isinstance(one, BaseModel) and type(one) is type(other):
        one, other = _fields(one), _fields(other)
    parts: Iterable[tuple[object, Any, Any]]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [(name, value, other[name]) for name, value in one.items()]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        if _are_equal([*one], [*other]):
            return None
        parts = [(number, *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        return ""
    for name, *pair in parts:
        if (found := _difference(*pair)) is not None:
            return f"{name}.{found}".rstrip(".")
    return None


def _fields(model: BaseModel) -> dict[str, Any]:
    """Without what else it has, which is its own affair."""
    return {name: getattr(model, name) for name in type(model).model_fields}


def _are_equal(one: Any, other: Any) -> bool:
    """Values that cannot be compared, such as arrays, NaN and objects without an equality, are if their types are."""
    try:
        if bool(one == other):
            return True
        is_odd = bool(one != one) or cast(object, type(one).__eq__) is object.__eq__
    except Exception:  # whatever anybody's equality raises
        is_odd = True
    return is_odd and type(one) is type(other) and not isinstance(one, BaseModel | dict | list | tuple)
