"""Python functions by name, so that a search that uses some is JSON all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime.errors import InvalidInput

_functions: dict[str, Callable[..., Any]] = {}


def register_function(name: str, function: Callable[..., Any]) -> str:
    """Make a function known to rewards and embeddings; returns the name. The last one of a name counts."""
    _functions[name] = function
    return name


def name_of(function: Callable[..., Any]) -> str:
    """Register a function that was given itself, by its place in the code."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))
    return register_function(f"{module}.{name}", function)


def function(name: str) -> Callable[..., Any]:
    """Raises `InvalidInput` for an unknown name."""
    if name not in _functions:
        known = ", ".join(sorted(_functions)) or "none"
        raise InvalidInput(f"unknown function {name!r}; known (by plait.search.register_function): {known}")
    return _functions[name]
