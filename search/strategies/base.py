"""`Strategy`: the protocol of all strategies, and their names."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...runtime.errors import InvalidInput, InvalidJob
from ...runtime.registry import describe
from ..node import Frontier, Selection

_strategies: dict[str, type[Strategy]] = {}
S = TypeVar("S", bound="Strategy")


class Strategy(BaseModel):
    """Chooses, level by level, which steps are continued and how often; as data, like a method.

    A subclass sets `strategy: Literal["name"] = "name"` and is decorated with `register_strategy`. It sees nodes and
    scores, never an engine. At the first level the search itself gives the root all samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: ClassVar[bool] = True
    """False: samples are drawn whole and `select` is never asked."""

    strategy: str

    if not TYPE_CHECKING:

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise InvalidJob(describe(error, type(self).__name__)) from None

    @abstractmethod
    def select(self, frontier: Frontier) -> Selection:
        """A count for each candidate. Deterministic; ties go to the earlier candidate. The counts add up to at most
        `frontier.budget`. It may set `Node.group`, which children inherit. There is at least one candidate."""

    @property
    def uses_embeddings(self) -> bool:
        """Does `select` read `Node.embedding`?"""
        return False


def register_strategy(cls: type[S]) -> type[S]:
    """Class decorator: make a strategy known by the default of its `strategy` field."""
    name = cls.model_fields["strategy"].default
    if not isinstance(name, str):
        raise InvalidInput(f"{cls.__name__}.strategy needs its name as default: strategy: Literal['x'] = 'x'")
    if _strategies.get(name, cls) is not cls:
        raise InvalidInput(f"the strategy name {name!r} is taken by {_strategies[name].__name__}")
    _strategies[name] = cls
    return cls


def parse_strategy(value: object) -> Strategy:
    """The strategy that a name or a JSON object describes, or that is given itself. Raises `InvalidJob`."""
    if isinstance(value, Strategy):
        return value
    if isinstance(value, str):
        value = {"strategy": value}
    if not isinstance(value, dict):
        raise InvalidJob(f"a strategy is a name or an object, not {type(value).__name__}")
    name = value.get("strategy")
    cls = _strategies.get(name) if isinstance(name, str) else None
    if cls is None:
        raise InvalidJob(f"unknown strategy {name!r}; known: {', '.join(sorted(_strategies))}")
    return cls(**value)
