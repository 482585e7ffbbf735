"""`Trajectory`: a prompt and steps with verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

from ...runtime.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Steps behind a prompt."""

    prompt: str
    """The question, without a policy's markup."""
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    """Of each step: good or bad; None: nobody knows, or another trajectory says."""
    is_complete: bool = True
    """Does the text end with the last step, by the policy's will?"""


def parse(data: dict[str, Any]) -> Trajectory:
    """A line of a file. Raises `InvalidInput`."""
    prompt, ended = data.get("prompt"), data.get("ended", True)
    steps = data.get("steps", data.get("completions"))
    labels = data.get("labels")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidInput("no `prompt`, a text")
    if not _is_list(steps) or not steps or not all(isinstance(step, str) and step for step in steps):
        raise InvalidInput("no `steps`, a list of texts")
    if not _is_list(labels) or len(labels) != len(steps):
        raise InvalidInput("no `labels`, one for each step")
    # 0 and 1 are equal to False and True.
    if not all(label is None or (isinstance(label, int) and label in (False, True)) for label in labels):
        raise InvalidInput("a label is true or false, or null where nobody knows")
    if not isinstance(ended, bool):
        raise InvalidInput("`ended` is true or false")
    told = tuple(None if label is None else bool(label) for label in labels)
    return Trajectory(prompt=prompt, steps=tuple(steps), labels=told, is_complete=ended)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
