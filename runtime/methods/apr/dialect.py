"""What a text dialect of spawn/join must say; `APR` runs any of them.

A thread's *context* is its whole text: prompt and everything after it. All functions are pure and total: malformed
model text gives a defined value, never an exception. `level` is the depth of the thread that spawns; the root's is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...errors import InvalidInput, told
from ...plugins import Registry, has_methods


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child thread, as a spawn section asks for it."""

    label: str
    """What the parent calls the child (a node id, a move); unique only if the model made it so."""
    prompt: str | None
    """The child's whole context at birth, without BOS; None: the spawn line could not be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """A spawn section, understood."""

    keep: int
    """Characters of the parent's context that stay; the spawn section behind them is replaced by the join section."""
    children: tuple[Child, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A child that has ended."""

    child: Child
    result: str | None
    """What the child handed back; None: no solution."""


class Dialect(Protocol):
    """One text language for spawning and joining threads (arXiv 2504.15466, section 3)."""

    @property
    def name(self) -> str: ...
    @property
    def spawn_end(self) -> str:
        """Stop string: a call that reaches it ends there and is parsed for children."""
        ...

    @property
    def reserved(self) -> dict[str, str]:
        """Strings that only the runtime may write -> what replaces them when the model writes one."""
        ...

    def spawn(self, context: str, level: int) -> Spawn | None:
        """The spawn section at the end of `context`, or None if it does not end in one."""
        ...

    def join(self, joined: Sequence[Joined], level: int) -> str:
        """The text that replaces the spawn section."""
        ...

    def join_short(self, joined: Sequence[Joined], level: int) -> str:
        """As `join`, with the failures cut to one summary line, for a context that is nearly full."""
        ...

    def result(self, context: str) -> str | None:
        """What a finished thread hands to its parent (or, for the root, to the caller)."""
        ...

    def verify(self, child: Child, result: str) -> bool:
        """Does `result` really solve what the child was asked?"""
        ...


_dialects: Registry[Callable[[], Dialect]] = Registry("dialect", "plait.dialects")


def register_dialect(name: str, make: Callable[[], Dialect]) -> None:
    """Make a dialect known to `APR(dialect=name)`. Raises `InvalidInput` for a name that is taken."""
    _dialects.register(name, make)


def find_dialect(name: str) -> Dialect:
    """Raises `InvalidInput` for an unknown name, or one under which no dialect is made."""
    make = _dialects.find(name)
    if make is None:
        raise InvalidInput(_dialects.unknown(name))
    try:
        dialect = make()
    except Exception as error:  # Whatever somebody's class raises.
        raise InvalidInput(f"{_dialects.called(name)} cannot be made: {told(error)}") from error
    if not has_methods(dialect, Dialect):
        raise InvalidInput(f"{_dialects.called(name)} makes {type(dialect).__name__}, and no Dialect")
    return dialect
