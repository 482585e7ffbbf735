"""`Hearing`: what a pause in which nobody listened says of the others, which is nothing."""

from __future__ import annotations

AT_MOST = 0.5
"""Seconds of hearing that one tick stands for: more than lie between two of them, as long as nothing holds them up."""


class Hearing:
    """Between two ticks far apart the event loop was held up: what came meanwhile waits to be read, and the time does
    not count as silence. A loop that is slow all the time still hears, half a second a tick."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def missed(self, now: float) -> float:
        """To be called at each tick: seconds since the last one in which nothing was heard."""
        missed, self._last = max(now - self._last - AT_MOST, 0.0), now
        return missed
