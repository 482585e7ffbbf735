"""`Mailbox`: from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .generation import Delivery

_AT_A_TIME = 32
"""Deliveries in one turn of the event loop: who waits for them has to run in between."""


class Mailbox:
    """Deliveries arrive in order, on the loop's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_orphaned = False
        """Has the loop been closed with jobs at work? Nobody is left to work for."""
        self._waiting: deque[Delivery] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, deliveries: list[Delivery]) -> None:
        if deliveries:
            self._waiting.extend(deliveries)
            self.call(self._hand_out)

    def call(self, call: Callable[[], object]) -> None:
        """Call it on the loop."""
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            self.is_orphaned = True

    def _hand_out(self) -> None:
        for _ in range(min(len(self._waiting), _AT_A_TIME)):
            delivery = self._waiting.popleft()
            delivery.generation.receive(delivery)
        if self._waiting:
            self.loop.call_soon(self._hand_out)
