"""What the client's side of the protocol knows of a job and of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from .messages import Chunk


class Phase(Enum):
    """Who has a job."""

    WAITING = auto()
    OFFERED = auto()
    QUEUED = auto()
    RUNNING = auto()


@dataclass(slots=True)
class Entry:
    """One unanswered job."""

    id: str
    spec: dict[str, Any]
    priority: int
    number: int
    phase: Phase = Phase.WAITING
    epoch: int = 1
    holder: str | None = None
    """The worker that runs it, or was the last to queue it."""
    queued: set[str] = field(default_factory=set)
    """Workers that have queued it."""
    declined: dict[str, bytes] = field(default_factory=dict)
    """Workers that cannot run it, and the answer that each would give."""
    taken: bool = False
    """Has any worker said that it would run it?"""
    since: float = 0.0
    """When the phase began, or the offer was last made."""
    offers: int = 0
    """In this phase."""
    events: int = 0
    """Arrived without a gap."""
    chunks: dict[int, bytes] = field(default_factory=dict)
    last: Chunk | None = None
    asked: float = float("-inf")
    """When something was last asked for again."""
    cancelled: str | None = None
    watched: bool = False


@dataclass(slots=True)
class Peer:
    """A worker, as its last beat says."""

    seen: float
    capacity: int = 0
    free: int = 0
