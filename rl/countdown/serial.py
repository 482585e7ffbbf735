"""Search traces of SoS+, the APR paper's baseline in one line (arXiv 2504.15466): sub searches stand where they are
started."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.methods.apr.paper import NO_SOLUTION, token_budget
from .paper import Node, Solver


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialSearch(Solver):
    """An SoS+ trace; the published data draws the beam from 1 to 5."""

    beam: int = 3
    dive_chance: float = 0.5
    """Probability that the nodes kept of an expanded one are searched at once, each to its end."""

    def run(self, nums: Sequence[int]) -> str:
        """Search for the target from these numbers."""
        lines: list[str] = []
        root = self.root(nums)
        self._search(root, root, lines, level=0)
        return "\n".join((*lines, ""))

    def _search(self, start: Node, root: Node, lines: list[str], level: int) -> bool:
        """Was the goal found?"""
        queue = [start]
        while queue:
            current = [heapq.heappop(queue) for _ in range(min(self.beam, len(queue)))]
            for i, node in enumerate(current):
                kept, goal = self.expand(node, self.beam, lines)
                if goal:
                    lines += self.path(goal.since(root))
                    return True
                dives = self.rng.random() < self.dive_chance
                for made in kept:
                    if not dives:
                        heapq.heappush(queue, made)
                        continue
                    lines.append(f"Start Sub Search at level {level + 1}: Moving to Node #{made.id}")
                    found = self._search(made, root, lines, level + 1)
                    lines.append(f"Exit Sub Search at level {level + 1}")
                    if found:
                        return True
                    lines.append("No solution found in sub search")
                if i + 1 < len(current):
                    lines.append(f"Moving to Node #{current[i + 1].id}")
            if queue:
                lines.append(f"Moving to Node #{queue[0].id}")
        lines.append(NO_SOLUTION)
        return False


def conditioned(text: str, tokens: int) -> str:
    """The training text, of so many tokens, for a model that is told its token budget."""
    return f"Token Budget: {token_budget(tokens)} {text}"
