"""Methods inside methods: fields that hold one, and what it is given to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, SerializeAsAny

from ..errors import OutOfBlocks, PromptTooLong
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Finish, Outcome
from .base import Decoding, Method
from .prompt import Prompt
from .registry import parse_method


def _parse(value: object) -> object:
    return parse_method(value) if isinstance(value, dict) else value


Inner = Annotated[SerializeAsAny[Method], BeforeValidator(_parse)]
"""A method, or its JSON."""


def all_methods(value: object) -> Iterator[Method]:
    """A method and those that its fields hold, at any depth."""
    if isinstance(value, Method):
        yield value
    for _, part in _parts(value):
        yield from all_methods(part)


def fan_out(value: object) -> int:
    """`Method.fan_out` of a method, times that of the widest of those inside it."""
    inside = max((fan_out(part) for _, part in _parts(value)), default=1)
    return inside * value.fan_out if isinstance(value, Method) else inside


@runtime_checkable
class HasInputs(Protocol):
    """A method, or what a field of one holds, such as a reward model."""

    def inputs(self) -> Mapping[str, Any]:
        """See `Method.inputs`."""
        ...


def all_inputs(value: object, place: str = "") -> dict[str, Any]:
    """`inputs` of a method and of all that its fields hold, at any depth, by their places in it."""
    own = value.inputs() if isinstance(value, HasInputs) and callable(value.inputs) else {}  # else a field of that name
    found = {place + name: one for name, one in own.items()}
    for name, part in _parts(value):
        found |= all_inputs(part, f"{place}{name}.")
    return found


def _parts(value: object) -> Iterator[tuple[object, object]]:
    """Names and values of what may hold methods."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, BaseModel):
        parts = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = enumerate(value)
    return ((name, part) for name, part in parts if not isinstance(part, str | int | float | None))


def least_limit(*limits: int | None) -> int | None:
    """The least of those that are set."""
    return min((limit for limit in limits if limit is not None), default=None)


def reading(method: Method, prompt: Prompt, limit: int | None) -> Method:
    """`method` with this prompt in the place of its own, and a `context_limit`, if it has one, of at most `limit`.
    Raises `InvalidJob` if it takes no prompt."""
    # What validators have made of a field goes back to what they take; a dump leaves out what is excluded from it.
    left_out = {name for name, field in type(method).model_fields.items() if field.exclude}
    values = {**method.model_dump(), **{name: getattr(method, name) for name in left_out}}
    if "context_limit" in values:
        values["context_limit"] = least_limit(values["context_limit"], limit)
    values["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
    if isinstance(method, Decoding):
        values |= {"chat": False, "system": None}  # it is a chat already, if it is to be one
    return type(method)(**values)


async def go_on(ctx: Context, method: Method, branch: TracedBranch) -> Outcome:
    """What the method writes behind what a branch has read, drawn under it and within its context limit; the branch
    stays as it is. A text that leaves the method no room is an outcome."""
    try:
        return await ctx.run(reading(method, branch.tokens, branch.context_limit), parent=branch)
    except PromptTooLong:
        return Outcome(text="", answer=None, finish=Finish.CONTEXT)
    except OutOfBlocks:
        return Outcome(text="", answer=None, finish=Finish.MEMORY)
