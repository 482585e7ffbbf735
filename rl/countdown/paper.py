"""Search traces in the language of the APR paper (arXiv 2504.15466), as its symbolic solver writes them.

A thread is a best-first search: the best open nodes are expanded, the best `beam` successors of each are kept. The root
thread may hand all kept successors of a node to child threads. Every main call and every child is one training text.
Where the published code loses a "Moving to Node" line after a spawn, this one writes it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from ...runtime.methods.apr.dialect import Child, Joined
from ...runtime.methods.apr.paper import CALLING, END_CALLING, GOAL, PaperDialect


@dataclass(frozen=True, slots=True)
class Node:
    """A state of the search."""

    id: str
    nums: tuple[int, ...]
    operations: tuple[str, ...] = ()
    parent: Node | None = None


@dataclass(slots=True)
class Thread:
    """What one thread wrote."""

    main_calls: list[str] = field(default_factory=list)
    """Its context at the end of every call; a later one begins with the join section of the one before."""
    rounds: list[list[Thread]] = field(default_factory=list)
    """The children of each spawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSearch:
    """Parameters of one trace; the published data draws the beams from 1 to 10 and from `beam` to 15."""

    target: int
    rng: random.Random
    beam: int = 5
    child_beam: int = 10
    spawn_chance: float = 0.9
    """Probability that the root thread spawns for an expanded node; the code's value, not the paper's 0.1."""

    def run(self, nums: Sequence[int]) -> Thread:
        """Search for the target from these numbers."""
        thread, _ = self._thread(Node("0", tuple(nums)), level=0)
        return thread

    def _thread(self, start: Node, level: int) -> tuple[Thread, list[Node] | None]:
        """The thread and, if it found the target, the nodes from `start` to it."""
        thread = Thread()
        lines = [f"Moving to Node #{start.id}"]
        beam = self.child_beam if level else self.beam
        order = 0
        queue = [(_distance(start.nums, self.target), order, start)]

        def finish(path: list[Node] | None) -> tuple[Thread, list[Node] | None]:
            if path:
                lines.extend((f"{self.target},{self.target} equal: {GOAL}", *self._path(path)))
            else:
                lines.append("No solution found.")
            thread.main_calls.append("\n".join((*lines, "")))
            return thread, path

        while queue:
            current = [heapq.heappop(queue)[2] for _ in range(min(beam, len(queue)))]
            for i, node in enumerate(current):
                lines.append(self._state(node))
                kept: list[Node] = []
                for left, operation in self._successors(node, beam):
                    lines.append(_exploring(operation, left))
                    made = Node(f"{node.id},{len(kept)}", left, (*node.operations, operation), node)
                    if left == (self.target,):
                        return finish(_ancestry(made, start))
                    if len(left) == 1:
                        lines.append(f"{left[0]},{self.target} unequal: No Solution")
                    else:
                        lines.append(self._generated(made))
                        kept.append(made)
                kept.sort(key=lambda n: _distance(n.nums, self.target))
                if level == 0 and len(kept) > 1 and self.rng.random() < self.spawn_chance:
                    path = self._spawn(thread, lines, kept)
                    if path:
                        return finish([*_ancestry(node, start), *path])
                else:
                    for made in kept:
                        order += 1
                        heapq.heappush(queue, (_distance(made.nums, self.target), order, made))
                if i + 1 < len(current):
                    lines.append(f"Moving to Node #{current[i + 1].id}")
            if queue:
                lines.append(f"Moving to Node #{queue[0][2].id}")
        return finish(None)

    def _spawn(self, thread: Thread, lines: list[str], nodes: Sequence[Node]) -> list[Node] | None:
        """Close the main call, run the children, begin the next call; the path of the first that succeeds."""
        starts = (f"<Start Sub Search {i} at level 1> Moving to Node #{node.id}" for i, node in enumerate(nodes))
        thread.main_calls.append("\n".join((*lines, CALLING, *starts, END_CALLING, "")))
        children = [self._thread(node, level=1) for node in nodes]
        thread.rounds.append([child for child, _ in children])
        joined = [
            Joined(child=Child(label=node.id, prompt=None), result="\n".join(self._path(path)) if path else None)
            for node, (_, path) in zip(nodes, children, strict=True)
        ]
        lines += PaperDialect().join(joined, 0).splitlines()
        return next((path for _, path in children if path), None)

    def _successors(self, node: Node, beam: int) -> list[tuple[tuple[int, ...], str]]:
        made = []
        for i, j in combinations(range(len(node.nums)), 2):
            rest = tuple(n for k, n in enumerate(node.nums) if k not in (i, j))
            a, b = node.nums[i], node.nums[j]
            high, low = max(a, b), min(a, b)
            made += [((*rest, a + b), f"{a}+{b}={a + b}"), ((*rest, a * b), f"{a}*{b}={a * b}")]
            made.append(((*rest, high - low), f"{high}-{low}={high - low}"))
            if low and high % low == 0:
                made.append(((*rest, high // low), f"{high}/{low}={high // low}"))
        best = sorted(made, key=lambda item: _distance(item[0], self.target))[:beam]
        self.rng.shuffle(best)
        return best

    def _state(self, node: Node) -> str:
        return f"Current State: {self.target}:{list(node.nums)}, Operations: {list(node.operations)}"

    def _generated(self, node: Node) -> str:
        return f"Generated Node #{node.id}: {self.target}:{list(node.nums)} Operation: {node.operations[-1]}"

    def _path(self, nodes: Sequence[Node]) -> list[str]:
        """The lines of a solution."""
        lines = []
        for node, after in zip(nodes, nodes[1:], strict=False):
            lines += [f"Moving to Node #{node.id}", self._state(node), _exploring(after.operations[-1], after.nums)]
            if len(after.nums) > 1:
                lines.append(self._generated(after))
        return [*lines, f"{self.target},{self.target} equal: {GOAL}"]


def _exploring(operation: str, nums: tuple[int, ...]) -> str:
    return f"Exploring Operation: {operation}, Resulting Numbers: {list(nums)}"


def _ancestry(node: Node, start: Node) -> list[Node]:
    nodes = [node]
    while nodes[-1] is not start:
        parent = nodes[-1].parent
        assert parent is not None
        nodes.append(parent)
    return nodes[::-1]


def _distance(nums: Sequence[int], target: int) -> int:
    """The published heuristic: how far every number is from its nearest factor of the target."""
    factors = [f for f in range(2, target + 1) if target % f == 0]
    return sum(min(abs(n - f) for f in factors) for n in nums)
