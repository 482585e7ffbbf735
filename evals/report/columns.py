"""The columns of the report's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .extras import flat, names, number
from .summary import Cell, compare


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    text: Callable[[Cell], str]
    is_measured: bool = False
    """Does it depend on the machine?"""


def columns(cells: Sequence[Cell], first: str, budgets: Sequence[str], has_windows: bool) -> list[Column]:
    """`first`: the method that the others are compared with. `budgets`: in words, by index."""
    found = [Column("method", lambda c: c.method)]
    if len(budgets) > 1:
        found.append(Column("budget", lambda c: budgets[c.budget]))
    if has_windows:
        found.append(Column("window", lambda c: f"{c.window:,}"))
    found += [
        Column("correct", lambda c: f"{c.correct:,} of {c.num_judged:,}"),
        Column("accuracy", lambda c: percent(c.accuracy)),
        Column("95 %", interval),
        Column(f"less {first}, 95 %, p", lambda c: difference(c, baseline(cells, c, first))),
    ]
    for k in sorted({k for cell in cells for k in cell.ks if not cell.has_one_attempt}):
        found.append(Column(f"pass@{k}", lambda c, k=k: percent(c.pass_at(k)) if k <= c.attempts else ""))  # type: ignore[misc]
        found.append(Column(f"cons@{k}", lambda c, k=k: percent(c.cons_at(k)) if k <= c.attempts else ""))  # type: ignore[misc]
    found += [
        Column(name, lambda c, name=name: percent(number(c, name)))  # type: ignore[misc]
        for name in names(one.numbers for cell in cells for one in flat(cell))
    ]
    return [
        *found,
        Column("total tokens", lambda c: f"{c.total_tokens:,.0f}"),
        Column("critical tokens", lambda c: f"{c.critical_tokens:,.0f}"),
        Column("parallelism", lambda c: "" if c.parallelism is None else f"{c.parallelism:.1f}"),
        Column("# parallel", lambda c: "" if c.num_parallel is None else f"{c.num_parallel:.2f}"),
        Column("branches", lambda c: f"{c.mean(lambda row: row.branches):,.1f}"),
        Column("malformed", lambda c: ", ".join(f"{name} {n:,}" for name, n in sorted(c.counts.items()))),
        Column("failed", lambda c: failed(c.failures)),
        Column("seconds", lambda c: _measured(c, "seconds", ".2f"), is_measured=True),
        Column("KV blocks, peak", lambda c: _measured(c, "peak_kv_blocks", ".0f"), is_measured=True),
        Column("KV blocks, mean", lambda c: _measured(c, "mean_kv_blocks", ".1f"), is_measured=True),
    ]


def baseline(cells: Sequence[Cell], cell: Cell, first: str) -> Cell | None:
    """The cell of the first method in the same place; None: the same one, or it is not there yet."""
    place = cell.budget, cell.window, first
    return next((c for c in cells if (c.budget, c.window, c.method) == place and c is not cell), None)


def difference(cell: Cell, other: Cell | None) -> str:
    """`+5.3 (+2.7 to +8.3), p < 0.001, exact McNemar`, in points; empty where there is nothing to compare."""
    found = None if other is None else compare(cell, other)
    if found is None or other is None:
        return ""
    d = found.difference
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    # Said where not all problems could be compared.
    most = max(len(cell.problems), len(other.problems))
    part = "" if found.problems == most else f", {found.problems:,} in common"
    return f"{100 * d.mean:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f}), {p}, {found.test}{part}"


def interval(cell: Cell) -> str:
    """The accuracy's, in per cent."""
    low, high = cell.interval
    return "" if cell.accuracy is None else f"{100 * low:.1f} - {100 * high:.1f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def failed(failures: Counter[str]) -> str:
    """`0`, or how many by how they ended: `13: memory 12, timeout 1`."""
    parts = ", ".join(f"{name} {n:,}" for name, n in sorted(failures.items()))
    return f"{failures.total():,}: {parts}" if parts else "0"


def _measured(cell: Cell, name: str, form: str) -> str:
    value = cell.measured(name)
    return "" if value is None else format(value, form)
