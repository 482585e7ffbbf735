"""What a user describes as data (methods, jobs, evaluations): `Spec`, and `Kinds` of it that JSON names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from .errors import InvalidInput, InvalidJob, PlaitError
from .mistakes import mistakes
from .plain import check_plain
from .plugins import Registry, blaming

T = TypeVar("T", bound="Spec")
Item = TypeVar("Item")

_NAMES: dict[object, str] = {
    int: "a valid integer",
    float: "a valid number",
    bool: "a valid boolean",
    str: "a valid string",
}


class _AsTuple:
    """In a field's type: what pydantic makes of it is a tuple."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(GenericAlias(tuple, (*get_args(source), ...)))


Several: TypeAlias = Annotated[Sequence[Item], _AsTuple]
"""A field's type that says what may be given, a list or a tuple; what is kept is a tuple."""


class Spec(BaseModel):
    """Immutable data without unknown fields, whose texts, numbers and depth are bounded (`check_plain`). Wrong fields
    raise one `PlaitError` that names them all."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_name=True,  # as well as by an alias: it is by their names that fields are written
        validate_by_alias=True,
    )

    refusal: ClassVar[type[PlaitError]] = InvalidJob
    """What wrong fields raise."""

    @classmethod
    def title(cls) -> str:
        """What the message calls it."""
        return cls.__name__

    if not TYPE_CHECKING:

        def __init__(self, **data: Any) -> None:
            title = self.title()
            try:
                check_plain(data)
            except ValueError as error:
                raise self.refusal(f"malformed {title}: {error}") from None
            wrong = {name: f"{name}: {why}" for name, why in _mistyped(type(self), data)}
            try:
                super().__init__(**data)
            except ValidationError as error:
                for where, what in mistakes(error, data):
                    wrong.setdefault(where or title, f"{where or title}: {what}")
            if wrong:
                raise self.refusal(f"malformed {title}: {'; '.join(wrong.values())}")


def _mistyped(cls: type[Spec], data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What pydantic would take for a number or a truth value and is none: "4", 1.0 or true for an integer; and for a
    path that no file can have."""
    fields = _fields(cls)
    for name, value in data.items():
        field = fields.get(name)
        kinds = () if field is None else _kinds(field.annotation)
        if Path in kinds and isinstance(value, str | Path) and "\0" in str(value):
            yield name, "no path has a NUL in it"
        if field is None or type(value) not in _NAMES:
            continue
        wanted = [_NAMES[kind] for kind in kinds if kind in _NAMES]
        if len(wanted) == sum(kind is not NoneType for kind in kinds) and not (
            type(value) in kinds or (type(value) is int and float in kinds)
        ):
            yield name, f"Input should be {' or '.join(wanted)}"


@cache
def _fields(cls: type[Spec]) -> dict[str, FieldInfo]:
    """By all that JSON may call them."""
    return {given: field for name, field in cls.model_fields.items() for given in (name, *_aliases(field))}


def _aliases(field: FieldInfo) -> list[str]:
    """What else than its name JSON may call it."""
    alias = field.validation_alias
    return [one for one in (alias.choices if isinstance(alias, AliasChoices) else [alias]) if isinstance(one, str)]


def _kinds(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


class Kinds(Registry[type[T]]):
    """Subclasses of a `Spec`, by the default of the field that names them (`strategy: Literal["ets"] = "ets"`)."""

    def __init__(self, kind: str, group: str, *, field: str | None = None) -> None:
        """`field`: the one that holds the name; None: it is called as the kind is."""
        self.field = field or kind
        super().__init__(
            kind,
            group,
            f"a class with this name as the default of its field `{self.field}`",
            lambda name, cls: self._name(cls) == name,
        )

    def add(self, cls: type[T]) -> None:
        """Make a class known. Raises `InvalidInput` without a name, or with one that is taken, and where a field has
        another's name as its alias."""
        name = self._name(cls)
        if name is None:
            named = getattr(cls, "__name__", repr(cls))
            raise InvalidInput(f"{named}.{self.field} needs its name as default: {self.field}: Literal['x'] = 'x'")
        for one, field in cls.model_fields.items():
            if shared := {*_aliases(field)} & (cls.model_fields.keys() - {one}):  # JSON could not say which is meant
                raise InvalidInput(f"{cls.__name__}: {shared.pop()!r} is the alias of {one} and another field's name")
        self.register(name, cls)

    def make(self, data: object) -> T:
        """What a JSON object describes. Raises `InvalidJob`."""
        if not isinstance(data, dict):
            raise InvalidJob(f"a {self.kind} is a JSON object with a `{self.field}` field, not {type(data).__name__}")
        if not all(isinstance(key, str) for key in data):
            raise InvalidJob(f"the names of a {self.kind}'s fields are texts")
        name = data.get(self.field)
        cls = self.find(name)
        if cls is None:
            raise InvalidJob(self.unknown(name))
        with blaming(f"{self.called(str(name))} cannot be made"):  # by validators of anyone's
            return cls(**data)

    def _name(self, cls: type[T]) -> str | None:
        found = cls.model_fields.get(self.field) if isinstance(cls, type) and issubclass(cls, Spec) else None
        name = None if found is None else found.default
        return name if isinstance(name, str) else None
