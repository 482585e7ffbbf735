"""Credit: which advantage each thread of a rollout gets, and how much it weighs.

A *rollout* is one job; what its model sampled under one view is a *call* (a main call or a child of APR, a path or a
line of Multiverse, a step of a search). Rollouts of one prompt are a *group*. All functions are pure; None stands for
an outcome that nobody could judge, which is neither right nor wrong: its advantage is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Literal, NamedTuple

Mode = Literal["shared", "per_thread", "tree"]
Scale = Literal["std", "none"]
Weights = Literal["calls", "tokens"]

_TINY = 1e-10
"""Keeps the advantage finite where a group hardly differs (arXiv 2504.15466, released code)."""


def normalised(rewards: Sequence[float | None], scale: Scale = "std") -> list[float]:
    """Rewards of a group less their mean, by their standard deviation (of the population) if `scale` says so.

    All are 0 where no two differ. P-GRPO, whose acceleration term is small, leaves the division out.
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or max(known) == min(known):
        return [0.0] * len(rewards)
    mean = fmean(known)
    width = pstdev(known) + _TINY if scale == "std" else 1.0
    return [0.0 if reward is None else (reward - mean) / width for reward in rewards]


def accelerated(outcome: float | None, critical: int, total: int, factor: float) -> float | None:
    """A right outcome is worth more the shorter its critical path is against all of its tokens.

    P-GRPO's acceleration term, `1 - critical / total`, times `factor`; what is wrong gets nothing for being fast.
    """
    if not outcome or not factor or total <= 0:
        return outcome
    return outcome + factor * (1.0 - critical / total)


def shared(advantage: float, branches: Iterable[str]) -> dict[str, float]:
    """Every thread gets the rollout's advantage (arXiv 2504.15466, section 3.4)."""
    return dict.fromkeys(branches, advantage)


class Told(NamedTuple):
    """What a child was asked, and the verdict on what it told: 1 if that was the truth, else 0."""

    question: str
    verdict: float | None


def per_thread(told: Sequence[Mapping[str, Told]], scale: Scale = "std") -> list[dict[str, float]]:
    """Children by what they told, for a whole group; threads that nobody judges keep their rollout's advantage.

    `told`: for each rollout, by child branch. Children that were asked the same question, in whichever rollout, are a
    group of their own. Measured against all the others they would learn what most questions have in common: that there
    is no solution.
    """
    places: dict[str, list[tuple[int, str]]] = {}
    for i, children in enumerate(told):
        for branch, one in children.items():
            places.setdefault(one.question, []).append((i, branch))
    found: list[dict[str, float]] = [{} for _ in told]
    for asked in places.values():
        advantages = normalised([told[i][branch].verdict for i, branch in asked], scale)
        for (i, branch), advantage in zip(asked, advantages, strict=True):
            found[i][branch] = advantage
    return found


def tree(
    advantage: float, parents: Mapping[str, str | None], outcomes: Mapping[str, float | None], scale: Scale = "std"
) -> dict[str, float]:
    """Each branch against its siblings, by the outcomes of what grew from them.

    `parents`: of all branches, None for roots, each parent before its children. `outcomes`: of the branches that have
    one of their own, mostly leaves. A branch is worth the mean of the outcomes in its subtree, and siblings are a group
    as `normalised` takes it. Roots get the rollout's advantage, and so do, from their parent, an only child, which had
    nothing to be better than, and siblings of whose subtrees nothing has an outcome: nothing tells them apart.
    """
    sums = dict.fromkeys(parents, 0.0)
    counts = dict.fromkeys(parents, 0)
    children: dict[str, list[str]] = {branch: [] for branch in parents}
    for branch, parent in parents.items():
        if parent is not None:
            children[parent].append(branch)
    for branch in reversed(list(parents)):
        own = outcomes.get(branch)
        if own is not None:
            sums[branch] += own
            counts[branch] += 1
        parent = parents[branch]
        if parent is not None:
            sums[parent] += sums[branch]
            counts[parent] += counts[branch]
    found: dict[str, float] = {}
    for branch, parent in parents.items():
        if parent is None:
            found[branch] = advantage
        siblings = children[branch]
        if len(siblings) == 1 or not any(counts[child] for child in siblings):
            found.update(dict.fromkeys(siblings, found[branch]))
            continue
        values = [sums[child] / counts[child] if counts[child] else None for child in siblings]
        found.update(zip(siblings, normalised(values, scale), strict=True))
    return found


def weights(lengths: Sequence[Sequence[int]], mode: Weights = "calls") -> list[list[float]]:
    """What a token of each call of each rollout weighs. `lengths`: tokens of the calls, for each rollout of a step.

    "calls": those of a rollout together 1, each call as much as the others, however long it is (1/n of the paper, and
    its mean over a call's tokens). "tokens": all of a step (and process) alike, those of a rollout 1 on average. Then a
    token gains nothing by standing in a short call, which the other way teaches a model to give up early (Dr. GRPO,
    arXiv 2503.20783).
    """
    if mode == "tokens":
        total = sum(map(sum, lengths))
        return [[len(lengths) / total for _ in calls] for calls in lengths]
    return [[1.0 / (len(calls) * length) for length in calls] for calls in lengths]
