"""Statistics of evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.equality.registry import text
from ..runtime.methods.answers import majority

RESAMPLES = 10_000


def wilson(successes: float, trials: float, z: float = 1.959963984540054) -> tuple[float, float]:
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
    p: float
    """Two-sided: twice the smaller share of resamples on one side of 0, at most 1."""


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Difference:
    """mean(a) - mean(b), where a[i] and b[i] are of the same problem: problems are resampled, pairs stay together.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} values: pairs are needed")
    means = _resampled(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), seed)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min(float(np.mean(means <= 0)), float(np.mean(means >= 0)))
    return Difference(mean=float(np.mean(a) - np.mean(b)), low=float(low), high=float(high), p=min(1.0, 2 * tail))


def clustered_wilson(rates: Sequence[float], attempts: int) -> tuple[float, float]:
    """95 % interval of the mean of per-problem rates, each out of about `attempts` tries: Wilson's with the effective
    number of trials.

    Tries at one problem are not independent. The design effect (L. Kish, Survey Sampling, 1965, section 8.2) says how
    many independent trials would vary as much: at least one per problem, at most all tries. With one try per problem
    this is Wilson's interval itself. Unlike a bootstrap over problems it has a width when all rates are equal, as when
    nothing was solved.
    """
    if not rates:
        return 0.0, 1.0
    count, p = len(rates), float(np.mean(rates))
    between = float(np.var(rates))
    trials = float(count)
    if 0 < p < 1:
        trials = count * min(p * (1 - p) / between, attempts) if between > 0 else float(count * attempts)
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


def _resampled(values: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # In portions: resamples x problems would not always fit into memory.
    size = max(1, 2_000_000 // len(values))
    parts = [min(size, RESAMPLES - done) for done in range(0, RESAMPLES, size)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in parts])
