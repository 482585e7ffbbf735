"""`Reward`: what judges steps, as data, and `Scorer`: one that is at work in a search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ...runtime.engine import Tokenizer
from ...runtime.errors import InvalidJob
from ...runtime.spec import Kinds, Spec
from ..functions import name_of
from ..node import Node

if TYPE_CHECKING:
    from ...runtime.jobs.context import Context

_rewards: Kinds[Reward] = Kinds("reward", "plait.rewards")


class Scorer(Protocol):
    """Scores the steps of one search, parents before children."""

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        """How good each step's trajectory is up to its end, the higher the better; NaN: no score could be had. What is
        kept for a node so that its children cost less is kept until `release`."""
        ...

    def release(self, nodes: Sequence[Node]) -> None:
        """Nothing below these nodes will be scored any more."""
        ...

    def close(self) -> None:
        """Free everything; idempotent."""
        ...

    @property
    def statistics(self) -> dict[str, float | int]: ...


class Reward(Spec):
    """A kind of reward model. Subclasses set `reward: Literal["name"] = "name"` and use `register_reward`."""

    reward: str

    @abstractmethod
    def check(self) -> None:
        """Raise what is wrong with it, before any work."""

    @abstractmethod
    async def open(self, ctx: Context, prompt: Sequence[int], tokenizer: Tokenizer) -> Scorer:
        """Begin with a prompt, given as tokens of the policy."""


def register_reward(cls: type[Reward]) -> type[Reward]:
    """Class decorator: make a kind known by the default of its `reward` field."""
    _rewards.add(cls)
    return cls


def parse_reward(value: object) -> Reward:
    """The reward that a JSON object, `prm:MODEL` or a function describes, or that is given itself. Raises
    `InvalidJob`."""
    if isinstance(value, Reward):
        return value
    if callable(value):
        value = {"reward": "function", "function": name_of(value)}
    elif isinstance(value, str):
        kind, _, rest = value.partition(":")
        value = {"reward": kind, {"prm": "model"}.get(kind, "function"): rest}
    if not isinstance(value, dict):
        raise InvalidJob(f"a reward is a name, an object or a function, not {type(value).__name__}")
    return _rewards.make(value)
