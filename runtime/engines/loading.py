"""Loading an engine without holding up the event loop: in a thread that can be told to stop, and says how far it is."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from ..engine import Engine

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 1.5
"""Seconds of loading after which a terminal is shown a progress bar."""

_AGAIN = 0.2
"""Seconds between calls to stop."""

T = TypeVar("T")

_stop: ContextVar[threading.Event | None] = ContextVar("plait_stop", default=None)


class LoadingStopped(BaseException):
    """Whoever wanted this model no longer does. No mistake, and nothing that a loader should handle."""


def stop_check() -> Callable[[], None]:
    """A function that raises `LoadingStopped` once whoever this thread loads for has been cancelled. It may be called
    in other threads."""
    stop = _stop.get()

    def check() -> None:
        if stop is not None and stop.is_set():
            raise LoadingStopped

    return check


@contextmanager
def loading(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call before each of about `total` steps; it may raise `LoadingStopped`."""
    began = time.monotonic()
    check_stop = stop_check()
    done = 0
    bar: Progress | None = None

    def step() -> None:
        nonlocal bar, done
        check_stop()
        if bar is None and sys.stderr.isatty() and time.monotonic() - began > PATIENCE and done < total / 2:
            bar = _bar(title, total)
        done += 1
        if bar is not None:
            bar.update(bar.task_ids[0], completed=min(done, total), refresh=True)

    try:
        yield step
    finally:
        if bar is not None:
            bar.stop()


def _bar(title: str, total: int) -> Progress:
    from rich.console import Console  # A library that imports plait may never draw anything.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    bar.start()
    bar.add_task(title, total=total)
    return bar


async def load_in_thread(load: Callable[[], Engine]) -> Engine:
    """What `load` gives, called in a thread. When cancelled it asks the thread to stop, waits for it and closes the
    engine that may have come of it."""
    stop = threading.Event()

    def work() -> Engine | None:
        _stop.set(stop)
        try:
            return load()
        except LoadingStopped:
            return None

    async def drop(late: Engine | None) -> None:
        if late is not None:
            await late.close()

    engine = await in_thread(work, stop=stop.set, drop=drop)
    assert engine is not None
    return engine


async def in_thread(work: Callable[[], T], *, stop: Callable[[], None], drop: Callable[[T], Awaitable[None]]) -> T:
    """What `work` gives, called in a thread. When cancelled it calls `stop`, again and again, until the thread has
    ended, and then `drop` with what may have come of it: nothing goes on behind the caller's back."""
    # A thread of its own and not one of the loop's, which would stay.
    with ThreadPoolExecutor(1, thread_name_prefix="plait-loading") as thread:
        running = asyncio.get_running_loop().run_in_executor(thread, work)
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running], timeout=None if cancelled is None else _AGAIN)
            except asyncio.CancelledError as error:
                cancelled = error
            if cancelled is not None:
                stop()
    if cancelled is None:
        return running.result()
    if running.exception() is None:
        await drop(running.result())
    raise cancelled
