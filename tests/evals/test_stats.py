"""Estimators against brute force, published values and scipy."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from plait.evals.stats import clustered_wilson, cons_at_k, mcnemar, paired_bootstrap, pass_at_k, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_equal_published_ones(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_equal_scipy(case):
    successes, trials = case
    interval = scipy_stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_wilson_rejects_nonsense():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2"):
        wilson(3, 2)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(attempts, data):
    k = data.draw(st.integers(1, len(attempts)))
    subsets = list(combinations(attempts, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(attempts), sum(attempts), k) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "c", "k"), [(200, 13, 1), (200, 13, 10), (200, 13, 100), (200, 0, 5), (200, 200, 1)])
def test_pass_at_k_is_hypergeometric(n, c, k):
    assert pass_at_k(n, c, k) == pytest.approx(1 - scipy_stats.hypergeom(n, c, k).pmf(0))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 0), (3, 1, 4), (3, -1, 1)])
def test_pass_at_k_rejects_nonsense(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_cons_at_k_votes_among_the_first_k():
    answers, correct = ["7", None, "8", "8", "7", "7"], [True, False, False, False, True, True]
    assert [cons_at_k(answers, correct, k) for k in range(1, 7)] == [True, True, True, False, True, True]
    assert not cons_at_k([None, None], [False, False], 2)


def test_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.7, rng.random(400) < 0.6
    found = paired_bootstrap(a.tolist(), b.tolist())
    differences = a.astype(float) - b
    error = differences.std() / math.sqrt(400)
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx(
        (found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.1 * error
    )
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(abs(found.mean) / error), abs=0.02)
    assert found == paired_bootstrap(a.tolist(), b.tolist())


def test_the_paired_bootstrap_agrees_with_scipy():
    values = [0.0, 0.25, 0.25, 0.5, 1.0, 0.75, 0.5, 0.0, 0.0, 1.0, 0.25, 0.5]
    interval = scipy_stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    expected = interval.confidence_interval
    found = paired_bootstrap(values, [0.0] * len(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.025)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_with_one_attempt_the_clustered_interval_is_wilsons(correct):
    assert clustered_wilson(list(map(float, correct)), 1) == pytest.approx(wilson(sum(correct), len(correct)))


@given(st.integers(1, 8).flatmap(lambda k: st.tuples(st.lists(st.integers(0, k), min_size=1, max_size=30), st.just(k))))
def test_the_clustered_interval_is_between_those_of_problems_and_of_attempts(case):
    solved, attempts = case
    count = len(solved)
    rates = [n / attempts for n in solved]
    p = sum(rates) / count
    low, high = clustered_wilson(rates, attempts)
    assert low <= p + 1e-12 and high >= p - 1e-12 and high - low > 0.01
    widest, narrowest = wilson(p * count, count), wilson(p * count * attempts, count * attempts)
    assert widest[0] - 1e-9 <= low <= narrowest[0] + 1e-9 and narrowest[1] - 1e-9 <= high <= widest[1] + 1e-9


@pytest.mark.parametrize("attempts", [1, 4])
def test_nothing_solved_is_no_certainty(attempts):
    assert clustered_wilson([0.0] * 8, attempts) == pytest.approx((0, 0.3244), abs=1e-4)
    assert clustered_wilson([1.0] * 8, attempts) == pytest.approx((1 - 0.3244, 1), abs=1e-4)
    assert clustered_wilson([], attempts) == (0.0, 1.0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.9), (5, 2), (0.5, 20)])
def test_the_clustered_interval_covers_the_mean(alpha, beta):
    """Problems of very different, of similar and of hopeless difficulty, four attempts each."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(4, rng.beta(alpha, beta, size=(1500, 60))) / 4
    intervals = [clustered_wilson(list(map(float, row)), 4) for row in rates]
    assert 0.93 < np.mean([low <= alpha / (alpha + beta) <= high for low, high in intervals]) < 0.975


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_mcnemar_is_the_sign_test_over_all_ways_to_turn_the_discordant_pairs(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    discordant = sum(x != y for x, y in pairs)
    gap = abs(sum(a) - sum(b))
    extreme = sum(math.comb(discordant, k) for k in range(discordant + 1) if abs(2 * k - discordant) >= gap)
    assert mcnemar(a, b) == pytest.approx(extreme / 2**discordant)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_pairs_matter():
    """Methods that differ on few problems are told apart although their intervals overlap."""
    b = [1.0, 0.0] * 50
    a = [1.0] * 10 + b[10:]
    assert paired_bootstrap(a, b).p < 0.1
    assert paired_bootstrap(a, a).p == 1.0
    assert wilson(55, 100)[0] < wilson(50, 100)[1]


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 0.0])])
def test_pairs_are_needed(a, b):
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap(a, b)
    with pytest.raises(ValueError, match="pairs"):
        mcnemar(a, b)
