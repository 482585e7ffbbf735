"""How many rows of one job may be in a step that others share, by what steps were seen to take."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

_KEPT = 9
"""Steps of a size whose median counts: one may have met a compilation, or a busy machine."""
_UNNOTICED = 0.005
"""Seconds that a step may take in any case: with shorter ones what Python does around them counts more."""


class Cost(NamedTuple):
    """Of a step, in seconds."""

    base: float
    """Whatever is in it."""
    per_row: float

    def fair_rows(self, wanted: Collection[int], smallest: int) -> int:
        """Rows of a job at most, where jobs have `wanted` so many ready: so many that of n jobs that of the `smallest`
        goes on in n times the time that it would take alone, as if they took turns on the processor."""
        seconds = max(len(wanted) * (self.base + self.per_row * smallest), _UNNOTICED)
        left, jobs = (seconds - self.base) / self.per_row, len(wanted)
        for rows in sorted(wanted):
            if rows * jobs >= left:
                return max(1, int(left / jobs))
            left -= rows
            jobs -= 1
        return max(wanted)


class Pace:
    """Learns what steps cost as they run."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}
        """Seconds and rows of the latest steps, by the number of bits of their rows."""

    def note(self, rows: int, seconds: float) -> None:
        """A step took so long."""
        self._seen.setdefault(rows.bit_length(), deque(maxlen=_KEPT)).append((seconds, rows))

    def cost(self) -> Cost | None:
        """None: not known yet."""
        if len(self._seen) < 2:
            return None
        (few_seconds, few), (many_seconds, many) = (
            (statistics.median(s for s, _ in seen), statistics.fmean(rows for _, rows in seen))
            for seen in (self._seen[min(self._seen)], self._seen[max(self._seen)])
        )
        per_row = (many_seconds - few_seconds) / (many - few)
        return Cost(max(few_seconds - per_row * few, 0.0), per_row) if per_row > 0 else None
