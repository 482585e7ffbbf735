"""Wait for work to the end, also where that is cancelled: `settled` for tasks, `unhurried` for what one gives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Return when all have ended, however they do: what they raise is not raised here. A cancellation meanwhile is
    raised then, and not before."""
    cancelled: asyncio.CancelledError | None = None
    tasks = set(tasks)
    left = tasks
    while left:
        try:
            _, left = await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled, left = error, {task for task in left if not task.done()}
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Retrieved.
    if cancelled is not None:
        raise cancelled


async def unhurried(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, finished though this task be cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    await settled([task])
    return task.result()
