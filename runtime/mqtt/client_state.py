"""The client's side of the protocol: who has which job, what has arrived of it, what to do about the rest.

Pure: `Jobs` is told what arrives and what time it is, and answers with actions: what to send, and what has happened.
The package's docstring tells the whole story.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..plain import whole
from .client_actions import Action, Answered, Began, Happened, Lost, Send, Unreadable
from .client_entries import Entries, Entry, Peer, Phase
from .hearing import Hearing
from .messages import (
    Beat,
    Cancel,
    Chunk,
    Claim,
    Declined,
    Drop,
    Events,
    Grant,
    Offer,
    Queued,
    Report,
    Resend,
    Returned,
    Watch,
)

MAX_GAPS = 500
"""Chunks asked for at once."""
SILENCE_SECONDS = 20.0
"""So long may the broker give offers to a worker that has died without a word, or hangs: until it ends the connection
(after one and a half keepalives) and the session."""
MAX_UNREADABLE = 10
"""Times that reports of a job are asked for and cannot be read before it is given up."""


class Jobs:
    """All unanswered jobs of one client."""

    def __init__(self, client: str, *, lease: float, patience: float = 1.0, max_epochs: int = 10) -> None:
        """Seconds: `lease` without a beat and a worker is gone, `patience` before something is sent again."""
        self.client = client
        self.lease = lease
        self.patience = patience
        self.max_epochs = max_epochs
        self.workers: dict[str, Peer] = {}
        self.is_closing = False
        """Nothing more is offered."""
        self._silent = float("-inf")
        """When a worker was last given up that had said nothing."""
        self._jobs = Entries()
        self._count = 0
        self._hearing = Hearing()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: str) -> bool:
        return job in self._jobs

    @property
    def holders(self) -> set[str]:
        """Workers that run or have queued a job."""
        return {entry.holder for entry in self._jobs.out.values() if entry.holder is not None}

    def is_ignored(self, now: float) -> bool:
        """Is there a job that all workers ignore, though some are alive?"""
        return bool(self.workers) and any(entry.is_ignored(now - self.lease) for entry in self._jobs.out.values())

    def epoch(self, job: str) -> int:
        return self._jobs[job].epoch

    def submit(self, job: str, spec: dict[str, Any], priority: int, now: float) -> Iterator[Action]:
        """`job` is new."""
        self._count += 1
        self._jobs.wait(Entry(job, spec, priority, self._count))
        yield from self._offer(now)

    def cancel(self, job: str, reason: str, now: float) -> Iterator[Action]:
        """A job that runs is answered by its worker; any other is forgotten, as `in` tells."""
        entry = self._jobs.get(job)
        if entry is None:
            return
        if entry.phase is not Phase.RUNNING:
            yield from self._forget(entry, now)
            return
        entry.cancelled, entry.asked = whole(reason[:1000]), now
        yield Send(job, Cancel(epoch=entry.epoch, reason=entry.cancelled), entry.holder)

    def watch(self, job: str) -> Iterator[Action]:
        """Somebody reads its events from now on."""
        if (entry := self._jobs.get(job)) is not None and not entry.watched:
            entry.watched = True
            if entry.phase is Phase.RUNNING:
                yield Send(job, Watch(epoch=entry.epoch), entry.holder)

    def forget(self, job: str, now: float) -> Iterator[Action]:
        """Nobody waits for it any longer."""
        if (entry := self._jobs.get(job)) is not None:
            yield from self._forget(entry, now)

    def connected(self, now: float) -> None:
        """The connection is there again: what was not heard meanwhile says nothing of the workers."""
        for worker in self.workers.values():
            worker.seen = now
        for entry in self._jobs.out.values():
            entry.unanswered = now

    def report(self, job: str, report: Report, now: float) -> Iterator[Action]:
        """A worker said something of one job."""
        entry = self._jobs.get(job)
        if entry is None or report.epoch != entry.epoch:
            if not isinstance(report, Returned):
                yield Send(job, Drop(epoch=report.epoch), report.worker)
            return
        entry.unanswered = now
        match report:
            case Claim():
                yield from self._claimed(entry, report.worker, now)
            case Queued() if entry.phase in (Phase.OFFERED, Phase.QUEUED):
                if entry.phase is Phase.OFFERED:
                    entry.offers = 0
                entry.phase, entry.holder, entry.since = Phase.QUEUED, report.worker, now
                entry.taken = True
                # The broker gives it to any worker. Until each has it, one that could begin may be without it.
                is_new = report.worker not in entry.queued
                entry.queued.add(report.worker)
                if is_new and not entry.queued.issuperset(self._takers(entry)):
                    yield self._offered(entry, now)
            case Declined() if entry.phase in (Phase.OFFERED, Phase.QUEUED):
                is_new = report.worker not in entry.declined
                entry.declined[report.worker] = report.body
                if entry.phase is Phase.OFFERED and not self._takers(entry):
                    yield from self._refused(entry, now)
                elif entry.phase is Phase.OFFERED and is_new:
                    yield self._offered(entry, now)
            case Returned() if entry.holder == report.worker:
                yield from self._take_back(entry)
                yield from self._offer(now)
            case Events() | Chunk() if entry.phase is Phase.RUNNING and entry.holder == report.worker:
                yield from self._arrived(entry, report, now)
            case Queued() if entry.holder == report.worker:
                pass  # Said before it began, and delivered again.
            case Queued() | Events() | Chunk():
                yield Send(job, Drop(epoch=report.epoch), report.worker)

    def unreadable(self, job: str) -> None:
        """A report of it is no message."""
        if (entry := self._jobs.get(job)) is not None:
            entry.is_unreadable = True

    def beat(self, name: str, beat: Beat, now: float) -> Iterator[Action]:
        self.workers[name] = Peer(now, beat.capacity, beat.free)
        listed = set()
        for held in beat.jobs:
            if held.client != self.client:
                continue
            entry = self._jobs.get(held.job)
            if entry is None or entry.epoch > held.epoch or not entry.may_be_with(name):
                if entry is not None:
                    entry.queued.discard(name)
                yield Send(held.job, Drop(epoch=held.epoch), name)
                continue
            listed.add(held.job)
            if entry.holder == name and entry.phase is Phase.RUNNING and entry.epoch == held.epoch:
                if entry.cancelled is not None and not held.chunks and now - entry.asked >= self.patience:
                    entry.asked = now
                    yield Send(entry.id, Cancel(epoch=entry.epoch, reason=entry.cancelled), name)
                if entry.watched and not held.watched and not held.chunks:
                    yield Send(entry.id, Watch(epoch=entry.epoch), name)
                if held.events > entry.events or held.chunks > len(entry.chunks):
                    yield from self._ask(entry, held.chunks, now)
        for entry in [entry for entry in self._jobs.out.values() if beat.covers(self.client, entry.id)]:
            # It forgot a job that it was granted. A beat on its way when it was does not count.
            if entry.holder == name and entry.id not in listed and now - entry.since > self.lease:
                entry.forgotten += entry.phase is Phase.RUNNING
                yield from self._take_back(entry)
        yield from self._offer(now)

    def gone(self, name: str, now: float) -> Iterator[Action]:
        """The worker has said, or its will does, that it is no more."""
        if self.workers.pop(name, None) is None and not any(e.holder == name for e in self._jobs.out.values()):
            return
        for entry in self._jobs:
            entry.declined.pop(name, None)
            if entry.holder == name:
                yield Send(entry.id, Drop(epoch=entry.epoch), name)
                yield from self._take_back(entry)
        yield from self._offer(now)

    def tick(self, now: float) -> Iterator[Action]:
        """To be called a few times a second while there is a connection."""
        missed = self._hearing.missed(now)
        for worker in self.workers.values():
            worker.seen = min(worker.seen + missed, now)
        for name in [name for name, worker in self.workers.items() if now - worker.seen > self.lease]:
            self._silent = now
            yield from self.gone(name, now)
        for entry in list(self._jobs.out.values()):
            entry.unanswered = min(entry.unanswered + missed, now) if self.workers else now
            if entry.phase is Phase.OFFERED and entry.declined and not self._takers(entry):
                yield from self._refused(entry, now)
            elif self._is_stale(entry, now):
                entry.offers, entry.since = entry.offers + 1, now
                yield self._offered(entry, now)
        yield from self._offer(now)

    def _is_stale(self, entry: Entry, now: float) -> bool:
        """An offer that nobody answered, or that waits at one worker while others are free."""
        wait = self.patience * 2 ** min(entry.offers, 5)
        if now - entry.since <= wait:
            return False
        if entry.phase is Phase.OFFERED:
            return bool(self.workers)
        return entry.phase is Phase.QUEUED and any(self.workers[name].free > 0 for name in self._takers(entry))

    def _offer(self, now: float) -> Iterator[Action]:
        if self.is_closing:
            return
        free = sum(worker.capacity for worker in self.workers.values()) - len(self._jobs.out)
        for entry in self._jobs.offer(free, lambda entry: bool(self._takers(entry))):
            entry.since, entry.unanswered, entry.offers = now, now, 0
            entry.queued.clear()
            yield self._offered(entry, now)

    def _takers(self, entry: Entry) -> list[str]:
        """Workers that have not declined it."""
        return [name for name in self.workers if name not in entry.declined]

    def _offered(self, entry: Entry, now: float) -> Send:
        """To whoever the broker chooses. A job that some have declined or nobody took, and all while the broker may
        choose a worker that is silent: to another one, with most slots free."""
        to = None
        if entry.declined or entry.offers or now - self._silent < SILENCE_SECONDS:
            takers = [name for name in self._takers(entry) if name not in entry.queued]
            to = max(takers, key=lambda name: self.workers[name].free, default=None)
        if to is not None:
            self.workers[to].free -= 1
        return Send(entry.id, Offer(epoch=entry.epoch, job=entry.spec), to)

    def _refused(self, entry: Entry, now: float) -> Iterator[Action]:
        """All workers have declined it. One that would have run it may come again."""
        if entry.taken:
            self._jobs.wait(entry)
            return
        yield Answered(entry.id, next(reversed(entry.declined.values())))
        yield from self._forget(entry, now)

    def _claimed(self, entry: Entry, name: str, now: float) -> Iterator[Action]:
        if entry.phase is Phase.RUNNING and entry.holder != name:
            yield Send(entry.id, Drop(epoch=entry.epoch), name)
            return
        if entry.phase is not Phase.RUNNING:
            self._jobs.go(entry, Phase.RUNNING)
            entry.holder, entry.since = name, now
            entry.taken, entry.unreadable = True, 0
            self.workers.setdefault(name, Peer(now))
            yield Began(entry.id, entry.epoch)
        yield Send(entry.id, Grant(epoch=entry.epoch, watched=entry.watched), name)

    def _arrived(self, entry: Entry, report: Events | Chunk, now: float) -> Iterator[Action]:
        if isinstance(report, Events) and report.first > entry.events:
            yield from self._ask(entry, 0, now)
            return
        for event in entry.take(report):
            yield Happened(entry.id, event)
        last = entry.last
        if last is None or len(entry.chunks) < last.count:
            if last is not None and isinstance(report, Chunk) and report.index == last.count - 1:
                yield from self._ask(entry, last.count, now)
            return
        if entry.events < last.events:
            yield from self._ask(entry, 0, now)
            return
        yield Answered(entry.id, b"".join(entry.chunks[i] for i in range(last.count)))
        yield from self._forget(entry, now)

    def _ask(self, entry: Entry, chunks: int, now: float) -> Iterator[Action]:
        if now - entry.asked < self.patience:
            return
        entry.ask(now)
        if entry.unreadable >= MAX_UNREADABLE:
            yield Unreadable(entry.id)
            yield from self._forget(entry, now)
            return
        missing = [i for i in range(chunks) if i not in entry.chunks][:MAX_GAPS]
        yield Send(entry.id, Resend(epoch=entry.epoch, first=entry.events, chunks=tuple(missing)), entry.holder)

    def _take_back(self, entry: Entry) -> Iterator[Action]:
        if entry.phase is Phase.RUNNING:
            if entry.epoch >= self.max_epochs or entry.cancelled is not None:
                self._jobs.remove(entry)
                yield Lost(entry.id, entry.epoch)
                return
            entry.begin_anew()
        entry.holder, entry.asked = None, float("-inf")
        self._jobs.wait(entry)

    def _forget(self, entry: Entry, now: float) -> Iterator[Action]:
        self._jobs.remove(entry)
        if entry.holder is not None:
            entry.queued.add(entry.holder)
        for name in sorted(entry.queued):
            yield Send(entry.id, Drop(epoch=entry.epoch), name)
        yield from self._offer(now)
