"""REBASE's allocation: golden values, and what holds for all scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.search.allocation import balance, spread

scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("given_scores", "budget", "counts"),
    [
        ((0.9, 0.8, 0.5, 0.5), 8, [5, 3, 0, 0]),
        ((0.7, 0.7, 0.7, 0.7), 3, [1, 1, 1, 0]),
        ((0.7, 0.7, 0.7), 16, [6, 5, 5]),
        ((0.9, 0.85, 0.7, 0.3, 0.4), 8, [4, 3, 1, 0, 0]),
        ((0.5,), 7, [7]),
        ((0.5, 0.6), 0, [0, 0]),
    ],
)
def test_golden_values(given_scores, budget, counts):
    assert balance(given_scores, budget, 0.2) == counts


@given(scores, st.integers(1, 300), st.sampled_from([0.05, 0.2, 5.0]))
def test_the_whole_budget_is_spent_and_better_ones_get_no_less(values, budget, temperature):
    counts = balance(values, budget, temperature)
    assert sum(counts) == budget and min(counts) >= 0
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert [counts[i] for i in order] == sorted(counts, reverse=True)


@given(scores, st.integers(1, 300))
def test_unbounded_rewards_are_no_problem(values, budget):
    counts = balance([1e4 * value for value in values], budget, 0.2)
    assert sum(counts) == budget and counts[values.index(max(values))] > 0


def test_what_has_no_score_gets_nothing():
    assert balance([math.nan, 0.5, -math.inf], 4, 0.2) == [0, 4, 0]
    assert balance([math.nan, -math.inf], 4, 0.2) == [0, 0]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=12), st.integers(1, 64))
def test_copies_weigh_as_much_as_they_would_apart(nodes, budget):
    counts = balance([s for s, _ in nodes], budget, 0.2, [n for _, n in nodes])
    apart = balance([s for s, n in nodes for _ in range(n)], budget, 0.2)
    assert sum(counts) == budget
    best = max(range(len(nodes)), key=lambda i: (nodes[i][0], -i))
    at = sum(n for _, n in nodes[:best])
    # The best one's share is rounded up once instead of once per copy.
    assert 0 <= sum(apart[at : at + nodes[best][1]]) - counts[best] <= nodes[best][1]


def test_equal_parts():
    assert spread(7, 3) == [3, 2, 2] and spread(2, 4) == [1, 1, 0, 0]
