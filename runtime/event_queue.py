"""`EventQueue` and `EventHub`: what carries the events of a job to its readers.

Each reader has its own queue, so a slow one holds up nobody. A queue never blocks and never drops structure: text that
has not been read yet grows into one `Text` event per branch and stretch, and only the latest `BudgetUsed` waits. So
what can pile up is bounded by the size of the tree, not by the number of tokens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from .events import AnyEvent, BranchEvent, BudgetUsed, Text


class EventQueue:
    """Unread events of one reader; iterate it until the job's last event."""

    def __init__(self) -> None:
        self._pending: deque[AnyEvent] = deque()
        self._open_text: dict[str, int] = {}
        """Branch -> running number of its unread `Text` that may still grow."""
        self._budget: int | None = None
        self._taken = 0
        self._ended = False
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, event: AnyEvent) -> None:
        """Add an event, or grow the unread one that it continues."""
        if isinstance(event, Text):
            self._put_text(event)
            return
        if isinstance(event, BudgetUsed):
            if self._budget is not None:
                # In the old figure's place: a reader only ever wants the latest, and the sooner the better.
                self._pending[self._budget - self._taken] = event
                return
            self._budget = self._taken + len(self._pending)
        elif isinstance(event, BranchEvent):
            self._open_text.pop(event.branch, None)
        self._pending.append(event)
        self._ready.set()

    def _put_text(self, event: Text) -> None:
        number = self._open_text.get(event.branch)
        if number is None:
            self._open_text[event.branch] = self._taken + len(self._pending)
            self._pending.append(event)
            self._ready.set()
            return
        old = self._pending[number - self._taken]
        assert isinstance(old, Text)
        grown = replace(old, text=old.text + event.text, tokens=old.tokens + event.tokens)
        self._pending[number - self._taken] = grown

    def end(self) -> None:
        """No further event will come."""
        self._ended = True
        self._ready.set()

    def get_nowait(self) -> AnyEvent | None:
        """The oldest unread event, or None."""
        if not self._pending:
            return None
        event = self._pending.popleft()
        if isinstance(event, Text) and self._open_text.get(event.branch) == self._taken:
            del self._open_text[event.branch]
        if self._budget == self._taken:
            self._budget = None
        self._taken += 1
        return event

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        return self

    async def __anext__(self) -> AnyEvent:
        while True:
            event = self.get_nowait()
            if event is not None:
                return event
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()


class EventHub:
    """Hands every event of a job to each of its readers' queues."""

    def __init__(self) -> None:
        self._queues: list[EventQueue] = []
        self._last: AnyEvent | None = None
        """Set once the job ended: late readers get it, and nothing else."""

    @property
    def has_readers(self) -> bool:
        return bool(self._queues)

    def subscribe(self) -> EventQueue:
        queue = EventQueue()
        if self._last is None:
            self._queues.append(queue)
        else:
            queue.put(self._last)
            queue.end()
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        if queue in self._queues:
            self._queues.remove(queue)

    def emit(self, event: AnyEvent) -> None:
        for queue in self._queues:
            queue.put(event)

    def end(self, last: AnyEvent) -> None:
        """Emit the job's last event and close all queues. Only the first call counts."""
        if self._last is not None:
            return
        self._last = last
        self.emit(last)
        for queue in self._queues:
            queue.end()
        self._queues.clear()
