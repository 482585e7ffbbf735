"""How many rows of one job may be in a step, so that others go on or need not wait long, by what steps were seen to
take."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

_KEPT = 17
"""Steps of a size that are remembered."""
_UNNOTICED = 0.005
"""Seconds that a step may take in any case: with shorter ones what Python does around them counts more."""
_AMPLE = 64
"""Rows that a step may have in any case."""
_WASTE = 0.1
"""Of a job's time, which may be lost to shorter steps so that whoever comes waits less."""
_SLOW = 1.25
"""How much longer a row may take in short steps than in the best ones."""


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
        (few_seconds, few), (many_seconds, many) = self._typical(min(self._seen)), self._typical(max(self._seen))
        per_row = (many_seconds - few_seconds) / (many - few)
        return Cost(max(few_seconds - per_row * few, 0.0), per_row) if per_row > 0 else None

    def ample_rows(self) -> int | None:
        """Rows of a job at most where no other runs: as many as it takes to lose little time to what a step costs
        whatever is in it. None: not known yet."""
        if (cost := self.cost()) is None:
            return None
        rows = max(_AMPLE, int(cost.base / cost.per_row * (1 / _WASTE - 1)))
        # The compiled kernels may like more rows than a line through two sizes tells.
        each = {bits: seconds / n for bits in self._seen for seconds, n in [self._typical(bits)]}
        while each.get(rows.bit_length(), 0.0) > _SLOW * min(each.values()):
            rows *= 2
        return rows

    def _typical(self, bits: int) -> tuple[float, int]:
        """A step of this size, faster than most: others met a busy machine, or the event loop making branches."""
        seen = sorted(self._seen[bits], key=lambda one: one[0] / one[1])
        return seen[len(seen) // 4]
