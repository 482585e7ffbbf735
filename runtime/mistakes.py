"""What is wrong with data by the types that pydantic checks: where, and what, in words for whoever gave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict, is_typeddict

from .errors import InvalidInput

Place = tuple[int | str, ...]


def check_fields(record: object) -> dict[str, Any]:
    """The fields of a dataclass' instance by their names. Raises `InvalidInput` as `check_types` does."""
    kind = type(record)
    values = {field.name: getattr(record, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    check_types(kind, values)
    return values


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


def mistakes(error: ValidationError, data: object = None) -> list[tuple[str, str]]:
    """(where, what) of each; without the value, which may be a stranger's. `data`: what was looked at, by which names
    of fields are told from those of types; of a value that may be of several types one mistake is told then."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    # A field may have the name of a type: others of the same value show where that stands.
    several = {one["loc"][:split] for one in errors if (split := _place(one["loc"], data, one["type"])[1]) is not None}
    found: dict[Any, list[_Mistake]] = {}
    for number, one in enumerate(errors):
        place, split = _place(one["loc"], data, one["type"], several)
        kind = None if split is None else one["loc"][split]
        told = _Mistake(kind, place, one["type"], one["msg"].removeprefix("Value error, "))
        found.setdefault(number if split is None else place[:split], []).append(told)
    return [_told(ways) for ways in found.values()]


def first_mistake(error: ValidationError, data: object = None) -> str:
    """Where it is, and what; `data` as of `mistakes`."""
    where, what = mistakes(error, data)[0]
    return f"{where}: {what}" if where else what


class _Mistake(NamedTuple):
    kind: int | str | None
    """Name of the type that the value was taken for, where it may be of several."""
    place: Place
    type: str
    """pydantic's."""
    text: str

    @property
    def is_type(self) -> bool:
        return self.type.endswith("_type")


def _place(path: Place, data: Any, type: str, several: Container[Place] = ()) -> tuple[Place, int | None]:
    """The names and numbers in the path of a mistake that lead into `data`, or to what is missing there, and how many
    stand in front of the first name of a type; None: there is none. `several`: places behind which one stands."""
    if data is None:
        return path, None
    place: list[int | str] = []
    split = None
    for number, part in enumerate(path):
        if number == len(place) and path[:number] in several:
            split = number
            continue
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif part == "[key]":  # pydantic's, where it is the name itself that is wrong
            break
        elif not (type == "missing" and number == len(path) - 1):
            split = len(place) if split is None else split
            continue
        place.append(part)
    return tuple(place), split


def _told(ways: Sequence[_Mistake]) -> tuple[str, str]:
    """Of the mistakes of one value, by the types that it may be of, that of the type which fits best, deepest inside
    and with the fewest: what is there rather than what is not, and rather not its type; if it fits none, what all of
    them ask for."""
    deepest = max(len(one.place) for one in ways)
    best = [one for one in ways if len(one.place) == deepest]
    number = Counter(one.kind for one in ways)
    first = min(best, key=lambda one: (number[one.kind], one.type == "missing", one.is_type))
    what = first.text
    if first.is_type:
        others = dict.fromkeys(one.text for one in best if one.is_type and one.place == first.place)
        what = " or ".join([what, *(text.removeprefix("Input should be ") for text in others if text != what)])
    return ".".join(map(str, first.place)), what
