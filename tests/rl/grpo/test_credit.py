"""Credit: values worked out by hand, and what holds for all groups."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.rl.grpo.credit import Told, accelerated, normalised, per_thread, shared, tree, weights

REWARDS = st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=12)


def test_a_group_by_hand():
    # Mean 1/4, standard deviation sqrt(1/4 * 3/4) = sqrt(3) / 4.
    assert normalised([1.0, 0.0, 0.0, 0.0]) == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])
    assert normalised([1.0, 0.0, 0.0, 0.0], "none") == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_what_nobody_could_judge_is_neither_right_nor_wrong():
    # Mean 1/2 and deviation 1/2 of the two that are known.
    assert normalised([1.0, None, 0.0, None]) == pytest.approx([1.0, 0.0, -1.0, 0.0])
    assert normalised([1.0, None]) == [0.0, 0.0]
    assert normalised([None, None]) == [0.0, 0.0]


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.1, 0.1, 0.1]])
def test_an_even_group_teaches_nothing(rewards):
    """0.1 has no exact mean: rounding must not be blown up."""
    assert normalised(rewards) == [0.0] * 3


@given(REWARDS)
def test_advantages_add_up_to_nothing_and_keep_the_order(rewards):
    advantages = normalised(rewards)
    assert sum(advantages) == pytest.approx(0.0, abs=1e-6)
    known = [(r, a) for r, a in zip(rewards, advantages, strict=True) if r is not None]
    for low, high in zip(sorted(known), sorted(known)[1:], strict=False):
        assert low[1] <= high[1]


def test_acceleration_is_for_right_answers_only():
    # 30 of 120 tokens are on the critical path: three quarters were saved.
    assert accelerated(1.0, critical=30, total=120, factor=0.2) == pytest.approx(1.15)
    assert accelerated(0.0, critical=30, total=120, factor=0.2) == 0.0
    assert accelerated(None, critical=30, total=120, factor=0.2) is None
    assert accelerated(1.0, critical=120, total=120, factor=0.2) == 1.0
    assert accelerated(1.0, critical=0, total=0, factor=0.2) == 1.0


def test_shared_credit():
    assert shared(-0.5, ["0", "1"]) == {"0": -0.5, "1": -0.5}


def test_children_are_measured_against_those_that_were_asked_the_same():
    # Of question p: 1, 0, 1 and one that nobody knows: mean 2/3, deviation sqrt(2)/3. Of q: 0 and 0. Of r: one alone.
    found = per_thread(
        [
            {"1": Told("p", 1.0), "2": Told("q", 0.0)},
            {"1": Told("q", 0.0), "2": Told("p", 0.0), "3": Told("p", None)},
            {},
            {"1": Told("p", 1.0), "2": Told("r", 1.0)},
        ]
    )
    assert found[0] == pytest.approx({"1": 1 / math.sqrt(2), "2": 0.0})
    assert found[1] == pytest.approx({"1": 0.0, "2": -math.sqrt(2), "3": 0.0})
    assert found[2] == {}
    assert found[3] == pytest.approx({"1": 1 / math.sqrt(2), "2": 0.0})


def test_a_tree_by_hand():
    """Root -> a (-> a0 right, a1 wrong), b (-> b0 wrong): a is worth 1/2, b nothing."""
    parents = {"r": None, "a": "r", "b": "r", "a0": "a", "a1": "a", "b0": "b"}
    found = tree(0.3, parents, {"a0": 1.0, "a1": 0.0, "b0": 0.0})
    # Siblings 1/2 and 0 differ from their mean by their deviation; b0 had no sibling and gets what b gets.
    assert found == pytest.approx({"r": 0.3, "a": 1.0, "b": -1.0, "a0": 1.0, "a1": -1.0, "b0": -1.0})
    plain = tree(0.3, parents, {"a0": 1.0, "a1": 0.0, "b0": 0.0}, "none")
    assert plain == pytest.approx({"r": 0.3, "a": 0.25, "b": -0.25, "a0": 0.5, "a1": -0.5, "b0": -0.25})


def test_pruned_subtrees_are_no_evidence():
    parents = {"r": None, "a": "r", "b": "r", "c": "r"}
    found = tree(1.0, parents, {"a": 1.0, "b": None, "c": 0.0})
    assert found == pytest.approx({"r": 1.0, "a": 1.0, "b": 0.0, "c": -1.0})


def test_an_only_child_of_the_root_gets_what_the_rollout_gets():
    assert tree(0.7, {"r": None, "a": "r"}, {"a": 1.0}) == {"r": 0.7, "a": 0.7}


def test_siblings_that_nobody_judged_get_what_their_parent_gets():
    parents = {"r": None, "a": "r", "b": "r", "a0": "a", "a1": "a", "b0": "b", "b1": "b"}
    found = tree(0.3, parents, {"a": 1.0, "b": 0.0, "b0": None})
    assert found == pytest.approx({"r": 0.3, "a": 1.0, "b": -1.0, "a0": 1.0, "a1": 1.0, "b0": -1.0, "b1": -1.0})


TREES = st.lists(st.integers(0, 10**6), max_size=12).map(
    lambda drawn: {"0": None} | {str(i): str(place % i) for i, place in enumerate(drawn, start=1)}
)
"""Parents of branches, each before its children."""


@given(TREES, st.floats(-3, 3))
def test_a_tree_without_any_outcome_has_shared_credit(parents, advantage):
    assert tree(advantage, parents, {}) == tree(advantage, parents, {"0": 1.0}) == shared(advantage, parents)


@given(TREES, st.data())
def test_siblings_add_up_to_nothing_or_get_what_their_parent_gets(parents, data):
    inner = set(parents.values())
    leaves = [branch for branch in parents if branch not in inner]
    outcomes = {leaf: data.draw(st.sampled_from([0.0, 1.0, None])) for leaf in leaves}
    found = tree(0.7, parents, outcomes)
    for parent in inner - {None}:
        siblings = [found[branch] for branch in parents if parents[branch] == parent]
        assert sum(siblings) == pytest.approx(0.0, abs=1e-6) or set(siblings) == {found[parent]}


LENGTHS = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=20), min_size=1, max_size=5)


@given(LENGTHS)
def test_a_rollout_counts_once_and_its_calls_alike(lengths):
    for calls, found in zip(lengths, weights(lengths), strict=True):
        each = [weight * length for weight, length in zip(found, calls, strict=True)]
        assert sum(each) == pytest.approx(1.0) and each == pytest.approx([1 / len(calls)] * len(calls))


@given(LENGTHS)
def test_each_token_may_weigh_the_same(lengths):
    found = weights(lengths, "tokens")
    assert len({weight for calls in found for weight in calls}) == 1
    each = [w * n for calls, own in zip(lengths, found, strict=True) for n, w in zip(calls, own, strict=True)]
    assert sum(each) == pytest.approx(len(lengths))
