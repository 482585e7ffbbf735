"""Beam search over steps."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ..allocation import spread
from ..node import Frontier, Selection
from .base import Strategy


class Beam(Strategy):
    """Keep the best candidates and continue them equally often."""

    strategy: Literal["beam"] = "beam"
    """The strategy's name."""
    beams: int | None = Field(default=None, ge=1)
    """Candidates kept; None: the square root of what is left of the width, as in the ETS comparison."""

    def select(self, frontier: Frontier) -> Selection:
        nodes = frontier.nodes
        keep = min(self.beams or math.ceil(math.sqrt(frontier.budget)), len(nodes), frontier.budget)
        best = sorted(range(len(nodes)), key=lambda i: (-nodes[i].score, i))[:keep]
        counts = [0] * len(nodes)
        for i, count in zip(best, spread(frontier.budget, keep), strict=True):
            counts[i] = count
        return Selection(counts=counts)
