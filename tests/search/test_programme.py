"""ETS's integer programme: golden values, the optimum against all subsets, and every way to fall short of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.search import programme as module
from plait.search.programme import Programme, keep_by_tree, solve

GOLDEN = [4 / 8, 3 / 8, 1 / 8, 0, 0]
"""Shares of a1 .9, a2 .85 below A; b1 .7, b2 .3 below B; c1 .4 below C; budget 8."""


def golden(**values):
    return Programme(rewards=GOLDEN, parents=[1, 1, 2, 2, 3], ancestor_parents=[-1, 0, 0, 0], costs=[1] * 9, **values)


@pytest.mark.parametrize(
    ("values", "kept", "value"),
    [
        ({}, [1, 1, 0, 0, 0], 0.4306),
        ({"clusters": [0, 0, 0, 1, 2], "coverage_weight": 1.5}, [1, 1, 1, 1, 1], 1.5),
        ({"cost_weight": 10}, [1, 0, 0, 0, 0], -2.8333),
    ],
)
def test_golden_values(values, kept, value):
    programme = golden(**values)
    solution = solve(programme)
    assert solution.kept.tolist() == [bool(x) for x in kept]
    assert programme.value(solution.kept) == pytest.approx(value, abs=1e-4)


@st.composite
def programmes(draw, most=9, cluster=True):
    """A random forest: candidates below ancestors of up to four levels, some of them at the top."""
    n, m = draw(st.integers(1, most)), draw(st.integers(0, 6))
    above = [draw(st.integers(-1 if j == 0 or draw(st.booleans()) else 0, j - 1)) for j in range(m)]
    labels = [draw(st.integers(0, n - 1)) for _ in range(n)]
    names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return Programme(
        rewards=[draw(st.integers(0, 4)) / 8 for _ in range(n)],
        parents=[draw(st.integers(-1, m - 1)) for _ in range(n)],
        ancestor_parents=above,
        costs=[draw(st.integers(0, 5)) for _ in range(n + m)],
        clusters=[names[label] for label in labels] if cluster else None,
        cost_weight=draw(st.sampled_from([0, 0.3, 1, 10])),
        coverage_weight=draw(st.sampled_from([0.2, 1.5, 50])) if cluster else 0,
    )


def best_value(programme):
    """By trying all subsets, with a value of its own making."""
    n = len(programme.rewards)
    costs = np.asarray(programme.costs, float)
    costs = costs / costs.sum() if costs.sum() else costs
    lineages = []
    for parent in programme.parents:
        lineage = set()
        while parent >= 0:
            lineage.add(n + parent)
            parent = programme.ancestor_parents[parent]
        lineages.append(lineage)
    best = -np.inf
    for kept in itertools.product([False, True], repeat=n):
        chosen = [i for i in range(n) if kept[i]]
        if not chosen:
            continue
        nodes = set(chosen).union(*(lineages[i] for i in chosen))
        value = sum(programme.rewards[i] for i in chosen) - (programme.cost_weight or -1e-4) * sum(costs[list(nodes)])
        if programme.clusters is not None:
            value += (
                programme.coverage_weight * len({programme.clusters[i] for i in chosen}) / (max(programme.clusters) + 1)
            )
        best = max(best, value)
    return best


@settings(max_examples=100, deadline=None)
@given(programmes())
def test_the_solver_finds_the_optimum(programme):
    solution = solve(programme)
    assert solution.method == "optimal" and solution.kept.any()
    assert programme.value(solution.kept) == pytest.approx(best_value(programme), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(programmes(cluster=False))
def test_without_coverage_the_tree_is_enough(programme):
    solution = solve(programme)
    assert solution.method == "tree" and solution.kept.any()
    assert programme.value(solution.kept) == pytest.approx(best_value(programme), abs=1e-6)


def random_programme(seed, n, **values):
    rng = np.random.default_rng(seed)
    m = n // 2
    above = [-1, *(int(rng.integers(0, j)) for j in range(1, m))]
    rewards = rng.beta(4, 2, n) * (rng.random(n) < 0.6)
    labels = {label: i for i, label in enumerate(dict.fromkeys(rng.integers(0, max(2, n // 3), n).tolist()))}
    found = rng.integers(0, len(labels), n)
    found[: len(labels)] = range(len(labels))
    defaults = {"clusters": found.tolist(), "cost_weight": 1.0, "coverage_weight": 1.4}
    return Programme(
        rewards=(rewards / max(rewards.sum(), 1e-9)).tolist(),
        parents=rng.integers(0, m, n).tolist(),
        ancestor_parents=above,
        costs=rng.integers(1, 4, n + m).tolist(),
        **{**defaults, **values},
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_of_fourteen_leaves(seed):
    programme = random_programme(seed, 14)
    assert programme.value(solve(programme).kept) == pytest.approx(best_value(programme), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_agrees_with_the_solver_on_large_ones(seed):
    programme = random_programme(seed, 200, clusters=None, coverage_weight=0.0)
    found = module._milp(programme, 5.0)
    assert programme.value(keep_by_tree(programme)) == pytest.approx(programme.value(found.kept), abs=1e-6)


def test_huge_weights():
    programme = random_programme(1, 60, cost_weight=1000.0, coverage_weight=0.0)
    assert solve(programme).kept.sum() == 1
    programme = random_programme(1, 60, coverage_weight=1000.0)
    covered = {c for c, keep in zip(programme.clusters, solve(programme).kept, strict=True) if keep}
    assert covered == set(programme.clusters)
    programme = random_programme(1, 60, cost_weight=0.0)
    assert solve(programme).kept.all()


@pytest.mark.parametrize("n", [300, 2000])
def test_what_costs_nothing_is_kept_on_wide_levels_too(n):
    programme = random_programme(1, n, cost_weight=0.0, clusters=None, coverage_weight=0.0)
    assert solve(programme).kept.all()


@pytest.mark.parametrize(
    ("parents", "ancestors", "costs", "clusters"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 1, 4], [-1, 0, 0, 0, 0, 4], [0] * 13 + [1, 0], [0] * 9),
        ([-1, 0], [-1], [0, 0, 3], [0, 0]),
        ([1, -1, -1], [-1, -1, 1], [0, 3, 1, 0, 1, 0], [0, 0, 1]),
    ],
)
def test_an_ancestor_with_nothing_below_it_is_worth_nothing(parents, ancestors, costs, clusters):
    """Where nothing costs, the largest tree is wanted: one with the ancestor needs the candidate below it."""
    programme = Programme(
        rewards=[0.0] * len(parents),
        parents=parents,
        ancestor_parents=ancestors,
        costs=costs,
        clusters=clusters,
        cost_weight=0,
        coverage_weight=0.2,
    )
    assert programme.value(solve(programme).kept) == pytest.approx(best_value(programme), abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(programmes(), st.data())
def test_clusters_are_covered_by_who_adds_most_as_long_as_that_is_worth_it(programme, data):
    n = len(programme.rewards)
    start = np.zeros(n, dtype=bool)
    start[data.draw(st.integers(0, n - 1))] = True
    kept = start.copy()
    for label in range(programme.num_clusters):
        members = [i for i in range(n) if programme.clusters[i] == label]
        if kept[members].any():
            continue
        with_one = []
        for i in members:
            more = kept.copy()
            more[i] = True
            with_one.append(more)
        best = max(map(programme.value, with_one))
        if abs(best - programme.value(kept)) < 1e-9:
            return  # as good with it as without
        if best > programme.value(kept):
            equal = [more for more in with_one if programme.value(more) > best - 1e-9]
            found = module._cover(programme, start)
            kept = next((more for more in equal if (found[members] == more[members]).all()), equal[0])
    assert module._cover(programme, start).tolist() == kept.tolist()


def test_equal_candidates_are_told_apart_by_their_place():
    programme = Programme(
        rewards=[0.25] * 4, parents=[0] * 4, ancestor_parents=[-1], costs=[1] * 5, cost_weight=10, coverage_weight=0
    )
    assert solve(programme).kept.tolist() == [True, False, False, False]


@pytest.mark.parametrize("outcome", ["nothing", "relaxed only"])
@pytest.mark.parametrize("seed", range(4))
def test_without_an_answer_from_the_solver(monkeypatch, outcome, seed):
    programme = random_programme(seed, 40)
    real, best = module._milp, programme.value(solve(programme).kept)

    def fails(programme, time_limit, *, is_relaxed=False):
        return real(programme, time_limit, is_relaxed=True) if is_relaxed and outcome == "relaxed only" else None

    monkeypatch.setattr(module, "_milp", fails)
    solution = solve(programme)
    assert solution.method == "rounded" and solution.kept.any()
    value = programme.value(solution.kept)
    assert programme.value(keep_by_tree(programme)) <= value <= best + 1e-6
    assert value > 0.9 * best


def test_the_time_limit_holds():
    programme = random_programme(0, 400)
    solution = solve(programme, time_limit=1e-6)
    assert solution.method in ("incumbent", "rounded", "optimal") and solution.kept.any()


@pytest.mark.parametrize(
    "values",
    [
        {"rewards": []},
        {"costs": [1] * 8},
        {"ancestor_parents": [0, 0, 0, 0]},
        {"clusters": [0]},
    ],
)
def test_malformed_ones_are_refused(values):
    with pytest.raises(ValueError, match="."):
        Programme(
            **{
                "rewards": GOLDEN,
                "parents": [1, 1, 2, 2, 3],
                "ancestor_parents": [-1, 0, 0, 0],
                "costs": [1] * 9,
                **values,
            }
        )
