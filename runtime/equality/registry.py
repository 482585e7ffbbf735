"""Equalities by name: `text`, `numbers`, `math`, and other packages' (entry points `plait.equalities`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from ..errors import InvalidInput
from ..plugins import Registry
from .process import is_installed

Equality = Callable[[Sequence[str]], Sequence[Hashable]]
"""Gives every answer a label; answers of the same label are equal. May block; called in a thread of its own."""

AUTO = "auto"

EQUALITIES: Registry[Equality] = Registry("equality", "plait.equalities")


def register_equality(name: str, equality: Equality) -> None:
    """Make an equality known. Raises `InvalidInput` when the name is taken."""
    EQUALITIES.register(name, equality)


def text(answers: Sequence[str]) -> Sequence[str]:
    """`text`: the same characters."""
    return answers


def check_equality(name: str) -> str:
    """Raise `InvalidInput` unless there is an equality of this name, or if it needs what is not installed."""
    if name != AUTO and EQUALITIES.find(name) is None:
        raise InvalidInput(f"{EQUALITIES.unknown(name)}, {AUTO}")
    if name == "math" and not is_installed():
        raise InvalidInput("the equality 'math' needs math-verify: pip install 'plait[evals]', or take 'auto'")
    return name


def labels(name: str, answers: Sequence[str]) -> dict[str, Hashable]:
    """Answer -> label, by the equality of this name. Raises `InvalidInput` if it gives something else."""
    equality = EQUALITIES.find(name)
    assert equality is not None
    distinct = list(dict.fromkeys(answers))
    given: Any = equality(distinct)
    if not isinstance(given, Iterable):
        raise InvalidInput(f"{EQUALITIES.called(name)} gave {type(given).__name__}, and no sequence of labels")
    found = list(given)
    try:
        set(found)
    except TypeError:
        raise InvalidInput(
            f"{EQUALITIES.called(name)} gave labels that cannot be told apart: they are not hashable"
        ) from None
    if len(found) != len(distinct):
        raise InvalidInput(f"{EQUALITIES.called(name)} gave {len(found)} labels for {len(distinct)} answers")
    return dict(zip(distinct, found, strict=True))
