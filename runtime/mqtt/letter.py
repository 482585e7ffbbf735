"""`Letter`: a message on its way to the broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

HEAD_BYTES = 10
"""Of a packet, besides topic and payload: type, lengths, number, no properties (MQTT 5, 3.3)."""


@dataclass(slots=True)
class Letter:
    topic: str
    payload: bytes
    retain: bool
    sent: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done once the broker has it, or nobody wants it any longer."""
    sending: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Bytes of its packet."""
        return HEAD_BYTES + len(self.topic.encode()) + len(self.payload)
