"""Tables of figures in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table


def table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Rows with the same keys as a table: text left, numbers right."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        is_number = all(isinstance(row[name], (int, float)) for row in rows)
        drawn.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        drawn.add_row(*_cells(row))
    return drawn


def _cells(row: Mapping[str, object]) -> Iterator[str]:
    for value in row.values():
        yield f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
