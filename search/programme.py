"""ETS's choice of what to keep as an integer programme over the tree (arXiv 2502.13575).

    max  sum_i reward_i x_i  -  cost_weight (sum_i cost_i x_i + sum_j cost_j y_j)  +  coverage_weight / K sum_k z_k

with x_i: candidate i is kept, y_j: its ancestor j is (whenever something below it is), z_k: cluster k has a kept
candidate; at least one candidate is kept. Rewards and costs are shares that add up to 1, so every term lies between 0
and its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_FREE = -1e-4
"""Price of a share of the tree where cost does not count: a tiny gain, so that what costs nothing is kept."""
_TIE = 1e-9
"""Taken off the reward per place, so that of equal solutions always the same one is found; less where it would outgrow
what is gained by keeping what is free."""

Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class Programme:
    """N candidates below M ancestors. Raises `ValueError` for lengths that do not fit or parents behind children."""

    rewards: Sequence[float]
    """(N,)."""
    parents: Sequence[int]
    """(N,): ancestor above each candidate; -1: none."""
    ancestor_parents: Sequence[int]
    """(M,): the same for ancestors; parents stand before their children."""
    costs: Sequence[float]
    """(N + M,): of the candidates, then of the ancestors, in any unit."""
    clusters: Sequence[int] | None = None
    """(N,): labels 0 .. K - 1; None: coverage does not count."""
    cost_weight: float = 1.0
    coverage_weight: float = 0.0

    def __post_init__(self) -> None:
        n, m = len(self.rewards), len(self.ancestor_parents)
        if not n or len(self.parents) != n or len(self.costs) != n + m:
            raise ValueError(f"{n} rewards, {len(self.parents)} parents, {len(self.costs)} costs, {m} ancestors")
        if any(parent >= j for j, parent in enumerate(self.ancestor_parents)):
            raise ValueError("ancestors must stand behind their parents")
        if self.clusters is not None and len(self.clusters) != n:
            raise ValueError(f"{len(self.clusters)} cluster labels for {n} candidates")

    @cached_property
    def prices(self) -> NDArray[np.float64]:
        """(N + M,): what keeping a node takes off the objective."""
        costs = np.asarray(self.costs, dtype=np.float64)
        total = float(costs.sum()) or 1.0
        prices: NDArray[np.float64] = costs * ((self.cost_weight or _FREE) / total)
        return prices

    @cached_property
    def gains(self) -> NDArray[np.float64]:
        """(N,): what keeping a candidate adds, its price taken off, ancestors and clusters left out."""
        n = len(self.rewards)
        prices = self.prices[:n]
        tie = min([_TIE, *(-prices[prices < 0] / n)])
        found: NDArray[np.float64] = np.asarray(self.rewards, dtype=np.float64) - tie * np.arange(n) - prices
        return found

    @property
    def num_clusters(self) -> int:
        """0: coverage does not count."""
        return 0 if self.clusters is None or not self.coverage_weight else max(self.clusters) + 1

    @cached_property
    def lineages(self) -> list[tuple[int, ...]]:
        """The ancestors of each candidate, the parent first."""
        above: list[tuple[int, ...]] = []
        for j, parent in enumerate(self.ancestor_parents):
            above.append((j, *(above[parent] if parent >= 0 else ())))
        return [above[parent] if parent >= 0 else () for parent in self.parents]

    def value(self, kept: Kept) -> float:
        """The objective."""
        n = len(self.rewards)
        chosen = np.flatnonzero(kept)
        above = {j for i in chosen for j in self.lineages[i]}
        total = float(self.gains[chosen].sum()) - sum(self.prices[n + j] for j in above)
        if self.num_clusters and self.clusters is not None:
            total += self.coverage_weight * len({self.clusters[i] for i in chosen}) / self.num_clusters
        return float(total)


@dataclass(frozen=True, slots=True)
class Solution:
    kept: Kept
    """(N,), at least one True."""
    method: str
    """`tree`: exact, by dynamic programming; `optimal`: the solver proved it; `incumbent`: the best that the solver
    had at its time limit; `rounded`: it had nothing."""


def solve(programme: Programme, time_limit: float = 0.5) -> Solution:
    """The best choice, or a good one after `time_limit` seconds."""
    if not programme.num_clusters:
        return Solution(keep_by_tree(programme), "tree")
    found = _milp(programme, time_limit)
    if found is not None:
        return found
    relaxed = _milp(programme, time_limit, is_relaxed=True)
    choices = [_cover(programme, keep_by_tree(programme))]
    if relaxed is not None:
        choices.append(_cover(programme, relaxed.kept))
    return Solution(max(choices, key=programme.value), "rounded")


def keep_by_tree(programme: Programme) -> Kept:
    """The optimum without coverage, in linear time.

    The worth of a subtree that must keep something is the price of its node, plus all of its parts that are worth
    something, or else the part that is worth most.
    """
    n, m = len(programme.rewards), len(programme.ancestor_parents)
    parts: list[list[int]] = [[] for _ in range(m + 1)]  # the last one: what stands below nothing
    for i, parent in enumerate(programme.parents):
        parts[parent].append(i)
    for j, parent in enumerate(programme.ancestor_parents):
        parts[parent].append(n + j)
    worth = np.concatenate([programme.gains, -programme.prices[n:]])

    def wanted(j: int) -> list[int]:
        """Of the parts of an ancestor, those that are kept if it is."""
        good = [part for part in parts[j] if worth[part] > 0]
        return good or [max(parts[j], key=lambda part: (worth[part], -part))] if parts[j] else []

    for j in range(m - 1, -1, -1):
        worth[n + j] = worth[n + j] + sum(worth[part] for part in wanted(j)) if parts[j] else -np.inf
    kept = np.zeros(n, dtype=bool)
    left = wanted(m)
    while left:
        part = left.pop()
        if part < n:
            kept[part] = True
        else:
            left += wanted(part - n)
    return kept


def _milp(programme: Programme, time_limit: float, *, is_relaxed: bool = False) -> Solution | None:
    """What HiGHS finds; only candidates are integral, the rest follows from them. None: it found nothing."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    n, m, k = len(programme.rewards), len(programme.ancestor_parents), programme.num_clusters
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    count = 0

    def row(*entries: tuple[int, float]) -> None:
        nonlocal count
        for column, value in entries:
            rows.append(count)
            columns.append(column)
            values.append(value)
        count += 1

    below: dict[int, list[int]] = {}
    for node, parent in enumerate([*programme.parents, *programme.ancestor_parents]):
        if parent >= 0:
            row((node, 1.0), (n + parent, -1.0))  # kept only with its parent
            below.setdefault(parent, []).append(node)
    if not programme.cost_weight:  # and a parent only with a child, which goes without saying where it costs
        for j in range(m):
            row((n + j, 1.0), *((child, -1.0) for child in below.get(j, ())))
    members: dict[int, list[int]] = {}
    for i, label in enumerate(programme.clusters or ()):
        members.setdefault(label, []).append(i)
    for label, inside in members.items():
        row((n + m + label, 1.0), *((i, -1.0) for i in inside))
    row(*((i, -1.0) for i in range(n)))
    upper = np.zeros(count)
    upper[-1] = -1.0
    objective = np.concatenate(
        [-programme.gains, programme.prices[n:], np.full(k, -programme.coverage_weight / max(k, 1))]
    )
    integrality = np.zeros(n + m + k)
    integrality[:n] = 0 if is_relaxed else 1
    result = milp(
        objective,
        integrality=integrality,
        bounds=Bounds(0, np.concatenate([_useful(programme), np.ones(m + k)])),
        constraints=LinearConstraint(coo_array((values, (rows, columns)), shape=(count, n + m + k)).tocsr(), ub=upper),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    kept = np.asarray(result.x[:n]) > 0.5
    if not kept.any():
        kept[int(np.argmax(result.x[:n]))] = True
    return Solution(kept, "optimal" if result.status == 0 else "incumbent")


def _useful(programme: Programme) -> NDArray[np.float64]:
    """(N,): 0 for candidates that the optimum can do without, so that the solver need not look at them: those worth
    nothing by themselves when another one of the same parent and cluster is worth as much."""
    useful = programme.gains > 0
    best: dict[tuple[int, int], int] = {}
    labels = programme.clusters or [0] * len(programme.rewards)
    for i, place in enumerate(zip(programme.parents, labels, strict=True)):
        if place not in best or programme.gains[i] > programme.gains[best[place]]:
            best[place] = i
    useful[list(best.values())] = True
    return useful.astype(np.float64)


def _cover(programme: Programme, kept: Kept) -> Kept:
    """Add the best candidate of every uncovered cluster that is worth its own cost and that of its new ancestors."""
    assert programme.clusters is not None
    n, kept = len(programme.rewards), kept.copy()
    alive = {j for i in np.flatnonzero(kept) for j in programme.lineages[i]}
    covered = {programme.clusters[i] for i in np.flatnonzero(kept)}
    worth = programme.coverage_weight / programme.num_clusters

    def gain(i: int) -> float:
        return float(programme.gains[i] - sum(programme.prices[n + j] for j in programme.lineages[i] if j not in alive))

    for label in range(programme.num_clusters):
        if label in covered:
            continue
        best = max((i for i in range(n) if programme.clusters[i] == label), key=lambda i: (gain(i), -i))
        if worth + gain(best) > 0:
            kept[best] = True
            alive.update(programme.lineages[best])
    return kept
