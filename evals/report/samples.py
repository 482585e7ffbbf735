"""The samples in the report: every verdict, every job's threads, and as many whole traces as a page can hold."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import InvalidInput
from ...runtime.trace.trace import Trace
from ...runtime.trace.viewer import trace_data
from ..evaluation import Evaluation
from ..trees import Thread

FULL_BYTES = 3_000_000
"""Of whole traces, compressed, of the first problems on; of the others the page shows the threads alone."""


def traces(evaluation: Evaluation) -> dict[str, list[Thread]]:
    """Trace file -> its threads, of all jobs that ran, in the grid's order."""
    units = evaluation.store.units
    keys = [key for key, _, _ in evaluation.entries() if key in units]
    return {row.trace: row.threads for key in keys for row in units[key].rows if row.trace and row.threads}


def samples_data(evaluation: Evaluation, budgets: Sequence[str], windows: Sequence[int | None]) -> dict[str, Any]:
    """What the page's script shows of every sample, without times. The columns of `rows` are named in `report.js`."""
    reasons: dict[str, int] = {}
    places = {name: place for place, name in enumerate(traces(evaluation))}
    methods = [method.name for method in evaluation.config.methods]
    rows: list[list[Any]] = []
    for key, method, sample in evaluation.entries():
        unit = evaluation.store.units.get(key)
        rows += [
            [
                evaluation.place(sample.id),
                methods.index(method.name),
                key.budget,
                windows.index(row.window),
                key.attempt,
                int(row.correct) if row.error is None else None,
                row.extracted,
                reasons.setdefault(row.reason, len(reasons)),
                row.finish,
                row.total_tokens,
                row.critical_tokens,
                row.branches,
                row.counts,
                row.origin,
                places.get(row.trace or ""),
            ]
            for row in (unit.rows if unit is not None else ())
        ]
    return {
        "methods": methods,
        "budgets": budgets,
        "windows": windows,
        "problems": [[sample.id, sample.question, sample.reference] for sample in evaluation.samples],
        "reasons": list(reasons),
        "traces": list(places),
        "rows": rows,
    }


def full_traces(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Place in `names` -> what the trace viewer draws, packed; from the first on until `FULL_BYTES` are full."""
    found: dict[str, str] = {}
    size = 0
    for place, name in enumerate(names):
        try:
            trace = Trace.load(folder / name)
        except InvalidInput:
            continue  # Moved away: the report does without.
        found[str(place)] = packed(trace_data(trace))
        size += len(found[str(place)])
        if size > FULL_BYTES:
            break
    return found


def packed(value: Any) -> str:
    """The value as JSON, compressed, as base64; `unpack` in `report.js` is the inverse."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
