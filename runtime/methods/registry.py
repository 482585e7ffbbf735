"""Methods by the name in their `method` field: ours, other packages' (entry points `plait.methods`) and scripts'."""

from __future__ import annotations

from typing import TypeVar

from ..spec import Kinds
from .base import Method

M = TypeVar("M", bound=Method)

METHODS: Kinds[Method] = Kinds("method", "plait.methods")


def register(cls: type[M]) -> type[M]:
    """Class decorator: make a method known by the default of its `method` field. Raises `InvalidInput` without one, or
    with one that is taken."""
    METHODS.add(cls)
    return cls


def parse_method(data: object) -> Method:
    """The method that a JSON object describes. Raises `InvalidJob`."""
    return METHODS.make(data)
