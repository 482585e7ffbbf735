"""Python functions by name, so that a search that uses some is JSON all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from types import FunctionType, MethodType
from typing import Any

from ..runtime.errors import InvalidInput

_functions: dict[str, Callable[..., Any]] = {}
_names: dict[Hashable, str] = {}
"""Identity -> name, of functions that were given themselves."""
_numbers: Counter[str] = Counter()
"""Place in the code -> names given to functions of this place."""


def register_function(name: str, function: Callable[..., Any]) -> str:
    """Make a function known to rewards and embeddings; returns the name. The last one of a name counts."""
    _functions[name] = function
    return name


def name_of(function: Callable[..., Any]) -> str:
    """Register a function that was given itself, for the life of the process, by its place in the code.

    Several of one place (lambdas, local functions, callable objects) get numbers in the order in which they are first
    given: `module.f`, `module.f#2`.
    """
    identity = _identity(function)
    owner = function if hasattr(function, "__qualname__") else type(function)
    place = f"{owner.__module__}.{owner.__qualname__}"
    name = _names.get(identity)
    while name is None or _identity(_functions.setdefault(name, function)) != identity:
        _numbers[place] += 1
        name = place if _numbers[place] == 1 else f"{place}#{_numbers[place]}"
    _names[identity] = name
    return name


def _identity(function: Callable[..., Any]) -> Hashable:
    """Equal for two objects only if calling them does the same: one that is made anew by the same code, as in a
    notebook's cell, keeps its name if it captures nothing."""
    if isinstance(function, MethodType):
        return id(function.__self__), _identity(function.__func__)
    if isinstance(function, FunctionType):
        captured = (function.__closure__, function.__defaults__, function.__kwdefaults__, vars(function))
        if not any(captured):
            return function.__code__, id(function.__globals__)
    return id(function)


def excerpt(found: object) -> str:
    """What a function gave, for a message: the beginning of how Python writes it."""
    try:
        return repr(found)[:200]
    except ValueError:  # a number of more digits than Python writes
        return type(found).__name__


def function(name: str) -> Callable[..., Any]:
    """Raises `InvalidInput` for an unknown name."""
    if name not in _functions:
        known = ", ".join(sorted(_functions)) or "none"
        raise InvalidInput(f"unknown function {name!r}; known (by plait.search.register_function): {known}")
    return _functions[name]
