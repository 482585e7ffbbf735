"""The results of an evaluation for other programs: `load` as a pandas table, `export` as CSV or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.disk import check_apart, write_whole
from ..runtime.errors import InvalidInput
from .store import RESULTS, read_settings, read_units

if TYPE_CHECKING:
    import pandas

COLUMNS = {
    "benchmark": "the benchmark's name",
    "model": "as in the settings",
    "method": "the method's label in the report",
    "budget": "index into the settings' budgets",
    "total_tokens_limit": "the budget's limit; empty: none",
    "critical_tokens_limit": "the budget's limit; empty: none",
    "problem": "the problem's id",
    "attempt": "from 0",
    "window": "tokens one context may hold; empty: the method's own limit",
    "failed": "is there no verdict?",
    "correct": "the verdict; empty where the job failed",
    "extracted": "the answer that was judged; empty: none was found",
    "reason": "`correct`, what is wrong, or why the job failed",
    "finish": "why the job ended: `eos`, `length`, `memory`, `timeout`, ...",
    "total_tokens": "sampled and injected tokens of all branches",
    "critical_tokens": "those on the longest dependent chain",
    "branches": "how many there were",
    "seconds": "wall time, with other jobs running; empty: not measured",
    "peak_kv_blocks": "most KV blocks held; empty: not measured",
    "mean_kv_blocks": "their mean over time; empty: not measured",
    "counts": "what the method had to put up with, a JSON object",
    "origin": "`run` in this window, `same` as or `cut` from the run in a larger one",
    "trace": "the trace's file, relative to the folder; empty: none",
    "extra": "further figures of the benchmark, a JSON object (`evals/extras.py`); empty: none",
}
"""Name -> what stands there. One row per job and context window."""

FORMATS = (".csv", ".jsonl")


def records(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a folder of results, in the order in which the jobs ended, with the keys of `COLUMNS`; None where
    nothing stands. Raises `InvalidInput` for a folder without results."""
    folder = Path(folder)
    settings = read_settings(folder)["settings"]
    units, _ = read_units(folder)
    for key, unit in units.items():
        try:
            budget = dict(settings["budgets"][key.budget])
            benchmark, model = settings["benchmark"]["name"], settings["model"]
        except (LookupError, TypeError, ValueError) as error:
            raise InvalidInput(f"{folder}: settings and results do not belong together: {error!r}") from None
        for row in unit.rows:
            measured = row.measured
            yield {
                "benchmark": benchmark,
                "model": model,
                "method": key.method,
                "budget": key.budget,
                "total_tokens_limit": budget.get("total_tokens"),
                "critical_tokens_limit": budget.get("critical_tokens"),
                "problem": key.sample,
                "attempt": key.attempt,
                "window": row.window,
                "failed": row.error is not None,
                "correct": row.correct if row.error is None else None,
                "extracted": row.extracted,
                "reason": row.reason,
                "finish": row.finish,
                "total_tokens": row.total_tokens,
                "critical_tokens": row.critical_tokens,
                "branches": row.branches,
                "seconds": None if measured is None else measured.seconds,
                "peak_kv_blocks": None if measured is None else measured.peak_kv_blocks,
                "mean_kv_blocks": None if measured is None else measured.mean_kv_blocks,
                "counts": json.dumps(row.counts),
                "origin": row.origin,
                "trace": row.trace,
                "extra": None if row.extra is None else json.dumps(asdict(row.extra)),
            }


def load(folder: str | Path) -> pandas.DataFrame:
    """The rows as a pandas table with the columns of `COLUMNS`, which says what each is. Raises `InvalidInput` without
    pandas, and for a folder without results."""
    try:
        import pandas
    except ImportError:
        raise InvalidInput(
            "plait.evals.load needs pandas: pip install 'plait[evals]'; `plait eval FOLDER --export FILE.csv` does not"
        ) from None
    # With pyarrow beside it, pandas takes no half of a surrogate pair.
    rows = [
        {name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for name, value in row}
        for row in (record.items() for record in records(folder))
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(_TYPES)


_TYPES = {
    **dict.fromkeys(("total_tokens_limit", "critical_tokens_limit", "window", "peak_kv_blocks"), "Int64"),
    **dict.fromkeys(("budget", "attempt", "total_tokens", "critical_tokens", "branches"), "int64"),
    **dict.fromkeys(("seconds", "mean_kv_blocks"), "float64"),
    "failed": "bool",
    "correct": "boolean",
}
"""Of pandas; `Int64` and `boolean` know missing values. All others hold texts."""


def export(folder: Path, out: Path) -> int:
    """Write the rows to a file, in the format of its ending: `.csv` with a head line, or `.jsonl`; returns how many.
    Raises `InvalidInput` for another ending, and when a file cannot be read or written."""
    if out.suffix not in FORMATS:
        raise InvalidInput(f"cannot export to {out}: its name should end in {' or '.join(FORMATS)}")
    check_apart(out, folder / RESULTS)
    rows = list(records(folder))
    file = io.StringIO(newline="")
    if out.suffix == ".csv":
        # Lines end as RFC 4180 has it; then a lone CR or LF of an answer is in quotes.
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    else:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # A model's text may hold what no file can: it must not cost the rest.
    write_whole(out, file.getvalue().encode(errors="replace").decode())
    return len(rows)
