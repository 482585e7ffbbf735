"""What comes from another thread: in order, on the loop, and a few at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from plait.runtime.engines.native.mailbox import Mailbox


async def test_many_deliveries_come_in_order_and_share_the_loop():
    mailbox = Mailbox(asyncio.get_running_loop())
    got: list[Any] = []
    waiting: list[Any] = [
        SimpleNamespace(number=i, generation=SimpleNamespace(receive=lambda delivery: got.append(delivery.number)))
        for i in range(100)
    ]
    mailbox.put(waiting)
    assert got == []  # never from the thread that has them
    counts = []
    while len(got) < 100:
        before = len(got)
        await asyncio.sleep(0)
        counts.append(len(got) - before)
        assert len(counts) < 20
    assert got == list(range(100)) and max(counts) <= 32 and not mailbox
    mailbox.put([])
    await asyncio.sleep(0)
    assert not mailbox.is_orphaned


def test_a_loop_that_has_been_closed_is_known():
    loop = asyncio.new_event_loop()
    loop.close()
    mailbox = Mailbox(loop)
    mailbox.put([])
    assert not mailbox.is_orphaned
    mailbox.call(loop.stop)
    assert mailbox.is_orphaned
