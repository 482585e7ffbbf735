from __future__ import annotations

import asyncio

import pytest

from plait.runtime.settled import settled


async def test_a_cancellation_is_raised_once_all_have_ended():
    async def slow():
        try:
            await asyncio.sleep(10)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)

    async def broken():
        raise ValueError

    tasks = [asyncio.create_task(slow()), asyncio.create_task(broken())]
    waiting = asyncio.create_task(settled(tasks))
    await asyncio.sleep(0)
    tasks[0].cancel()
    for _ in range(3):
        waiting.cancel("enough")
        await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await waiting
    assert all(task.done() for task in tasks) and isinstance(tasks[1].exception(), ValueError)
    await settled(tasks)
