"""The report's first line: what came out, how sure that is, and how much of the evaluation it is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .columns import baseline, difference, interval, percent
from .summary import Cell

NO_BUDGET = "no budget"
"""What a budget without limits is called."""


def headline(cells: Sequence[Cell], first: str, budgets: Sequence[str], done: int, total: int) -> str:
    """Two sentences. `first`: the method that the others are compared with; `done`: entries of the grid, of `total`."""
    return f"{_best(cells, first, budgets)} {_state(cells, done, total)}"


def _best(cells: Sequence[Cell], first: str, budgets: Sequence[str]) -> str:
    judged = [cell for cell in cells if cell.accuracy is not None]
    if not judged:
        return "There is no verdict yet."
    best = max(judged, key=lambda cell: cell.accuracy or 0.0)  # of equals the first, in the smallest window
    place = "" if best.window is None else f" in a window of {best.window:,} tokens"
    if len(budgets) > 1:
        budget = budgets[best.budget]
        place += " without a budget" if budget == NO_BUDGET else f" within {budget}"
    of = f"{best.correct:,} of {best.num_judged:,}" if best.correct else f"none of {best.num_judged:,}"
    compared = difference(best, baseline(cells, best, first))
    than = f"; less {first}: {compared}" if compared else ""
    several = len({cell.method for cell in judged}) > 1
    verb = "is best" if several and best.correct else "solves"
    return f"{best.method} {verb}: {of}, {percent(best.accuracy)} ({interval(best)}){place}{than}."


def _state(cells: Sequence[Cell], done: int, total: int) -> str:
    runs = f"{total:,} runs" if done == total else f"{done:,} of {total:,} runs"
    state = f"All {runs} are done" if done == total else f"Unfinished: {runs} are done"
    failures: Counter[str] = sum((cell.failures for cell in cells), Counter())
    if not failures:
        return f"{state}, none failed."
    which = ", ".join(f"{name} {n:,}" for name, n in sorted(failures.items()))
    return f"{state}; failed jobs ({which}) are neither right nor wrong, --retry-failed runs them again."
