"""What the client's side of the protocol knows of a job and of a worker."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from .messages import Chunk, Events


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
    unanswered: float = 0.0
    """Since when nobody has answered an offer of it, though there are workers, as far as one listened."""
    forgotten: int = 0
    """How often, by a worker that it was granted."""
    events: int = 0
    """Arrived without a gap."""
    chunks: dict[int, bytes] = field(default_factory=dict)
    last: Chunk | None = None
    asked: float = float("-inf")
    """When something was last asked for again."""
    is_unreadable: bool = False
    """A report of it that could not be read has come since something was last asked for again."""
    unreadable: int = 0
    """How often something was asked for again and such a report came, since one has brought something."""
    cancelled: str | None = None
    watched: bool = False

    def may_be_with(self, worker: str) -> bool:
        """Until one runs it, it may be with any: an offer may be under way there, or its answer, and a `drop` would
        meet the grant of a claim that crosses it."""
        return self.phase is not Phase.RUNNING or self.holder == worker

    def is_ignored(self, since: float) -> bool:
        """Does no worker answer, since then, or does none hear what it is told?"""
        return self.forgotten > 1 or (self.phase is Phase.OFFERED and self.unanswered < since)

    def ask(self, now: float) -> None:
        """Something is asked for again. Unreadable reports may be of other workers, which answer nothing of it."""
        self.asked = now
        self.unreadable += self.is_unreadable
        self.is_unreadable = False

    def take(self, report: Events | Chunk) -> list[dict[str, Any]]:
        """What is new of it is kept; of events, which must not leave a gap, it is the answer."""
        if isinstance(report, Events):
            fresh = report.events[self.events - report.first :]
            self.events += len(fresh)
            self.unreadable = 0 if fresh else self.unreadable
            return fresh
        if report.index < report.count and (self.last is None or self.last.count == report.count):
            self.unreadable = self.unreadable if report.index in self.chunks else 0
            self.last = report.model_copy(update={"body": b""})
            self.chunks[report.index] = report.body
        return []

    def begin_anew(self) -> None:
        """What has arrived is of an older epoch."""
        self.epoch += 1
        self.events, self.chunks, self.last, self.unreadable = 0, {}, None, 0


@dataclass(slots=True)
class Peer:
    """A worker, as its last beat says, without the slots that it was offered jobs for by name since."""

    seen: float
    capacity: int = 0
    free: int = 0


class Entries:
    """All unanswered jobs, those that are out with workers, and those that wait in the order in which they go: many may
    wait, so nothing that is done often looks at all of them."""

    def __init__(self) -> None:
        self.out: dict[str, Entry] = {}
        """Offered, queued or running."""
        self._all: dict[str, Entry] = {}
        self._waiting: list[tuple[int, int, Entry]] = []
        """A heap. Those that wait no longer are found out when it is their turn."""

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, job: str) -> bool:
        return job in self._all

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._all.values()))

    def __getitem__(self, job: str) -> Entry:
        return self._all[job]

    def get(self, job: str) -> Entry | None:
        return self._all.get(job)

    def wait(self, entry: Entry) -> None:
        """It is new, or comes back."""
        entry.phase = Phase.WAITING
        self._all[entry.id] = entry
        self.out.pop(entry.id, None)
        heapq.heappush(self._waiting, (-entry.priority, entry.number, entry))

    def go(self, entry: Entry, phase: Phase) -> None:
        entry.phase = phase
        self.out[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        del self._all[entry.id]
        self.out.pop(entry.id, None)

    def offer(self, count: int, can_go: Callable[[Entry], bool]) -> list[Entry]:
        """The first so many of those that wait and can go; they are out now."""
        gone: list[Entry] = []
        kept = []
        while self._waiting and len(gone) < count:
            place = heapq.heappop(self._waiting)
            entry = place[2]
            if self._all.get(entry.id) is not entry or entry.phase is not Phase.WAITING:
                continue
            if can_go(entry):
                self.go(entry, Phase.OFFERED)
                gone.append(entry)
            else:
                kept.append(place)
        for place in kept:
            heapq.heappush(self._waiting, place)
        return gone
