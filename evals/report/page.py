"""The report of an evaluation: one HTML file that needs no network, and the table as Markdown.

What depends on the machine (times, KV blocks) stands in elements of class `m` and in the last columns of the Markdown
table; everything else is the same, byte for byte, whenever the same settings are run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...runtime.trace import viewer
from ...runtime.trace.viewer.page import embed
from ..evaluation import Evaluation
from ..store import write_atomically
from .plots import Point, Series, line_plot
from .samples import full_traces, packed, samples_data, traces
from .summary import Cell, cells, compare

ASSETS = Path(__file__).parent / "assets"


def write_report(evaluation: Evaluation, settings: dict[str, Any]) -> Path:
    """Write `report.html` and `report.md` into the evaluation's folder; returns the path of the former."""
    report = Report(evaluation, settings)
    folder = evaluation.store.folder
    write_atomically(folder / "report.md", report.markdown())
    write_atomically(folder / "report.html", report.html())
    return folder / "report.html"


class Report:
    """All parts of the report."""

    def __init__(self, evaluation: Evaluation, settings: dict[str, Any]) -> None:
        self.evaluation = evaluation
        self.settings = settings
        self.environment = evaluation.store.environment
        config = evaluation.config
        methods = [(method.name, method.attempts) for method in config.methods]
        self.methods = [name for name, _ in methods]
        self.windows = sorted(evaluation.windows, key=lambda window: window or 0)
        self.cells = cells(
            evaluation.store.units,
            methods,
            len(config.budgets),
            evaluation.windows,
            [sample.id for sample in evaluation.samples],
        )
        self.cells.sort(key=lambda c: (c.budget, self.methods.index(c.method), c.window or 0))
        self.budgets = [
            ", ".join(f"{name} {value:g}" for name, value in budget.model_dump(exclude_none=True).items())
            or "no budget"
            for budget in config.budgets
        ]

    @property
    def title(self) -> str:
        benchmark = self.evaluation.config.benchmark
        return f"{benchmark.name}: {len(self.evaluation.samples)} problems, model {Path(self.settings['model']).name}"

    # -- the table -------------------------------------------------------------------------------------------------

    def columns(self) -> list[tuple[str, bool, Callable[[Cell], str]]]:
        """Title, whether it depends on the machine, and the text for a cell."""
        found: list[tuple[str, bool, Callable[[Cell], str]]] = [("method", False, lambda c: c.method)]
        if len(self.budgets) > 1:
            found.append(("budget", False, lambda c: self.budgets[c.budget]))
        if self.windows != [None]:
            found.append(("window", False, lambda c: f"{c.window:,}"))
        found += [
            ("correct", False, lambda c: f"{c.correct:,} of {len(c.rows):,}"),
            ("accuracy", False, lambda c: f"{100 * c.accuracy:.1f} %"),
            ("95 %", False, lambda c: "{:.1f} - {:.1f}".format(*(100 * end for end in c.interval))),
            (f"less {self.methods[0]}, 95 %, p", False, self._difference),
        ]
        for k in sorted({k for cell in self.cells for k in cell.ks if cell.attempts > 1}):
            found.append((f"pass@{k}", False, lambda c, k=k: _percent(c.pass_at(k)) if k <= c.attempts else ""))  # type: ignore[misc]
            found.append((f"cons@{k}", False, lambda c, k=k: _percent(c.cons_at(k)) if k <= c.attempts else ""))  # type: ignore[misc]
        found += [
            ("total tokens", False, lambda c: f"{c.total_tokens:,.0f}"),
            ("critical tokens", False, lambda c: f"{c.critical_tokens:,.0f}"),
            ("parallelism", False, lambda c: "" if c.parallelism is None else f"{c.parallelism:.1f}"),
            ("branches", False, lambda c: f"{c.mean(lambda row: row.branches):,.1f}"),
            ("malformed", False, lambda c: ", ".join(f"{name} {n:,}" for name, n in sorted(c.counts.items()))),
            ("failed", False, lambda c: f"{c.failed:,}"),
            ("seconds", True, lambda c: _measured(c, "seconds", ".2f")),
            ("KV blocks, peak", True, lambda c: _measured(c, "peak_kv_blocks", ".0f")),
            ("KV blocks, mean", True, lambda c: _measured(c, "mean_kv_blocks", ".1f")),
        ]
        return found

    def _difference(self, cell: Cell) -> str:
        first = next(
            c for c in self.cells if (c.budget, c.window, c.method) == (cell.budget, cell.window, self.methods[0])
        )
        if first is cell or len(first.problems) != len(cell.problems):
            return ""
        found = compare(cell, first)
        p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
        return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f}), {p}"

    def markdown(self) -> str:
        """The table, and what it was made with."""
        columns = self.columns()
        lines = [
            f"# {self.title}",
            "",
            "| " + " | ".join(_plain(title) for title, _, _ in columns) + " |",
            "| " + " | ".join("---" for _ in columns) + " |",
        ]
        lines += ["| " + " | ".join(_plain(text(cell)) for _, _, text in columns) + " |" for cell in self.cells]
        hardware, versions = self.environment["hardware"], self.environment["versions"]
        lines += [
            "",
            f"Seed {self.settings['seed']}. "
            + ", ".join(f"{name} {number}" for name, number in versions.items())
            + ". ",
            ", ".join(f"{name}: {value}" for name, value in hardware.items()) + ".",
        ]
        return "\n".join(lines) + "\n"

    # -- the page --------------------------------------------------------------------------------------------------

    def html(self) -> str:
        """The whole page."""
        threads = traces(self.evaluation)
        page = (ASSETS / "report.html").read_text(encoding="utf-8")
        parts = {
            "title": escape(self.title),
            "style": f"{(ASSETS / 'report.css').read_text(encoding='utf-8')}\n{viewer.style()}",
            "legend": self._legend(),
            "plots": self._plots(),
            "table": self._table(),
            "settings": self._facts({**self.settings, **self.environment}),
            "data": embed(samples_data(self.evaluation, self.budgets, self.windows)),
            "threads": packed(list(threads.values())),
            "full": embed(full_traces(self.evaluation.store.folder, threads)),
            "viewer": viewer.script(),
            "script": (ASSETS / "report.js").read_text(encoding="utf-8"),
        }
        for name, text in parts.items():
            page = page.replace(f"{{{{{name}}}}}", text)
        return page

    def _series(self) -> list[tuple[str, list[Cell]]]:
        found: dict[tuple[str, int], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.method, cell.budget), []).append(cell)
        several = len(self.budgets) > 1
        return [(f"{name}, {self.budgets[b]}" if several else name, group) for (name, b), group in found.items()]

    def _legend(self) -> str:
        names = [name for name, _ in self._series()]
        return "".join(
            f'<button class="c{i % 8}" data-series="{i}">{escape(name)}</button>' for i, name in enumerate(names)
        )

    def _plots(self) -> str:
        axes: list[tuple[str, str, Callable[[Cell], float | None]]] = [
            ("critical-path tokens per problem", "", lambda cell: cell.critical_tokens),
            ("total tokens per problem", "", lambda cell: cell.total_tokens),
            ("context window, tokens", "", lambda cell: cell.window),
            ("seconds per problem, with others running", "m", lambda cell: cell.measured("seconds")),
        ]
        figures = []
        for label, kind, x_of in axes:
            series = [
                Series(name=name, index=i, points=_points(group, x_of))
                for i, (name, group) in enumerate(self._series())
            ]
            plot = line_plot(series, x_label=label, is_logarithmic=True)
            if plot:
                figures.append(f'<figure class="{kind}">{plot}</figure>')
        return "\n".join(figures)

    def _table(self) -> str:
        columns = self.columns()
        head = "".join(
            f"<th{' class=m' if is_measured else ''}>{escape(title)}</th>" for title, is_measured, _ in columns
        )
        rows = []
        for cell in self.cells:
            tds = [
                f"<td{' class=m' if is_measured else ''}>{escape(text(cell))}</td>" for _, is_measured, text in columns
            ]
            rows.append(f"<tr>{''.join(tds)}</tr>")
        return f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"

    def _facts(self, value: Any) -> str:
        if isinstance(value, dict):
            items = "".join(f"<dt>{escape(str(name))}</dt><dd>{self._facts(one)}</dd>" for name, one in value.items())
            return f"<dl>{items}</dl>"
        if isinstance(value, list):
            return "<ol>" + "".join(f"<li>{self._facts(one)}</li>" for one in value) + "</ol>"
        return escape(str(value))


def _points(group: Sequence[Cell], x_of: Callable[[Cell], float | None]) -> tuple[Point, ...]:
    points = []
    for cell in group:
        x = x_of(cell)
        if x is not None and x > 0:
            window = "" if cell.window is None else f"window {cell.window:,}, "
            low, high = cell.interval
            note = f"{window}{100 * cell.accuracy:.1f} % ({100 * low:.1f} - {100 * high:.1f}) at {x:,.4g}"
            points.append(Point(x=x, y=cell.accuracy, low=low, high=high, note=note))
    return tuple(points)


def _plain(text: str) -> str:
    """As it may stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _measured(cell: Cell, name: str, form: str) -> str:
    value = cell.measured(name)
    return "" if value is None else format(value, form)
