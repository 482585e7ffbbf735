"""What a benchmark's verdicts say besides right and wrong, in the report: `Extra`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean

from ..extras import Extra
from ..stats import clustered_wilson
from .plots import Point, Series, line_plot
from .summary import Cell

SECONDS = "seconds"
"""The one figure of a part that depends on the machine."""


def extras(cell: Cell) -> list[list[Extra]]:
    """Of each problem, those of its attempts that have one."""
    found = [[row.extra for row in rows if row.extra is not None] for rows in cell.judged.values()]
    return [one for one in found if one]


def flat(cell: Cell) -> list[Extra]:
    """All of them."""
    return [one for attempts in extras(cell) for one in attempts]


def names(found: Iterable[Iterable[str]]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(name for some in found for name in some))


def number(cell: Cell, name: str) -> float | None:
    """Mean over problems of the mean over attempts; None: nobody has it."""
    means = [[one.numbers[name] for one in attempts if name in one.numbers] for attempts in extras(cell)]
    values = [fmean(values) for values in means if values]
    return fmean(values) if values else None


def notes(cells: Sequence[Cell]) -> list[str]:
    """Each once, with the number of jobs it is said of."""
    said = [note for cell in cells for one in flat(cell) for note in one.notes]
    return [f"{note} ({said.count(note):,} of {sum(cell.num_judged for cell in cells):,})" for note in names([said])]


def parts_table(cells: Sequence[tuple[str, Cell]], *, has_seconds: bool) -> list[list[str]]:
    """Rows of what the parts of a job cost, means per job, under a head; empty: there are none. Seconds come last, if
    at all. `cells`: with what they are called."""
    every = [(label, flat(cell)) for label, cell in cells]
    heads = names(part for _, some in every for one in some for part in one.parts.values())
    heads = [head for head in heads if head != SECONDS] + [SECONDS] * (has_seconds and SECONDS in heads)
    rows = []
    for label, some in every:
        for name in names(one.parts for one in some):
            means = [sum(one.parts.get(name, {}).get(head, 0.0) for one in some) / len(some) for head in heads]
            rows.append([label, name, *(f"{mean:,.4g}" if mean < 1000 else f"{mean:,.0f}" for mean in means)])
    return [["method", "part", *heads], *rows] if rows else []


def parts_html(rows: Sequence[Sequence[str]]) -> str:
    """The table as HTML."""
    if not rows:
        return ""
    last = ' class="m"' if rows[0][-1] == SECONDS else ""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = [f"<{tag}>{escape(text)}</{tag}>" for text in row[:-1]]
        lines.append(f"<tr>{''.join(cells)}<{tag}{last}>{escape(row[-1])}</{tag}></tr>")
    body = "\n".join(lines[1:])
    table = f'<table id="parts"><thead>{lines[0]}</thead>\n<tbody>\n{body}\n</tbody></table>'
    return f'<h2>Cost by part</h2>\n<div class="scroll">{table}</div>\n<p class="hint">Means per job.</p>'


def curves(series: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """A figure of what would have come of a smaller limit, for each of the series' first cells; empty: nobody has
    one."""
    found = []
    limits = []
    for index, (label, cells) in enumerate(series):
        attempts = extras(cells[0])
        limits += [one.limit for some in attempts for one in some if one.curves]
        for variant, name in enumerate(names(one.curves for some in attempts for one in some)):
            points = _curve(attempts, name)
            found.append(Series(name=f"{label}, {name}", index=index, points=points, variant=variant))
    plot = line_plot(found, x_label=" or ".join(names([limits])), is_logarithmic=False)
    shown = names(one.curves for _, cells in series for one in flat(cells[0]))
    styles = ", ".join(f"{name}: {style}" for name, style in zip(shown, ("solid", "dashed", "dotted"), strict=False))
    return f'<figure>{plot}<figcaption class="hint">{escape(styles)}</figcaption></figure>' if plot else ""


def _curve(attempts: Sequence[Sequence[Extra]], name: str) -> tuple[Point, ...]:
    """Within a limit beyond the end of a curve, its last value holds; of a job that wrote nothing, the curve is empty,
    and nothing came of it within any limit."""
    own = [[one.curves[name] or (0.0,) for one in some if name in one.curves] for some in attempts]
    own = [some for some in own if some]
    points = []
    for k in range(1, max(len(one) for some in own for one in some) + 1):
        rates = [fmean(one[min(k, len(one)) - 1] for one in some) for some in own]
        low, high = clustered_wilson(rates, max(map(len, own)))
        note = f"{100 * fmean(rates):.1f} % ({100 * low:.1f} - {100 * high:.1f}) within {k}"
        points.append(Point(x=k, y=fmean(rates), low=low, high=high, note=note))
    return tuple(points)
