"""`Strategy`: the protocol of all strategies, and their names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, TypeVar

from ...runtime.errors import InvalidInput, InvalidJob
from ...runtime.spec import Kinds, Spec
from ..embeddings import HIDDEN
from ..node import Frontier, Selection

_strategies: Kinds[Strategy] = Kinds("strategy", "plait.strategies")
S = TypeVar("S", bound="Strategy")


class Strategy(Spec):
    """Chooses, level by level, which steps are continued and how often; as data, like a method.

    A subclass sets `strategy: Literal["name"] = "name"` and is decorated with `register_strategy`. It sees nodes and
    scores, never an engine. At the first level the search itself gives the root all samples.
    """

    steps: ClassVar[bool] = True
    """False: samples are drawn whole and `select` is never asked."""

    strategy: str
    """The strategy's name; subclasses give it as the default of a `Literal`."""

    @abstractmethod
    def select(self, frontier: Frontier) -> Selection:
        """A count for each candidate. Deterministic; ties go to the earlier candidate. The counts add up to at most
        `frontier.budget`. It may set `Node.group`, which children inherit. There is at least one candidate."""

    @property
    def embedding(self) -> str:
        """What to tell steps by where the search does not say."""
        return HIDDEN

    @property
    def uses_embeddings(self) -> bool:
        """Does `select` read `Node.embedding`?"""
        return False


def select(strategy: Strategy, frontier: Frontier) -> Selection:
    """The strategy's choice, each count an `int`. Raises `InvalidInput` for one that the search cannot follow."""
    selection = strategy.select(frontier)
    chose = f"the strategy {strategy.strategy!r} chose"
    if not isinstance(selection, Selection):
        raise InvalidInput(f"{chose} {type(selection).__name__}, which is no Selection")
    found: Any = selection.counts
    given: list[Any] = list(found) if isinstance(found, Iterable) else [None]
    if not all(isinstance(count, Integral) and int(count) >= 0 for count in given):
        raise InvalidInput(f"{chose} counts that are no whole numbers from 0: {str(found)[:200]}")
    counts = [int(count) for count in given]  # engines take no other kind, such as NumPy's
    if len(counts) != len(frontier.nodes):
        raise InvalidInput(f"{chose} {len(counts)} counts for {len(frontier.nodes)} candidates")
    if sum(counts) > frontier.budget:
        raise InvalidInput(f"{chose} {sum(counts)} continuations, and {frontier.budget} are left of the width")
    return replace(selection, counts=counts)


def register_strategy(cls: type[S]) -> type[S]:
    """Class decorator: make a strategy known by the default of its `strategy` field."""
    _strategies.add(cls)
    return cls


def parse_strategy(value: object) -> Strategy:
    """The strategy that a name or a JSON object describes, or that is given itself. Raises `InvalidJob`."""
    if isinstance(value, Strategy):
        return value
    if isinstance(value, str):
        value = {"strategy": value}
    if not isinstance(value, dict):
        raise InvalidJob(f"a strategy is a name or an object, not {type(value).__name__}")
    return _strategies.make(value)
