"""Search traces in the language of the APR paper (arXiv 2504.15466), as its symbolic solvers write them.

A thread is a best-first search: the best open nodes are expanded, the best `beam` successors of each are kept. In an
APR trace the root thread may hand all kept successors of a node to child threads; every main call and every child is
one training text. An SoS+ trace (`serial`) searches them one after another in one text. Given the random choices of the
published solvers, both write what those write, byte for byte.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from statistics import fmean

from ...runtime.methods.apr.dialect import Child, Joined
from ...runtime.methods.apr.paper import CALLING, END_CALLING, NO_SOLUTION, PaperDialect
from ...runtime.methods.search_path import GOAL

MOST_BEAMS = (10, 15)
"""The published APR data draws beams from 1 to 10, and those of children from there to 15."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A state of the search."""

    id: str
    nums: tuple[int, ...]
    distance: int
    """From the target, by the published heuristic."""
    operations: tuple[str, ...] = ()
    parent: Node | None = None

    def __lt__(self, other: Node) -> bool:
        return self.distance < other.distance

    def since(self, start: Node) -> list[Node]:
        """The nodes from `start` to this one."""
        nodes = [self]
        while nodes[-1] is not start:
            parent = nodes[-1].parent
            assert parent is not None
            nodes.append(parent)
        return nodes[::-1]


@dataclass(slots=True)
class Thread:
    """What one thread wrote."""

    main_calls: list[str] = field(default_factory=list)
    """Its context at the end of every call; a later one begins with the join section of the one before."""
    rounds: list[list[Thread]] = field(default_factory=list)
    """The children of each spawn."""

    def sequences(self, *, conditioned: bool = False) -> Iterator[str]:
        """The training texts: every main call and every child. `conditioned`: the root's begin with the sub call budget
        that they took, children per spawn."""
        spawned = round(fmean(map(len, self.rounds))) if self.rounds else 0
        budget = f"Sub Call Budget: {spawned} " if conditioned else ""
        for call in self.main_calls:
            yield budget + call
        for children in self.rounds:
            for child in children:
                yield from child.sequences()


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """What both searches share."""

    target: int
    rng: random.Random

    def root(self, nums: Sequence[int]) -> Node:
        return Node("0", tuple(nums), distance(nums, self.target))

    def expand(self, node: Node, beam: int, lines: list[str]) -> tuple[list[Node], Node | None]:
        """Write a node's successors: those kept, best first, and the goal, which ends the writing where it is found."""
        lines.append(self.state(node))
        kept: list[Node] = []
        for left, far, operation in self._successors(node, beam):
            lines.append(exploring(operation, left))
            made = Node(f"{node.id},{len(kept)}", left, far, (*node.operations, operation), node)
            if left == (self.target,):
                lines.append(self.goal)
                return kept, made
            if len(left) == 1:
                lines.append(f"{left[0]},{self.target} unequal: No Solution")
            else:
                lines.append(self._generated(made))
                kept.append(made)
        return sorted(kept), None

    def path(self, nodes: Sequence[Node]) -> list[str]:
        """The lines of a solution."""
        lines = []
        for node, after in pairwise(nodes):
            lines += [f"Moving to Node #{node.id}", self.state(node), exploring(after.operations[-1], after.nums)]
            if len(after.nums) > 1:
                lines.append(self._generated(after))
        return [*lines, self.goal]

    @property
    def goal(self) -> str:
        return f"{self.target},{self.target} equal: {GOAL}"

    def state(self, node: Node) -> str:
        return f"Current State: {self.target}:{list(node.nums)}, Operations: {list(node.operations)}"

    def _generated(self, node: Node) -> str:
        return f"Generated Node #{node.id}: {self.target}:{list(node.nums)} Operation: {node.operations[-1]}"

    def _successors(self, node: Node, beam: int) -> list[tuple[tuple[int, ...], int, str]]:
        made = []
        for i, j in combinations(range(len(node.nums)), 2):
            rest = tuple(n for k, n in enumerate(node.nums) if k not in (i, j))
            a, b = node.nums[i], node.nums[j]
            high, low = max(a, b), min(a, b)
            results = [
                (a + b, f"{a}+{b}={a + b}"),
                (a * b, f"{a}*{b}={a * b}"),
                (high - low, f"{high}-{low}={high - low}"),
            ]
            if low and high % low == 0:
                results.append((high // low, f"{high}/{low}={high // low}"))
            made += [((*rest, result), distance((*rest, result), self.target), text) for result, text in results]
        best = sorted(made, key=lambda item: item[1])[:beam]
        self.rng.shuffle(best)
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSearch(Solver):
    """An APR trace."""

    beam: int = 5
    child_beam: int = 10
    spawn_chance: float = 0.9
    """Probability that the root thread spawns for an expanded node; the code's value, not the paper's 0.1."""
    as_published: bool = False
    """Leave out the "Moving to Node" lines that the published code loses after a spawn."""

    def run(self, nums: Sequence[int]) -> Thread:
        """Search for the target from these numbers."""
        return self._thread(self.root(nums), level=0)[0]

    def _thread(self, start: Node, level: int) -> tuple[Thread, Node | None]:
        """The thread and the goal, if it found it."""
        thread = Thread()
        lines = [f"Moving to Node #{start.id}"]
        beam = self.child_beam if level else self.beam
        queue = [start]

        def finish(goal: Node | None) -> tuple[Thread, Node | None]:
            lines.extend(self.path(goal.since(start)) if goal else [NO_SOLUTION])
            thread.main_calls.append("\n".join((*lines, "")))
            return thread, goal

        while queue:
            current = [heapq.heappop(queue) for _ in range(min(beam, len(queue)))]
            for i, node in enumerate(current):
                kept, goal = self.expand(node, beam, lines)
                if goal:
                    return finish(goal)
                at = i
                if level == 0 and len(kept) > 1 and self.rng.random() < self.spawn_chance:
                    goal = self._spawn(thread, lines, kept)
                    if goal:
                        lines.append(self.goal)
                        return finish(goal)
                    if self.as_published:
                        # It counts nodes and children by the same variable.
                        at = len(kept) - 1
                else:
                    for made in kept:
                        heapq.heappush(queue, made)
                if at + 1 < len(current):
                    lines.append(f"Moving to Node #{current[at + 1].id}")
            if queue:
                lines.append(f"Moving to Node #{queue[0].id}")
        return finish(None)

    def _spawn(self, thread: Thread, lines: list[str], nodes: Sequence[Node]) -> Node | None:
        """Close the main call, run the children, begin the next call; the goal of the first that succeeds."""
        starts = (f"<Start Sub Search {i} at level 1> Moving to Node #{node.id}" for i, node in enumerate(nodes))
        thread.main_calls.append("\n".join((*lines, CALLING, *starts, END_CALLING, "")))
        children = [self._thread(node, level=1) for node in nodes]
        thread.rounds.append([child for child, _ in children])
        joined = [
            Joined(
                child=Child(label=node.id, prompt=None),
                result="\n".join(self.path(goal.since(node))) if goal else None,
            )
            for node, (_, goal) in zip(nodes, children, strict=True)
        ]
        lines += PaperDialect().join(joined, 0).splitlines()
        return next((goal for _, goal in children if goal), None)


def exploring(operation: str, nums: tuple[int, ...]) -> str:
    return f"Exploring Operation: {operation}, Resulting Numbers: {list(nums)}"


def distance(nums: Sequence[int], target: int) -> int:
    """The published heuristic: how far every number is from its nearest factor of the target."""
    return sum(min(abs(n - f) for f in _factors(target)) for n in nums)


@cache
def _factors(target: int) -> tuple[int, ...]:
    return tuple(f for f in range(2, target + 1) if target % f == 0)


def draw_search(target: int, rng: random.Random) -> PaperSearch:
    """Parameters as the published data has them."""
    beam = rng.randint(1, MOST_BEAMS[0])
    return PaperSearch(target=target, rng=rng, beam=beam, child_beam=rng.randint(beam, MOST_BEAMS[1]))
