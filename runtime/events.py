"""Typed events of a job, and the queues that carry them to readers.

Each reader has its own queue, so a slow one holds up nobody. A queue never blocks and never drops structure: text that
has not been read yet grows into one `Text` event per branch and stretch, and only the latest `BudgetUsed` waits. So
what can pile up is bounded by the size of the tree, not by the number of tokens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from .errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    type: ClassVar[str]
    job: str
    time: float
    """Seconds since the job started."""

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEvent(Event):
    branch: str
    """The branch's path, as `0.1.2`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    type = "started"
    method: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchStarted(BranchEvent):
    type = "branch_started"
    parent: str | None
    """The branch it was forked from or spawned by."""
    label: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(BranchEvent):
    type = "text"
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(BranchEvent):
    """One generation of the branch ended."""

    type = "stopped"
    reason: str
    """A `Finish` value."""
    tokens: int
    """Sampled by this generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked(BranchEvent):
    type = "forked"
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(BranchEvent):
    type = "merged"
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(BranchEvent):
    """Results of other branches were put into this one as text."""

    type = "joined"
    children: tuple[str, ...]
    found: tuple[str, ...]
    """Those of the children that handed back a result."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored(BranchEvent):
    type = "scored"
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(BranchEvent):
    """The branch was given up before it ended by itself."""

    type = "pruned"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(BranchEvent):
    type = "tool_started"
    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished(BranchEvent):
    type = "tool_finished"
    tool: str
    ok: bool
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled(BranchEvent):
    """The model asked for a tool; whoever gave it the tools may run it."""

    type = "tool_called"
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEntered(BranchEvent):
    """What the branch belongs to, a state machine, went over into another state."""

    type = "state_entered"
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUsed(Event):
    type = "budget"
    total_tokens: int
    critical_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    type = "done"
    answer: str | None
    reason: str
    total_tokens: int
    critical_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The job ended without a result; `cancelled` tells a cancellation from an error."""

    type = "failed"
    error: str
    cancelled: bool


_CLASSES: tuple[type[Event], ...] = (
    Started,
    BranchStarted,
    Text,
    Stopped,
    Forked,
    Merged,
    Joined,
    Scored,
    Pruned,
    ToolStarted,
    ToolFinished,
    ToolCalled,
    StateEntered,
    BudgetUsed,
    Done,
    Failed,
)
EVENT_TYPES: dict[str, type[Event]] = {cls.type: cls for cls in _CLASSES}


def parse_event(data: dict[str, Any]) -> Event:
    """The event that `to_json` wrote; raises `InvalidInput` for anything else."""
    cls = EVENT_TYPES.get(str(data.get("type")))
    if cls is None:
        raise InvalidInput(f"unknown event type {data.get('type')!r}; known: {', '.join(EVENT_TYPES)}")
    values: dict[str, Any] = {
        key: tuple(value) if key in ("children", "found") else value for key, value in data.items()
    }
    del values["type"]
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidInput(f"malformed {cls.type!r} event: {error}") from None


class EventQueue:
    """Unread events of one reader; iterate it until the job's last event."""

    def __init__(self) -> None:
        self._pending: deque[Event] = deque()
        self._open_text: dict[str, int] = {}
        """Branch -> running number of its unread `Text` that may still grow."""
        self._budget: int | None = None
        self._taken = 0
        self._ended = False
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, event: Event) -> None:
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

    def get_nowait(self) -> Event | None:
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

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
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
        self._last: Event | None = None
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

    def emit(self, event: Event) -> None:
        for queue in self._queues:
            queue.put(event)

    def end(self, last: Event) -> None:
        """Emit the job's last event and close all queues. Only the first call counts."""
        if self._last is not None:
            return
        self._last = last
        self.emit(last)
        for queue in self._queues:
            queue.end()
        self._queues.clear()
