"""`Node`: one step of reasoning in the tree, and `Frontier`: the nodes a strategy chooses from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.jobs.branch import TracedBranch
    from ..runtime.result import Finish


@dataclass(eq=False, slots=True, kw_only=True)
class Node:
    """One step; a trajectory is the path from the root, which stands for the prompt, to a node."""

    parent: Node | None = None
    text: str = ""
    """What the step wrote, delimiter included."""
    num_tokens: int = 0
    blocks: int = 1
    """KV blocks of the step's own, which nobody but its descendants shares. The root counts as one however long the
    prompt: it stays in any case, and must not make everything else look cheap."""
    copies: int = 1
    """Equal samples of this step that were merged into one node; they share its score and count in every sum."""
    certainty: float = math.nan
    """How certain the policy was of the step's tokens (`Completion.certainty`); of a step of a whole sample: of all of
    the sample's. NaN: not asked for, or no tokens."""
    score: float = math.nan
    """NaN: not scored."""
    embedding: Sequence[float] | None = None
    group: int | None = None
    """Subtree that the step belongs to, for strategies that keep subtrees apart; children inherit it."""
    branch: TracedBranch | None = None
    """Where it can be continued; None: pruned, expanded or finished."""
    finish: Finish | None = None
    is_complete: bool = False
    """Does the trajectory end here, by the model's own will?"""
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        self.depth = 0 if self.parent is None else self.parent.depth + 1

    @property
    def path(self) -> list[Node]:
        """The steps from the first one to this one, without the root."""
        return [*reversed(list(self._upwards()))]

    def _upwards(self) -> Iterator[Node]:
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    @property
    def trajectory_text(self) -> str:
        return "".join(node.text for node in self.path)

    @property
    def trajectory_tokens(self) -> int:
        return sum(node.num_tokens for node in self._upwards())


def ancestors(nodes: Sequence[Node]) -> list[Node]:
    """The distinct ancestors of the nodes, the root included, parents before children."""
    found: dict[Node, None] = {}
    for node in nodes:
        above = []
        up = node.parent
        while up is not None and up not in found:
            above.append(up)
            up = up.parent
        found.update(dict.fromkeys(reversed(above)))
    return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The candidates of one level: steps that were scored and can be continued."""

    nodes: Sequence[Node]
    budget: int
    """Samples that may still be drawn per level: the width less what has finished."""
    width: int
    """Finished trajectories wanted in all."""
    is_hidden: bool = False
    """Are embeddings hidden states of the policy, whose distances depend on the model?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a strategy chose."""

    counts: Sequence[int]
    """Continuations to sample of each candidate; those with 0 are pruned."""
    notes: dict[str, float | int | str] = field(default_factory=dict)
    """What there is to tell of the choice, for the record."""
