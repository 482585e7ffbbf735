"""A worker's side of the protocol: the jobs it has, those it may run, and what it keeps until the client has it.

Pure: `Desk` is told what arrives, what its own jobs do and what time it is, and answers with reports to send (`Reply`)
and with jobs to begin, to watch and to end (`Begin`, `Show`, `End`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .hearing import Hearing
from .messages import (
    HELD_BYTES,
    Beat,
    Cancel,
    Chunk,
    Claim,
    Declined,
    Drop,
    Events,
    Grant,
    Held,
    Offer,
    Order,
    Queued,
    Report,
    Resend,
    Returned,
    Watch,
    sendable,
)
from .worker_actions import Action, Begin, Check, End, Key, Reply, Show, Withdraw
from .worker_entries import Entry, Phase


class Desk:
    """The jobs of one worker."""

    def __init__(
        self,
        worker: str,
        *,
        capacity: int,
        model: str = "",
        patience: float = 1.0,
        claim_seconds: float = 10.0,
        keep_seconds: float = 600.0,
        max_queue: int = 1000,
        jobs_per_beat: int = 1000,
        chunk_bytes: int = 1 << 18,
        event_bytes: int = 1 << 20,
        refusal: Callable[[dict[str, Any]], bytes | None] = lambda job: None,
        is_long: Callable[[dict[str, Any]], bool] = lambda job: False,
    ) -> None:
        """Seconds: `patience` before a claim is repeated, `claim_seconds` before it is given up, `keep_seconds` before
        an answer that nobody takes is. `max_queue`: jobs held beside as many as may run. Bytes: `chunk_bytes` of an
        answer, `event_bytes` of events in a message. `refusal`: the answer to a job that this worker cannot run; None:
        it can. `is_long`: would that take time?"""
        self.worker = worker
        self.capacity = capacity
        self.model = model
        self.patience = patience
        self.claim_seconds = claim_seconds
        self.keep_seconds = keep_seconds
        self.max_queue = max_queue
        self.jobs_per_beat = jobs_per_beat
        self.chunk_bytes = chunk_bytes
        self.event_bytes = event_bytes
        self._refusal = refusal
        self._is_long = is_long
        self.is_stopping = False
        self._hearing = Hearing()
        self._jobs: dict[Key, Entry] = {}
        self._running: set[tuple[Key, int]] = set()
        """Begun and not ended, whether they still count or not: these take the slots."""

    def fit(self, packet_bytes: int) -> None:
        """From now on reports and beats are cut for a broker that takes so much."""
        self.chunk_bytes = min(packet_bytes - 2048, 1 << 18)
        self.event_bytes = packet_bytes - 1024
        self.jobs_per_beat = (packet_bytes - 2048) // HELD_BYTES

    @property
    def free(self) -> int:
        claimed = sum(entry.phase is Phase.CLAIMED for entry in self._jobs.values())
        return 0 if self.is_stopping else max(self.capacity - len(self._running) - claimed, 0)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def unanswered(self) -> int:
        """Jobs of which the client has not taken the answer."""
        return sum(entry.phase is Phase.FINISHED for entry in self._jobs.values())

    def has_begun(self, key: Key) -> bool:
        entry = self._jobs.get(key)
        return entry is not None and entry.phase in (Phase.RUNNING, Phase.FINISHED)

    def beat(self) -> Beat:
        held = [
            Held(
                client=client,
                job=job,
                epoch=entry.epoch,
                events=len(entry.events),
                watched=entry.watched,
                chunks=len(entry.chunks),
            )
            for (client, job), entry in self._jobs.items()
        ]
        return Beat(capacity=0 if self.is_stopping else self.capacity, free=self.free, model=self.model, jobs=held)

    def beats(self) -> Iterator[Beat]:
        """The beat in as many messages as its jobs take."""
        beat, size = self.beat(), self.jobs_per_beat
        jobs = sorted(beat.jobs, key=lambda held: held.place)
        parts = [jobs[at : at + size] for at in range(0, len(jobs), size)] or [[]]
        begins = ["", *(part[0].place for part in parts[1:])]
        for part, begin, end in zip(parts, begins, [*begins[1:], None], strict=True):
            yield beat.model_copy(update={"jobs": part, "begin": begin, "end": end})

    def offer(self, key: Key, offer: Offer, now: float) -> Iterator[Action]:
        known = self._jobs.get(key)
        if known is not None and known.epoch >= offer.epoch:
            if known.phase is Phase.QUEUED and known.epoch == offer.epoch:
                yield self._reply(key, Queued(worker=self.worker, epoch=known.epoch))
            return
        if self.is_stopping or len(self._jobs) >= self.capacity + self.max_queue:
            yield self._reply(key, Returned(worker=self.worker, epoch=offer.epoch))
            return
        if known is not None:
            yield from self._drop(key, known, "taken over", now)
        self._jobs[key] = Entry(offer.epoch, offer.job, since=now)
        if self._is_long(offer.job):
            yield Check(key, offer.epoch, offer.job)
        else:
            yield from self.checked(key, offer.epoch, self._refusal(offer.job), now)

    def checked(self, key: Key, epoch: int, refusal: bytes | None, now: float) -> Iterator[Action]:
        """This keeps the worker from an offered job, or nothing. Of one that it has no longer it says nothing."""
        entry = self._jobs.get(key)
        if entry is None or entry.epoch != epoch or entry.phase is not Phase.CHECKED:
            return
        if refusal is not None:
            del self._jobs[key]
            yield self._reply(key, Declined(worker=self.worker, epoch=epoch, body=refusal))
            return
        entry.phase, entry.since = Phase.QUEUED, now
        yield from self._claim(now)
        if entry.phase is Phase.QUEUED:
            yield self._reply(key, Queued(worker=self.worker, epoch=epoch))

    def order(self, key: Key, order: Order, now: float) -> Iterator[Action]:
        if isinstance(order, Offer):
            yield from self.offer(key, order, now)
            return
        entry = self._jobs.get(key)
        if entry is None:
            return
        match order:
            case Drop() if order.epoch >= entry.epoch:
                yield from self._drop(key, entry, "not wanted any longer", now)
            case Grant() if order.epoch == entry.epoch and entry.phase is Phase.CLAIMED:
                entry.phase, entry.since, entry.watched = Phase.RUNNING, now, order.watched
                self._running.add((key, entry.epoch))
                yield Begin(key, entry.epoch, entry.job, entry.watched)
            case Watch() if order.epoch == entry.epoch and entry.phase is Phase.RUNNING and not entry.watched:
                entry.watched = True
                yield Show(key, entry.epoch)
            case Cancel() if order.epoch == entry.epoch and entry.phase is Phase.RUNNING:
                yield End(key, entry.epoch, order.reason)
            case Resend() if order.epoch == entry.epoch:
                if order.first < len(entry.events):
                    yield from self._events(key, entry, order.first)
                chunks = [i for i in order.chunks if i < len(entry.chunks)]
                if not chunks and not order.chunks and entry.chunks:
                    chunks = [len(entry.chunks) - 1]  # It says how many of everything there are.
                for i in chunks:
                    yield self._reply(key, self._chunk(entry, i))

    def happened(self, key: Key, epoch: int, events: Iterable[dict[str, Any]]) -> Iterator[Action]:
        """A running job emitted these."""
        entry = self._jobs.get(key)
        if entry is None or entry.epoch != epoch or entry.phase is Phase.FINISHED:
            return
        first = len(entry.events)
        for event in events:
            said, size = sendable(event, self.event_bytes)
            entry.events.append(said)
            entry.sizes.append(size)
        yield from self._events(key, entry, first)

    def answered(self, key: Key, epoch: int, data: bytes, now: float) -> Iterator[Action]:
        """A running job has ended with this."""
        self._running.discard((key, epoch))
        entry = self._jobs.get(key)
        if entry is not None and entry.epoch == epoch and entry.phase is not Phase.FINISHED:
            yield from self._finish(key, entry, data, now)
        yield from self._claim(now)

    def refused(self, key: Key, answer: bytes, now: float) -> Iterator[Action]:
        """The broker does not take a report of this job: the answer is `answer`. One that was cut for a broker that
        took more cannot be cut anew, since the client may have parts of it: the job is handed back."""
        entry = self._jobs.get(key)
        if entry is None:
            return
        if entry.phase is Phase.FINISHED:
            del self._jobs[key]
            yield self._reply(key, Returned(worker=self.worker, epoch=entry.epoch))
        elif entry.phase is Phase.RUNNING:
            entry.events, entry.sizes = [], []
            yield from self._finish(key, entry, answer, now)
            yield End(key, entry.epoch, "a report was too large for the broker")

    def _finish(self, key: Key, entry: Entry, data: bytes, now: float) -> Iterator[Action]:
        entry.phase, entry.since = Phase.FINISHED, now
        size = self.chunk_bytes
        entry.chunks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for i in range(len(entry.chunks)):
            yield self._reply(key, self._chunk(entry, i))

    def client_gone(self, client: str, now: float) -> Iterator[Action]:
        """Nobody waits for its jobs any longer."""
        for key, entry in list(self._jobs.items()):
            if key[0] == client:
                yield from self._drop(key, entry, "the client is gone", now)

    def stop(self) -> Iterator[Action]:
        """Take no more, and hand back what has not begun."""
        self.is_stopping = True
        yield from self._hand_back(Phase.CHECKED, Phase.QUEUED, Phase.CLAIMED)

    def abandon(self) -> Iterator[Action]:
        """Hand back what runs, too."""
        yield from self._hand_back(Phase.RUNNING)

    def _hand_back(self, *phases: Phase) -> Iterator[Action]:
        for key, entry in list(self._jobs.items()):
            if entry.phase in phases:
                del self._jobs[key]
                if entry.is_worked_on:
                    yield End(key, entry.epoch, "the worker stops")
                yield self._reply(key, Returned(worker=self.worker, epoch=entry.epoch))

    def tick(self, now: float) -> Iterator[Action]:
        """To be called a few times a second while there is a connection."""
        missed = self._hearing.missed(now)
        for key, entry in list(self._jobs.items()):
            if entry.phase is Phase.CLAIMED:
                entry.since = min(entry.since + missed, now)
            if entry.phase is Phase.CLAIMED and now - entry.since > self.claim_seconds:
                del self._jobs[key]
            elif entry.phase is Phase.CLAIMED and now - entry.said > self.patience:
                entry.said = now
                yield self._reply(key, Claim(worker=self.worker, epoch=entry.epoch))
            elif entry.phase is Phase.FINISHED and now - entry.since > self.keep_seconds:
                del self._jobs[key]
        yield from self._claim(now)

    def _claim(self, now: float) -> Iterator[Action]:
        free = self.free
        for key, entry in self._jobs.items():
            if not free:
                return
            if entry.phase is Phase.QUEUED:
                free -= 1
                entry.phase, entry.since, entry.said = Phase.CLAIMED, now, now
                yield self._reply(key, Claim(worker=self.worker, epoch=entry.epoch))

    def _drop(self, key: Key, entry: Entry, reason: str, now: float) -> Iterator[Action]:
        del self._jobs[key]
        yield Withdraw(key)
        if entry.is_worked_on:
            yield End(key, entry.epoch, reason)
        yield from self._claim(now)

    def _events(self, key: Key, entry: Entry, first: int) -> Iterator[Action]:
        while first < len(entry.events):
            end, room = first + 1, self.event_bytes - entry.sizes[first]
            while end < len(entry.events) and entry.sizes[end] < room:
                room -= entry.sizes[end] + 1
                end += 1
            report = Events(worker=self.worker, epoch=entry.epoch, first=first, events=entry.events[first:end])
            yield self._reply(key, report)
            first = end

    def _chunk(self, entry: Entry, index: int) -> Chunk:
        return Chunk(
            worker=self.worker,
            epoch=entry.epoch,
            index=index,
            count=len(entry.chunks),
            events=len(entry.events),
            body=entry.chunks[index],
        )

    def _reply(self, key: Key, report: Report) -> Reply:
        return Reply(key, report)
