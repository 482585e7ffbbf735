"""Which parts of a repository the trajectories see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .edits.base import Excerpt


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The context that was chosen, the most important part first."""

    excerpts: Sequence[Excerpt]
    report: Mapping[str, Any] = field(default_factory=dict)
    """For the result's details."""

    def dealt(self, n: int, *, one_each: bool) -> list[tuple[Excerpt, ...]]:
        """What each of n trajectories sees: all of it, or one part each, the likelier parts more often (a half sees the
        first, a quarter the second, and so on; each part is seen if there are trajectories for it)."""
        parts = tuple(self.excerpts)
        if not one_each or len(parts) < 2:
            return [parts] * n
        return [(parts[place],) for place in deal(n, len(parts))]


def deal(n: int, parts: int) -> list[int]:
    """The part of each of n: `0 1 0 2 0 1 0 3 ...`, the ruler sequence, so that any first few are a fair sample."""
    return [((number & -number).bit_length() - 1) % parts for number in range(1, n + 1)]


def block(excerpt: Excerpt) -> str:
    """A part of the context as prompts show it."""
    what = f' part="{excerpt.name}"' if excerpt.name else ""
    text = excerpt.text if excerpt.text.endswith("\n") else excerpt.text + "\n"
    return f'<file path="{excerpt.path}"{what}>\n{text}</file>\n'
