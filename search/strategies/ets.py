"""ETS: REBASE on the part of the tree that is worth its KV and covers what the steps say (arXiv 2502.13575)."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import Field, model_validator

from ..allocation import balance
from ..node import Frontier, Selection, ancestors
from .base import Strategy

DISTANCE = 0.05
"""Cosine distance of steps that say the same, by the paper's sentence model."""
SENTENCE_MODEL = "sentence-transformers:math-similarity/Bert-MLM_arXiv-MP-class_zbMath"
PAPER = {"cost": "nodes", "cluster_distance": DISTANCE, "cost_weight": 1.0, "temperature": 0.2}
COVERAGE_WEIGHTS = {16: 1.5, 64: 1.4, 256: 1.45}
"""Released values by width; others take that of the next smaller width."""


class ETS(Strategy):
    """Efficient tree search.

    REBASE's shares are the rewards of an integer programme (`programme.Programme`) that weighs them against the KV
    blocks that candidates and their ancestors hold, and against coverage of the clusters of step embeddings. What it
    does not keep is pruned; REBASE then shares the whole budget among the rest.
    """

    strategy: Literal["ets"] = "ets"
    """The strategy's name."""
    temperature: float = Field(default=0.2, gt=0)
    """Of REBASE's softmax."""
    cost_weight: float = Field(default=1.0, ge=0)
    """Price of the whole live tree, in shares of the reward (lambda_c)."""
    coverage_weight: float | None = Field(default=None, ge=0)
    """Worth of covering every cluster (lambda_s); None: the released value for the width; 0: no coverage, and no
    embeddings are needed."""
    cost: Literal["blocks", "nodes"] = "blocks"
    """What keeping a step costs: the KV blocks that it alone holds, or 1, as in the paper, however long it is."""
    cluster_distance: float | None = Field(default=None, gt=0)
    """Cosine distance up to which steps count as saying the same. None: the paper's 0.05 for sentence models; of hidden
    states, which lie at distances of their own with every model, a share of the level's median distance
    (`clustering.own_distance`). `clusters` in the result's `details["levels"]` tells what came of it."""
    floor: bool = False
    """Give every kept candidate a continuation first, best scores first, and share out the rest. As published, one that
    is kept for coverage alone often gets none."""
    time_limit: float = Field(default=0.5, gt=0)
    """Seconds for the solver."""

    def coverage(self, width: int) -> float:
        """The weight of coverage at a width."""
        if self.coverage_weight is not None:
            return self.coverage_weight
        return COVERAGE_WEIGHTS[max((w for w in COVERAGE_WEIGHTS if w <= width), default=min(COVERAGE_WEIGHTS))]

    preset: Literal["paper"] | None = None
    """`paper`: cost in nodes, and the paper's sentence model and distance for the clusters; all of it may be set
    otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: object) -> object:
        return {**PAPER, **data} if isinstance(data, dict) and data.get("preset") == "paper" else data

    @property
    def embedding(self) -> str:
        return SENTENCE_MODEL if self.preset == "paper" else super().embedding

    @property
    def uses_embeddings(self) -> bool:
        return self.coverage_weight != 0

    def select(self, frontier: Frontier) -> Selection:
        from ..clustering import cluster, own_distance  # numpy takes its time to import
        from ..programme import Programme, solve

        nodes, budget = frontier.nodes, frontier.budget
        scores, copies = [node.score for node in nodes], [node.copies for node in nodes]
        shares = balance(scores, budget, self.temperature, copies)
        if len(nodes) == 1 or not any(shares):
            return Selection(counts=shares)
        labels, notes = None, {}
        if self.uses_embeddings and len({node.text for node in nodes}) > 1:
            embeddings = [node.embedding for node in nodes]
            distance = self.cluster_distance or (own_distance(embeddings) if frontier.is_hidden else DISTANCE)
            labels, notes = cluster(embeddings, distance), {"cluster_distance": distance}
            labels = labels if max(labels) > 0 else None  # one cluster: covered whatever is kept
        above = ancestors(nodes)
        places = {node: j for j, node in enumerate(above)}
        programme = Programme(
            rewards=[share / budget for share in shares],
            parents=[-1 if node.parent is None else places[node.parent] for node in nodes],
            ancestor_parents=[-1 if node.parent is None else places[node.parent] for node in above],
            costs=[node.blocks if self.cost == "blocks" else 1 for node in (*nodes, *above)],
            clusters=labels,
            cost_weight=self.cost_weight,
            coverage_weight=self.coverage(frontier.width),
        )
        start = time.perf_counter()
        solution = solve(programme, self.time_limit)
        seconds = time.perf_counter() - start
        kept = [score if keep else float("-inf") for score, keep in zip(scores, solution.kept, strict=True)]
        counts = self._counts(kept, budget, copies)
        return Selection(
            counts=counts,
            notes={
                "ancestors": len(above),
                "clusters": programme.num_clusters,
                "kept": int(solution.kept.sum()),
                "solver": solution.method,
                "solver_seconds": seconds,
                **notes,
            },
        )

    def _counts(self, scores: list[float], budget: int, copies: list[int]) -> list[int]:
        first = [0] * len(scores)
        if self.floor:
            best = sorted((i for i, s in enumerate(scores) if s > float("-inf")), key=lambda i: (-scores[i], i))
            for i in best[:budget]:
                first[i] = 1
        rest = balance(scores, budget - sum(first), self.temperature, copies)
        return [a + b for a, b in zip(first, rest, strict=True)]
