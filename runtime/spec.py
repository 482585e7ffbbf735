"""What a user describes as data (methods, jobs, evaluations): `Spec`, and `Kinds` of it that JSON names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InvalidInput, InvalidJob, PlaitError

T = TypeVar("T", bound="Spec")


class Spec(BaseModel):
    """Immutable data without unknown fields. Wrong fields raise one `PlaitError` that names them all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refusal: ClassVar[type[PlaitError]] = InvalidJob
    """What wrong fields raise."""

    @classmethod
    def title(cls) -> str:
        """What the message calls it."""
        return cls.__name__

    if not TYPE_CHECKING:

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                title = self.title()
                mistakes = (f"{'.'.join(map(str, e['loc'])) or title}: {e['msg']}" for e in error.errors())
                raise self.refusal(f"malformed {title}: {'; '.join(mistakes)}") from None


class Kinds(Generic[T]):
    """Subclasses of a `Spec`, by the default of one field (`strategy: Literal["ets"] = "ets"`)."""

    def __init__(self, field: str) -> None:
        self.field = field
        self._kinds: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> None:
        """Make a class known. Raises `InvalidInput` without a name, or with one that is taken."""
        name = cls.model_fields[self.field].default
        if not isinstance(name, str):
            raise InvalidInput(
                f"{cls.__name__}.{self.field} needs its name as default: {self.field}: Literal['x'] = 'x'"
            )
        if self._kinds.get(name, cls) is not cls:
            raise InvalidInput(f"the {self.field} name {name!r} is taken by {self._kinds[name].__name__}")
        self._kinds[name] = cls

    def names(self) -> list[str]:
        return sorted(self._kinds)

    def make(self, data: object) -> T:
        """What a JSON object describes. Raises `InvalidJob`."""
        if not isinstance(data, dict):
            raise InvalidJob(f"a {self.field} is a JSON object with a `{self.field}` name, not {type(data).__name__}")
        name = data.get(self.field)
        cls = self._kinds.get(name) if isinstance(name, str) else None
        if cls is None:
            raise InvalidJob(f"unknown {self.field} {name!r}; known: {', '.join(self.names())}")
        return cls(**data)
