"""Statistics of evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.equality.registry import text
from ..runtime.methods.answers import majority

RESAMPLES = 10_000
EXACT = 18
"""Problems with a difference of which all ways to turn it are tried; of more, `RESAMPLES` are drawn."""
_TIE = 1e-9
"""Sums of shares of attempts that are as close as this are equal but for rounding."""
_Z = 1.959963984540054


def wilson(successes: float, trials: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927); 95 % by default. No trials: (0, 1).

    Fractions of trials are for effective sample sizes.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = p + z * z / (2 * trials)
    margin = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def pass_at_k(attempts: int, correct: int, k: int) -> float:
    """Probability that k of the attempts, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of pass@k (arXiv 2107.03374, eq. 1), in its product form.
    """
    if not (0 <= correct <= attempts and 1 <= k <= attempts):
        raise ValueError(f"pass@{k} of {correct} correct in {attempts} attempts")
    if attempts - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(attempts - correct + 1, attempts + 1))


def cons_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> bool:
    """Is the majority's answer among the first k attempts correct? Attempts without an answer do not vote.

    `answers` are in a form in which equal ones look equal, as `Verdict.extracted` is.
    """
    answer, _ = majority(answers[:k], text)
    return answer is not None and correct[answers.index(answer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of two means over the same problems."""

    mean: float
    low: float
    high: float
    """95 % percentile interval."""


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Difference:
    """mean(a) - mean(b), where a[i] and b[i] are of the same problem: problems are resampled, pairs stay together.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).
    """
    differences = _differences(a, b)
    rng = np.random.default_rng(seed)
    count = len(differences)
    means = np.concatenate([differences[rng.integers(count, size=(n, count))].mean(axis=1) for n in _portions(count)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(mean=float(np.mean(a) - np.mean(b)), low=float(low), high=float(high))


def sign_flip(a: Sequence[float], b: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the permutation test of mean(a) = mean(b) over pairs (R. A. Fisher, The Design of Experiments,
    1935, section 21): were there no difference, each pair might as well be the other way round.

    Exact for up to `EXACT` pairs that differ, else by random turns, the pairs as they are counted among them (Phipson
    and Smyth, arXiv 1603.05766). Of pairs of truth values this is McNemar's test.
    """
    differences = _differences(a, b)
    differences = np.abs(differences[np.abs(differences) > _TIE])
    gap = abs(sum(a) - sum(b)) - _TIE
    count = len(differences)
    if count <= EXACT:
        sums = np.zeros(1)
        for one in differences:
            sums = np.concatenate([sums + one, sums - one])
        return float(np.mean(np.abs(sums) >= gap))
    rng = np.random.default_rng(seed)
    turns = (rng.integers(2, size=(n, count)) @ (2 * differences) - differences.sum() for n in _portions(count))
    extreme = sum(int(np.sum(np.abs(sums) >= gap)) for sums in turns)
    return (extreme + 1) / (RESAMPLES + 1)


def clustered_wilson(rates: Sequence[float], attempts: int) -> tuple[float, float]:
    """95 % interval of the mean of per-problem rates, each out of about `attempts` tries: Wilson's with the effective
    number of trials.

    Tries at one problem are not independent. The design effect (L. Kish, Survey Sampling, 1965, section 8.2) says how
    many independent trials would vary as much, at most all tries; fewer by the square of the normal over Student's
    quantile, as the variance is known from these problems alone (Korn and Graubard, Survey Methodology 24, 1998). There
    is at least one per problem: shares vary no more than single tries. With one try per problem this is Wilson's
    interval itself. Unlike a bootstrap over problems it has a width when all rates are equal, as when nothing was
    solved.
    """
    if not rates:
        return 0.0, 1.0
    from scipy.special import stdtrit  # takes a moment

    count, p = len(rates), float(np.mean(rates))
    trials = float(count)
    if 0 < p < 1 and count > 1:
        between = float(np.var(rates, ddof=1))
        per_problem = min(p * (1 - p) / between, attempts) if between > 0 else attempts
        trials = count * max(1.0, per_problem * (_Z / float(stdtrit(count - 1, 0.975))) ** 2)
    return wilson(p * trials, trials)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test (Q. McNemar, 1947): of the pairs in which only one is true, either is as
    likely to be it. No such pair: 1."""
    from scipy.stats import binomtest  # takes a moment

    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} values: pairs are needed")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} values: pairs are needed")
    return np.array([x - y for x, y in zip(a, b, strict=True)], dtype=float)


def _portions(width: int) -> list[int]:
    """Numbers of resamples to draw at a time: resamples x problems would not always fit into memory."""
    size = max(1, 2_000_000 // width)
    return [min(size, RESAMPLES - done) for done in range(0, RESAMPLES, size)]
