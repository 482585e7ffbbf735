"""What the worker's side of the protocol knows of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class Phase(Enum):
    """How far the worker is with a job."""

    CHECKED = auto()
    """Whether it can run here is being found out."""
    QUEUED = auto()
    CLAIMED = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True)
class Entry:
    """One job that the worker has."""

    epoch: int
    job: dict[str, Any]
    phase: Phase = Phase.CHECKED
    since: float = 0.0
    """When the phase began."""
    said: float = 0.0
    """When it was last claimed."""
    watched: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of each event."""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def is_worked_on(self) -> bool:
        """Is there something that ends with it?"""
        return self.phase in (Phase.CHECKED, Phase.RUNNING)
