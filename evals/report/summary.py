"""From rows to figures: one `Cell` per method, budget and context window, and comparisons between methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from ..rows import Key, Row, Unit
from ..stats import Difference, bootstrap, cons_at_k, paired_bootstrap, pass_at_k, wilson


@dataclass(frozen=True)
class Cell:
    """All rows of one method within one budget and context window; means are over rows, wrong ones included."""

    method: str
    budget: int
    window: int | None
    problems: tuple[tuple[Row, ...], ...]
    """The attempts at each problem, in order."""

    @cached_property
    def rows(self) -> list[Row]:
        return [row for attempts in self.problems for row in attempts]

    @property
    def attempts(self) -> int:
        """Per problem; the smallest number while the evaluation is incomplete."""
        return min(len(attempts) for attempts in self.problems)

    @property
    def correct(self) -> int:
        return sum(row.correct for row in self.rows)

    @property
    def rates(self) -> list[float]:
        """Share of correct attempts, by problem."""
        return [fmean(row.correct for row in attempts) for attempts in self.problems]

    @property
    def accuracy(self) -> float:
        return fmean(self.rates)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % of the accuracy: Wilson's for one attempt each, else bootstrapped over problems (attempts at one problem
        are not independent)."""
        if all(len(attempts) == 1 for attempts in self.problems):
            return wilson(self.correct, len(self.rows))
        return bootstrap(self.rates)

    def pass_at(self, k: int) -> float:
        return fmean(pass_at_k(len(tries), sum(row.correct for row in tries), k) for tries in self.problems)

    def cons_at(self, k: int) -> float:
        """With the first k attempts."""
        return fmean(
            cons_at_k([row.extracted for row in tries], [row.correct for row in tries], k) for tries in self.problems
        )

    @property
    def ks(self) -> list[int]:
        """1, 2, 4, ... and the number of attempts."""
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

    def measured(self, name: str) -> float | None:
        """Mean of a field of `Measured`; None unless every row was measured."""
        values = [getattr(row.measured, name) for row in self.rows if row.measured is not None]
        return fmean(values) if len(values) == len(self.rows) else None

    @property
    def counts(self) -> Counter[str]:
        """What the method had to put up with, summed."""
        return sum((Counter(row.counts) for row in self.rows), Counter())

    @property
    def failed(self) -> int:
        return sum(row.error is not None for row in self.rows)


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
            whole = [[units[key] for key in tries] for tries in keys if all(key in units for key in tries)]
            for place, window in enumerate(windows):
                if whole:
                    rows = tuple(tuple(unit.rows[place] for unit in tries) for tries in whole)
                    found.append(Cell(method, budget, window, rows))
    return found


def compare(cell: Cell, baseline: Cell) -> Difference:
    """Accuracy of the cell less that of the baseline, on the same problems."""
    return paired_bootstrap(cell.rates, baseline.rates)
