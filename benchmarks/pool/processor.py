"""What processes spent of the processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, of all threads together."""

    running: float = 0.0
    waiting: float = 0.0
    """Ready to run, while others had the cores."""

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.running - other.running, self.waiting - other.waiting)


def spent(*pids: int | str) -> Spent:
    """By processes so far, `self` among them; zero where the system does not tell (it is Linux that does)."""
    running = waiting = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                ran, waited, _ = file.read_text().split()
            except OSError:  # A thread that has just ended.
                continue
            running, waiting = running + int(ran), waiting + int(waited)
    return Spent(running / 1e9, waiting / 1e9)
