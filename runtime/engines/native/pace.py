"""How many rows of one job may be in a step, so that others go on or need not wait long, by what steps were seen to
take."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import accumulate

_KEPT = 17
"""Steps of a size that are remembered."""
_UNNOTICED = 0.005
"""Seconds that a step may take in any case: with shorter ones what Python does around them counts more."""
FEW = 8
"""Rows that nobody minds waiting for."""
_SIZES = tuple(FEW << i for i in range(12))
"""Rows that a job may have in a step where no other runs."""
_WASTE = 0.1
"""Of a job's time, which may be lost to shorter steps so that whoever comes waits less."""


class Cost:
    """What a step takes by its rows: straight lines between sizes that were seen, and beyond them the line through the
    smallest and the largest. (Rows are nearly free as long as a step is as long as the weights' way from memory.)"""

    def __init__(self, seen: Sequence[tuple[int, float]]) -> None:
        """`seen`: sizes, the smallest first, and seconds that they took. What other work made longer is told by the
        others: a step takes no longer than a larger one, and a row none longer than in a smaller one."""
        self._rows = [rows for rows, _ in seen]
        per_row = accumulate((seconds / rows for rows, seconds in seen), min)
        seconds = [rows * each for rows, each in zip(self._rows, per_row, strict=True)]
        self._seconds = list(accumulate(reversed(seconds), min))[::-1]

    @property
    def is_rising(self) -> bool:
        """Do rows cost anything, as far as it was seen?"""
        return self._seconds[-1] > self._seconds[0]

    def seconds(self, rows: float) -> float:
        """Of a step with so many rows."""
        (r0, s0), (r1, s1) = self._line(bisect_right(self._rows, rows))
        return max(0.0, s0 + (s1 - s0) / (r1 - r0) * (rows - r0))

    def rows(self, seconds: float) -> float:
        """Of a step that takes so long."""
        (r0, s0), (r1, s1) = self._line(bisect_right(self._seconds, seconds))
        return r0 + (r1 - r0) / (s1 - s0) * (seconds - s0)

    def _line(self, end: int) -> list[tuple[int, float]]:
        """Two points of the line on which something lies that would come in at `end`."""
        ends = (end - 1, end) if 0 < end < len(self._rows) else (0, -1)
        return [(self._rows[i], self._seconds[i]) for i in ends]

    def fair_rows(self, wanted: Collection[int], smallest: int) -> int:
        """Rows of a job at most, where jobs have `wanted` so many ready: so many that of n jobs that of the `smallest`
        goes on in n times the time that it would take alone, as if they took turns on the processor."""
        left = self.rows(max(len(wanted) * self.seconds(smallest), _UNNOTICED))
        jobs = len(wanted)
        for rows in sorted(wanted):
            if rows * jobs >= left:
                return max(1, int(left / jobs))
            left -= rows
            jobs -= 1
        return max(wanted)

    @cached_property
    def ample_rows(self) -> int:
        """Rows of a job at most where no other runs: the fewest with which it loses little of its time."""
        each = [self.seconds(rows) / rows for rows in _SIZES]
        return next(rows for rows, one in zip(_SIZES, each, strict=True) if one * (1 - _WASTE) <= min(each))


class Pace:
    """Learns what steps cost as they run."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}
        """Seconds for each of their rows, and rows, of the latest steps, by the number of bits of their rows."""
        self._typical: dict[int, tuple[int, float]] = {}
        """Rows and seconds of a step of each size, faster than most: others met a busy machine, or the event loop
        making branches."""
        self._cost: Cost | None = None
        self._is_stale = False

    def note(self, rows: int, seconds: float) -> None:
        """A step took so long."""
        size = rows.bit_length()
        seen = self._seen.setdefault(size, deque(maxlen=_KEPT))
        seen.append((seconds / rows, rows))
        per_row, rows = sorted(seen)[len(seen) // 4]
        self._typical[size] = rows, per_row * rows
        self._is_stale = True

    @property
    def cost(self) -> Cost | None:
        """None: not known yet. Worked out only where it is asked for: most steps are repeated as they are."""
        if self._is_stale:
            self._is_stale = False
            points = [self._typical[size] for size in sorted(self._typical)]
            cost = Cost(points) if len(points) > 1 else None
            self._cost = cost if cost is not None and cost.is_rising else None
        return self._cost
