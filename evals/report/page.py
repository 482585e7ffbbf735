"""The report of an evaluation: one HTML file that needs no network, and the table as Markdown.

What depends on the machine (times, KV blocks, the date) stands in elements of class `m` and in the last columns of the
Markdown table and the line below it; everything else is the same, byte for byte, whenever the same settings are run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path

from ...runtime.disk import write_whole
from ...runtime.trace import viewer
from ...runtime.trace.viewer.page import embed
from ..evaluation import Evaluation
from .columns import Column, columns, interval, percent
from .extras import curves, notes, parts_html, parts_table
from .headline import NO_BUDGET, headline
from .plots import Point, Series, line_plot
from .samples import full_traces, packed, samples_data, traces
from .settings import phrase, settings_html
from .summary import Cell, cells
from .template import fill

ASSETS = Path(__file__).parent / "assets"
LONG = 24
"""Characters from which on the texts of a column are broken into lines."""


def write_report(evaluation: Evaluation) -> Path:
    """Write `report.html` and `report.md` into the evaluation's folder; returns the path of the former."""
    report = Report(evaluation)
    folder = evaluation.store.folder
    for name, text in (("report.md", report.markdown()), ("report.html", report.html())):
        # Texts of a model may hold half a surrogate pair, which no file takes.
        write_whole(folder / name, text.encode(errors="replace").decode())
    return folder / "report.html"


class Report:
    """All parts of the report."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.settings = evaluation.store.settings
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
            ", ".join(f"{name} {value:g}" for name, value in budget.model_dump(exclude_none=True).items()) or NO_BUDGET
            for budget in config.budgets
        ]

    @property
    def title(self) -> str:
        benchmark = self.evaluation.config.benchmark
        return f"{benchmark.name}: {len(self.evaluation.samples)} problems, model {Path(self.settings['model']).name}"

    @property
    def headline(self) -> str:
        """What came out, in one line."""
        total = sum(1 for _ in self.evaluation.entries())
        done = sum(key in self.evaluation.store.units for key, _, _ in self.evaluation.entries())
        return headline(self.cells, self.methods[0], self.budgets, done, total)

    @property
    def date(self) -> str:
        """When the evaluation was begun; empty: not known."""
        started = self.evaluation.store.started
        return started and f"Run of {started.replace('T', ', ').removesuffix('+00:00')} UTC"

    # -- the table -------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> list[Column]:
        return columns(self.cells, self.methods[0], self.budgets, self.windows != [None])

    def markdown(self) -> str:
        """The table, and what it was made with."""
        lines = [
            f"# {_plain(self.title)}",
            "",
            _plain(self.headline),
            "",
            "| " + " | ".join(_plain(column.title) for column in self.columns) + " |",
            "| " + " | ".join("---" for _ in self.columns) + " |",
        ]
        lines += ["| " + " | ".join(_plain(column.text(cell)) for column in self.columns) + " |" for cell in self.cells]
        parts = parts_table(self._named_cells(), has_seconds=False)
        for number, row in enumerate(parts):
            lines += [""] if number == 0 else []
            lines.append("| " + " | ".join(map(_plain, row)) + " |")
            lines += ["| " + " | ".join("---" for _ in row) + " |"] if number == 0 else []
        if said := notes(self.cells):
            lines += ["", *map(_plain, said)]
        hardware, versions = (self.environment.get(name, {}) for name in ("hardware", "versions"))
        lines += [
            "",
            f"{self.date}.",
            f"Seed {self.settings['seed']}. {phrase(versions)}. ",
            f"{phrase(hardware)}.",
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
            "notes": "\n".join(f"<p><strong>{escape(note)}</strong></p>" for note in notes(self.cells)),
            "parts": parts_html(parts_table(self._named_cells(), has_seconds=True)),
            "headline": escape(self.headline),
            "date": escape(self.date),
            "settings": settings_html(self.settings, self.environment),
            "data": embed(samples_data(self.evaluation, self.budgets, self.windows)),
            "threads": packed(list(threads.values())),
            "full": embed(full_traces(self.evaluation.store.folder, threads)),
            "viewer": viewer.script(),
            "script": (ASSETS / "report.js").read_text(encoding="utf-8"),
        }
        return fill(page, parts)

    def _series(self) -> list[tuple[str, list[Cell]]]:
        found: dict[tuple[str, int], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.method, cell.budget), []).append(cell)
        several = len(self.budgets) > 1
        return [(f"{name}, {self.budgets[b]}" if several else name, group) for (name, b), group in found.items()]

    def _named_cells(self) -> list[tuple[str, Cell]]:
        has_windows = self.windows != [None]
        series = [(name, cell) for name, group in self._series() for cell in group]
        return [(f"{name}, window {cell.window:,}" if has_windows else name, cell) for name, cell in series]

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
        return "\n".join([*figures, curves(self._series())]).strip()

    def _table(self) -> str:
        texts = [[column.text(cell) for cell in self.cells] for column in self.columns]
        long = [max(map(len, (c.title, *text))) > LONG for c, text in zip(self.columns, texts, strict=True)]
        kinds = [
            "m" if c.is_measured else "wrap" if is_long else "" for c, is_long in zip(self.columns, long, strict=True)
        ]
        tags = [f' class="{kind}"' if kind else "" for kind in kinds]
        head = "".join(f"<th{tag}>{escape(c.title)}</th>" for tag, c in zip(tags, self.columns, strict=True))
        rows = []
        for line in zip(*texts, strict=True):
            tds = [f"<td{tag}>{escape(text)}</td>" for tag, text in zip(tags, line, strict=True)]
            rows.append(f"<tr>{''.join(tds)}</tr>")
        return f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"


def _points(group: Sequence[Cell], x_of: Callable[[Cell], float | None]) -> tuple[Point, ...]:
    points = []
    for cell in group:
        x = x_of(cell)
        if x is not None and x > 0 and cell.accuracy is not None:
            window = "" if cell.window is None else f"window {cell.window:,}, "
            low, high = cell.interval
            note = f"{window}{percent(cell.accuracy)} ({interval(cell)}) at {x:,.4g}"
            points.append(Point(x=x, y=cell.accuracy, low=low, high=high, note=note))
    return tuple(points)


def _plain(text: str) -> str:
    """As it may stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
