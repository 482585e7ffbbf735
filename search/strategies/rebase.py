"""REBASE: continuations in proportion to the softmax of the scores (arXiv 2408.00724)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..allocation import balance
from ..node import Frontier, Selection
from .base import Strategy


class Rebase(Strategy):
    """Reward balanced search; see `allocation.balance`."""

    strategy: Literal["rebase"] = "rebase"
    """The strategy's name."""
    temperature: float = Field(default=0.2, gt=0)
    """Of the softmax: 0.2 in the authors' configurations, 0.1 in the paper's appendix."""

    def select(self, frontier: Frontier) -> Selection:
        nodes = frontier.nodes
        scores, copies = [node.score for node in nodes], [node.copies for node in nodes]
        return Selection(counts=balance(scores, frontier.budget, self.temperature, copies))
