"""Estimators against brute force, published values and scipy."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from plait.evals.stats import (
    EXACT,
    RESAMPLES,
    clustered_wilson,
    cons_at_k,
    mcnemar,
    paired_bootstrap,
    pass_at_k,
    sign_flip,
    wilson,
)


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
    p = sign_flip(a.tolist(), b.tolist())
    assert p == pytest.approx(2 * scipy_stats.norm.sf(abs(found.mean) / error), abs=0.02)
    assert p == sign_flip(a.tolist(), b.tolist())
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


@pytest.mark.parametrize(("count", "attempts"), [(5, 16), (10, 16), (10, 4), (30, 64)])
def test_the_clustered_interval_covers_the_mean_of_few_problems(count, attempts):
    """The variance between few problems is hardly known; what is not known widens the interval."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(attempts, rng.beta(2, 2, size=(1500, count))) / attempts
    intervals = [clustered_wilson(list(map(float, row)), attempts) for row in rates]
    assert 0.935 < np.mean([low <= 0.5 <= high for low, high in intervals]) < 0.985


def test_the_effective_number_of_trials_by_hand():
    """Variance between the problems 1/15, of a trial 1/4: as good as 3.75 trials a problem, were it known."""
    trials = 4 * 3.75 * (scipy_stats.norm.ppf(0.975) / scipy_stats.t(3).ppf(0.975)) ** 2
    assert clustered_wilson([0.2, 0.4, 0.6, 0.8], 10) == pytest.approx(wilson(trials / 2, trials))


def test_of_one_problem_nothing_is_known_about_others():
    assert clustered_wilson([0.5], 16) == pytest.approx(wilson(0.5, 1))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_mcnemar_is_the_sign_test_over_all_ways_to_turn_the_discordant_pairs(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    discordant = sum(x != y for x, y in pairs)
    gap = abs(sum(a) - sum(b))
    extreme = sum(math.comb(discordant, k) for k in range(discordant + 1) if abs(2 * k - discordant) >= gap)
    assert mcnemar(a, b) == pytest.approx(extreme / 2**discordant)
    assert mcnemar(a, b) == mcnemar(b, a)


def share(attempts):
    return st.integers(0, attempts).map(lambda right: Fraction(right, attempts))


def pairs_of_shares(attempts):
    return st.lists(st.tuples(share(attempts), share(attempts)), min_size=1, max_size=8)


@given(
    st.lists(st.integers(1, 10).flatmap(pairs_of_shares), min_size=1, max_size=2).map(lambda some: sum(some, [])[:9])
)
def test_the_sign_flip_test_is_all_ways_to_turn_the_pairs(pairs):
    differences = [x - y for x, y in pairs]
    turns = product((1, -1), repeat=len(pairs))
    turned = [sum(sign * one for sign, one in zip(signs, differences, strict=True)) for signs in turns]
    expected = Fraction(sum(abs(one) >= abs(sum(differences)) for one in turned), len(turned))
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    assert sign_flip(a, b) == sign_flip(b, a) == float(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=EXACT))
def test_of_single_attempts_the_sign_flip_test_is_mcnemars(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    assert sign_flip(a, b) == pytest.approx(mcnemar(a, b), abs=1e-12)


def sums(differences):
    """Multiset of the sums of all ways to turn whole numbers, by how often each comes."""
    found = {0: 1}
    for one in differences:
        more: dict[int, int] = {}
        for total, times in found.items():
            for turned in (total + one, total - one):
                more[turned] = more.get(turned, 0) + times
        found = more
    return found


@pytest.mark.parametrize("k", [3, 4, 7])
def test_of_many_problems_ways_to_turn_them_are_drawn(k):
    rng = np.random.default_rng(k)
    a, b = rng.integers(k + 1, size=(2, 3 * EXACT))
    differences = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
    assert sum(map(bool, differences)) > EXACT
    found = sums(differences)
    expected = sum(times for one, times in found.items() if abs(one) >= abs(sum(differences))) / sum(found.values())
    p = sign_flip((a / k).tolist(), (b / k).tolist())
    assert p == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / RESAMPLES))


def test_p_is_never_0():
    for count in (1, 2, 5, EXACT):
        assert sign_flip([1.0] * count, [0.5] * count) == 2.0 ** (1 - count)
    assert sign_flip([1.0] * 100, [0.0] * 100) == 1 / (RESAMPLES + 1)


def test_pairs_matter():
    """Methods that differ on few problems are told apart although their intervals overlap."""
    b = [1.0, 0.0] * 50
    a = [1.0] * 10 + b[10:]
    assert sign_flip(a, b) == 2 * 0.5**5
    assert sign_flip(a, a) == 1.0
    assert wilson(55, 100)[0] < wilson(50, 100)[1]


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 0.0])])
def test_pairs_are_needed(a, b):
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap(a, b)
    with pytest.raises(ValueError, match="pairs"):
        sign_flip(a, b)
    with pytest.raises(ValueError, match="pairs"):
        mcnemar(a, b)
