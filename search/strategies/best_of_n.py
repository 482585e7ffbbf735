"""Best-of-N: whole samples, each scored at the end."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..node import Frontier, Selection
from .base import Strategy


class BestOfN(Strategy):
    """No tree at all, and the baseline of every tree: all samples are drawn from the prompt to their end."""

    steps: ClassVar[bool] = False

    strategy: Literal["best_of_n"] = "best_of_n"
    """The strategy's name."""

    def select(self, frontier: Frontier) -> Selection:
        return Selection(counts=[node.copies for node in frontier.nodes])
