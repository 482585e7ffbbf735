"""`Reward`: what judges steps, as data, and `Scorer`: one that is at work in a search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ...runtime.engine import Engine
from ...runtime.errors import InvalidInput, InvalidJob
from ...runtime.jobs.context import Context
from ...runtime.spec import Kinds, Spec
from ..functions import excerpt, name_of
from ..node import Node

_rewards: Kinds[Reward] = Kinds("reward", "plait.rewards")

LARGEST = 1e300
"""A score may be so large, on either side of 0."""


class Scorer(Protocol):
    """Scores the steps of one search, parents before children.

    One whose attribute `one_by_one` is true judges one step after another whatever it is given, and is given one at a
    time: what is judged before a deadline counts, else the steps that were given together are lost together.
    """

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        """How good each step's trajectory is up to its end, the higher the better; NaN: no score could be had. What is
        kept for a node so that its children cost less is kept until `release`. Scores are summed and multiplied: the
        search refuses those that are infinite or larger than `LARGEST`. Cancelled at the job's deadline."""
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
    """A kind of reward model. Subclasses set `reward: Literal["name"] = "name"`, and are known by an entry point of the
    group `plait.rewards` or by `register_reward`."""

    shorthand: ClassVar[str] = ""
    """The field that `NAME:REST` fills with its rest, where a reward is given as text; empty: `NAME` alone."""

    uses_certainty: ClassVar[bool] = False
    """Does its scorer read `Node.certainty`?"""

    reward: str
    """The kind's name; subclasses give it as the default of a `Literal`."""

    def check(self, engine: Engine) -> None:
        """Raise what is wrong with judging what `engine` writes, before any work."""

    def inputs(self) -> Mapping[str, Any]:
        """See `Method.inputs`."""
        return {}

    @abstractmethod
    async def open(self, ctx: Context, question: str) -> Scorer:
        """Begin with a question: what was asked, without the markup of the policy's prompt. No deadline ends it."""


async def ask(reward: Reward, scorer: Scorer, nodes: Sequence[Node]) -> list[float]:
    """The scores, one for each node. Raises `InvalidInput`, naming the reward, for what is none."""
    found: Any = await scorer.score(nodes)
    rest = getattr(reward, reward.shorthand, "")
    gave = f"the reward {f'{reward.reward}:{rest}' if rest else reward.reward!r} gave"
    values: list[Any] = list(found) if isinstance(found, Iterable) else [None]
    try:
        if any(isinstance(value, str | bytes) for value in values):
            raise TypeError("float() would read it")
        scores = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{gave} scores that are no numbers: {excerpt(found)}") from None
    if len(scores) != len(nodes):
        raise InvalidInput(f"{gave} {len(scores)} scores for {len(nodes)} steps")
    if wrong := [score for score in scores if abs(score) > LARGEST]:
        raise InvalidInput(f"{gave} the score {wrong[0]}; one is finite, and {LARGEST} at most")
    return scores


def register_reward(cls: type[Reward]) -> type[Reward]:
    """Class decorator: make a kind known by the default of its `reward` field."""
    _rewards.add(cls)
    return cls


def parse_reward(value: object) -> Reward:
    """The reward that a JSON object, a text (`NAME`, `NAME:REST`) or a function describes, or that is given itself.
    Raises `InvalidJob`."""
    if isinstance(value, Reward):
        return value
    if callable(value) and not isinstance(value, type):
        value = {"reward": "function", "function": name_of(value)}
    elif isinstance(value, str):
        kind, colon, rest = value.partition(":")
        cls = _rewards.find(kind)
        if colon and cls is not None and not cls.shorthand:
            raise InvalidJob(f"the reward {kind!r} takes nothing behind its name: give an object with its fields")
        value = {"reward": kind, cls.shorthand: rest} if colon and cls is not None else {"reward": kind}
    if not isinstance(value, dict):
        raise InvalidJob(f"a reward is a name, an object or a function, not {type(value).__name__}")
    return _rewards.make(value)
