"""DVTS, diverse verifier tree search: independent subtrees, each a greedy search (Hugging Face search-and-learn)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ..allocation import spread
from ..node import Frontier, Selection
from .base import Strategy


class DVTS(Strategy):
    """The first steps are dealt into subtrees; each subtree samples its equal part of the width below its best step."""

    strategy: Literal["dvts"] = "dvts"
    """The strategy's name."""
    subtrees: int | None = Field(default=None, ge=1)
    """None: the square root of the width; fewer where there are fewer first steps."""

    def select(self, frontier: Frontier) -> Selection:
        nodes, budget = frontier.nodes, frontier.budget
        is_first = all(node.group is None for node in nodes)
        if is_first:
            trees = min(self.subtrees or math.ceil(math.sqrt(frontier.width)), len(nodes), budget)
            dealt = [tree for tree, size in enumerate(spread(len(nodes), trees)) for _ in range(size)]
            for node, tree in zip(nodes, dealt, strict=True):
                node.group = tree
        members: dict[int, list[int]] = {}
        for i, node in enumerate(nodes):
            members.setdefault(node.group or 0, []).append(i)
        # Later, what has not finished of a subtree's samples is what it may draw again.
        parts = (
            spread(budget, len(members)) if is_first else [sum(nodes[i].copies for i in m) for m in members.values()]
        )
        counts = [0] * len(nodes)
        for inside, part in zip(members.values(), parts, strict=True):
            best = max(inside, key=lambda i: (nodes[i].score, -i))
            counts[best] = min(part, budget - sum(counts))
        return Selection(counts=counts, notes={"subtrees": len(members)})
