"""The fields of methods and benchmarks as JSON, from whatever objects a configuration was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ..runtime.errors import InvalidInput
from ..runtime.methods.base import Method
from ..runtime.methods.registry import METHODS
from ..runtime.mistakes import mistakes
from ..runtime.spec import Spec
from .paths import absolute


def method_fields(given: object) -> dict[str, Any]:
    """The JSON of a method that is given as a dict of fields, as a class or as an object; see `MethodConfig`.

    Every field is read and written as the method itself would: equal fields are equal JSON. Raises `InvalidInput`.
    """
    if isinstance(given, dict):
        cls = method_class(given)
        values = {name: value for name, value in given.items() if name != "method"}
    elif isinstance(given, Method):
        cls = _registered(type(given))
        names = given.model_fields_set - {"method", "prompt"}
        values = {name: getattr(given, name) for name in cls.model_fields if name in names}
    elif isinstance(given, type) and issubclass(given, Method):
        cls, values = _registered(given), {}
    else:
        raise InvalidInput(f"a method is a dict, a method or its class, not {type(given).__name__}")
    read = read_fields(cls, values)
    written = json_fields(read, cls.title())
    again = read_fields(cls, written)
    for name in written:
        old, new = getattr(read, name), getattr(again, name)
        if isinstance(old, Spec) and type(new) is not type(old):
            raise InvalidInput(f"malformed {cls.title()}: {name}: {type(old).__name__} is not registered")
    return {"method": cls.model_fields["method"].default, **written}


def method_class(fields: dict[str, Any]) -> type[Method]:
    """Raises `InvalidInput` for an unknown name."""
    name = fields.get("method")
    cls = METHODS.find(name)
    if cls is None:
        raise InvalidInput(METHODS.unknown(name))
    return cls


def _registered(cls: type[Method]) -> type[Method]:
    if METHODS.find(cls.model_fields["method"].default) is not cls:
        raise InvalidInput(f"{cls.__name__} is not registered: decorate it with plait.register")
    return cls


def read_fields(cls: type[Method], values: dict[str, Any]) -> BaseModel:
    """These fields alone, by the method's own annotations: what else it requires is still to come from the benchmark,
    and so are the checks that look at several fields. Raises `InvalidInput`."""
    fields = {name: info for name, info in cls.model_fields.items() if name in values}
    # A model of these fields only; the docstrings of the original are not to be looked for in it.
    config = ConfigDict(**{**cls.model_config, "use_attribute_docstrings": False})
    types: dict[str, Any] = {name: (info.annotation, info) for name, info in fields.items()}
    part: type[BaseModel] = create_model(cls.__name__, __config__=config, **types)
    try:
        return part.model_validate(values)
    except ValidationError as error:
        found = "; ".join(f"{where}: {what}" for where, what in mistakes(error, values))
        raise InvalidInput(f"malformed {cls.title()}: {found}") from None


def json_fields(data: BaseModel, title: str) -> dict[str, Any]:
    """All fields as JSON. Raises `InvalidInput` that names the first one that cannot be."""
    written: dict[str, Any] = {}
    for name in type(data).model_fields:
        try:
            written |= data.model_dump(mode="json", include={name}, warnings=False)
            json.dumps(written[name], allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"malformed {title}: {name}: it cannot be written as JSON: {error}") from None
    return written


def describe(fields: dict[str, Any]) -> str:
    """The JSON of a method in short, the same for equal JSON: `self_consistency n=4`."""
    values = dict(fields)
    name = values.pop("method")
    read = read_fields(method_class(fields), values)
    return " ".join((name, *(f"{name}={_brief(getattr(read, name))}" for name in sorted(values))))


def describe_value(cls: type[Method], name: str, value: Any) -> str:
    """One field in short, as `describe` has it."""
    return _brief(getattr(read_fields(cls, {name: value}), name))


def _brief(value: Any) -> str:
    """`ets(floor=True)`: an object by its kind and what is not the default."""
    if isinstance(value, Spec):
        fields = type(value).model_fields
        kind = next((name for name, info in fields.items() if _names_kind(info.annotation)), None)
        rest = [
            f"{name}={_brief(one)}"
            for name, one in value
            if name != kind and one != fields[name].get_default(call_default_factory=True)
        ]
        title = type(value).__name__ if kind is None else str(getattr(value, kind))
        return f"{title}({', '.join(rest)})" if rest else title
    if isinstance(value, Path):
        return Path(absolute(value)).name  # the same from any working folder
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(list(value) if isinstance(value, tuple) else value)


def _names_kind(annotation: object) -> bool:
    """`Literal["ets"]`."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1
