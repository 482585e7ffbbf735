"""From rows to figures: one `Cell` per method, budget and context window, and comparisons between methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from ..rows import Key, Row, Unit
from ..stats import Difference, clustered_wilson, cons_at_k, mcnemar, paired_bootstrap, pass_at_k, sign_flip


@dataclass(frozen=True)
class Cell:
    """All rows of one method within one budget and context window.

    Failed rows are neither right nor wrong: shares are of the others. Means of costs are over all rows.
    """

    method: str
    budget: int
    window: int | None
    problems: dict[str, tuple[Row, ...]]
    """Id of a problem -> the attempts at it, in order."""

    @cached_property
    def rows(self) -> list[Row]:
        return [row for attempts in self.problems.values() for row in attempts]

    @cached_property
    def judged(self) -> dict[str, tuple[Row, ...]]:
        """The attempts that have a verdict, of problems of which one has."""
        found = {id: tuple(row for row in rows if row.error is None) for id, rows in self.problems.items()}
        return {id: rows for id, rows in found.items() if rows}

    @property
    def num_judged(self) -> int:
        return sum(map(len, self.judged.values()))

    @property
    def attempts(self) -> int:
        """With a verdict, per problem; the smallest number where some failed."""
        return min(map(len, self.judged.values()), default=0)

    @property
    def has_one_attempt(self) -> bool:
        return all(len(attempts) == 1 for attempts in self.problems.values())

    @property
    def correct(self) -> int:
        return sum(row.correct for rows in self.judged.values() for row in rows)

    @cached_property
    def rates(self) -> dict[str, float]:
        """Id of a problem -> share of its attempts with a verdict that are correct."""
        return {id: fmean(row.correct for row in rows) for id, rows in self.judged.items()}

    @property
    def accuracy(self) -> float | None:
        """None: everything failed."""
        return fmean(self.rates.values()) if self.rates else None

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % of the accuracy."""
        return clustered_wilson(list(self.rates.values()), max(map(len, self.judged.values()), default=0))

    def pass_at(self, k: int) -> float:
        tries = self.judged.values()
        return fmean(pass_at_k(len(rows), sum(row.correct for row in rows), k) for rows in tries)

    def cons_at(self, k: int) -> float:
        """With the first k attempts."""
        tries = self.judged.values()
        return fmean(cons_at_k([row.extracted for row in rows], [row.correct for row in rows], k) for rows in tries)

    @property
    def ks(self) -> list[int]:
        """1, 2, 4, ... and the number of attempts."""
        if not self.attempts:
            return []
        powers = [1 << i for i in range(self.attempts.bit_length()) if 1 << i < self.attempts]
        return [*powers, self.attempts]

    def mean(self, value: Callable[[Row], float]) -> float:
        return fmean(map(value, self.rows))

    @property
    def total_tokens(self) -> float:
        return self.mean(lambda row: row.total_tokens)

    @property
    def critical_tokens(self) -> float:
        return self.mean(lambda row: row.critical_tokens)

    @property
    def parallelism(self) -> float | None:
        """Total over critical-path tokens, both summed: work over span."""
        critical = sum(row.critical_tokens for row in self.rows)
        return sum(row.total_tokens for row in self.rows) / critical if critical else None

    @property
    def num_parallel(self) -> float | None:
        """Multiverse's "# parallel" (arXiv 2506.09991, section 6): tokens over those of the critical path, the mean
        over jobs; None: no job wrote any."""
        ratios = [row.total_tokens / row.critical_tokens for row in self.rows if row.critical_tokens]
        return fmean(ratios) if ratios else None

    def measured(self, name: str) -> float | None:
        """Mean of a field of `Measured`; None unless every row was measured."""
        values = [getattr(row.measured, name) for row in self.rows if row.measured is not None]
        return fmean(values) if len(values) == len(self.rows) else None

    @property
    def counts(self) -> Counter[str]:
        """What the method had to put up with, summed."""
        return sum((Counter(row.counts) for row in self.rows), Counter())

    @property
    def failures(self) -> Counter[str]:
        """How the jobs without a verdict ended."""
        return Counter(row.finish for row in self.rows if row.error is not None)


def cells(
    units: dict[Key, Unit],
    methods: Sequence[tuple[str, int]],
    budgets: int,
    windows: Sequence[int | None],
    samples: Iterable[str],
) -> list[Cell]:
    """Cells in the grid's order: by budget, method and window. `methods`: names and numbers of attempts.

    Problems of which an attempt is missing are left out.
    """
    samples = list(samples)
    found = []
    for budget in range(budgets):
        for method, attempts in methods:
            keys = [
                [Key(method=method, budget=budget, sample=sample, attempt=i) for i in range(attempts)]
                for sample in samples
            ]
            whole = {
                sample: [units[key] for key in tries]
                for sample, tries in zip(samples, keys, strict=True)
                if all(key in units for key in tries)
            }
            for place, window in enumerate(windows):
                if whole:
                    rows = {sample: tuple(unit.rows[place] for unit in tries) for sample, tries in whole.items()}
                    found.append(Cell(method, budget, window, rows))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of two methods, on the problems that both have a verdict on."""

    difference: Difference
    """Of the accuracies; the interval is the bootstrap's."""
    p: float
    test: str
    """What gave `p`."""
    problems: int


def compare(cell: Cell, baseline: Cell) -> Comparison | None:
    """The cell less the baseline; None: no problem in common. The test is McNemar's with one attempt per problem, else
    the permutation test that it is a case of."""
    common = [id for id in cell.rates if id in baseline.rates]
    if not common:
        return None
    a, b = [cell.rates[id] for id in common], [baseline.rates[id] for id in common]
    if cell.has_one_attempt and baseline.has_one_attempt:
        p, test = mcnemar([rate == 1 for rate in a], [rate == 1 for rate in b]), "exact McNemar"
    else:
        p, test = sign_flip(a, b), "sign-flip permutation"
    return Comparison(difference=paired_bootstrap(a, b), p=p, test=test, problems=len(common))
