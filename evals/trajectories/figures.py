"""Figures of a `CodeMonkeys` job on an instance, from its details (arXiv 2501.14723, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from statistics import fmean
from typing import Any

from ...agents.patches import touched
from ...agents.sandbox.base import Execution
from ...agents.voting import VoteRule
from .replay import Trajectories, by_votes

LIMIT = "model calls of each edit trajectory"
"""What the curves are over."""
COSTS = ("calls", "input", "cached", "output", "seconds", "price")


def costs(details: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Stage -> what it cost."""
    stages: Mapping[str, Mapping[str, Any]] = details.get("costs", {}).get("stages", {})
    return {name: {key: stage[key] for key in COSTS if key in stage} for name, stage in stages.items()}


def context_recall(gold: str, known: Collection[str], details: Mapping[str, Any]) -> float | None:
    """1 if all files of the repository that the gold patch changes were in the context, else 0; None: it is not known
    what should have been there."""
    files = set(touched(gold)) & set(known)
    if not files or "context" not in details:
        return None
    seen = {str(part).partition("::")[0] for part in details["context"].get("parts", ())}
    return float(files <= seen)


def shares(trajectories: Trajectories, candidates: Set[str], resolved: Mapping[str, bool]) -> dict[str, float]:
    """What the choice is measured against: the best candidate, one trajectory, and what most agree on without tests;
    expected values where several would do."""
    final = trajectories.patches(trajectories.calls)
    counts = Counter(patch for patch in final if patch)
    most = [patch for patch, count in counts.items() if count == max(counts.values())]
    return {
        "coverage": float(any(resolved[patch] for patch in candidates)),
        "one trajectory": fmean(patch is not None and resolved[patch] for patch in final) if final else 0.0,
        "most frequent": fmean(resolved[patch] for patch in most) if most else 0.0,
    }


def curves(
    trajectories: Trajectories,
    resolved: Mapping[str, bool],
    results: Mapping[tuple[str, str], Execution],
    rule: VoteRule,
) -> dict[str, list[float]]:
    """Would a candidate resolve the issue, and would the one that is best by votes, within 1, 2, ... calls of each
    trajectory?"""
    found: dict[str, list[float]] = {"coverage": [], "best by votes": []}
    for limit in range(1, trajectories.calls + 1):
        patches = trajectories.patches(limit)
        best = by_votes(patches, trajectories.scripts(limit), results, rule)
        found["coverage"].append(float(any(resolved[patch] for patch in patches if patch)))
        found["best by votes"].append(float(best is not None and resolved[best]))
    return found
