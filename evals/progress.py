"""How far an evaluation is: a bar in a terminal, a line every half a minute elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..runtime.settled import settled

LINE_SECONDS = 30.0


class _Rate(ProgressColumn):
    """Jobs per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class Count:
    """What is done so far; `advance` after every run."""

    def __init__(self, name: str, done: int, total: int) -> None:
        self.show: Callable[[int], object] = lambda done: None
        """Called with the new count."""
        self.name = name
        self.done = done
        self.total = total
        self.failed = 0
        """In this session."""
        self._before = done
        self._began = time.monotonic()

    def advance(self, has_failed: bool) -> None:
        self.done += 1
        self.failed += has_failed
        self.show(self.done)

    def line(self) -> str:
        """`countdown: 120/600, 3.2/s, 0:00:38 gone, 0:02:30 left, 1 failed`."""
        gone = time.monotonic() - self._began
        parts = [f"{self.name}: {self.done}/{self.total}"]
        if fresh := self.done - self._before:
            parts.append(f"{fresh / max(gone, 1e-3):.1f}/s")
        parts.append(f"{timedelta(seconds=round(gone))} gone")
        if fresh and self.done < self.total:
            left = gone / fresh * (self.total - self.done)
            parts.append(f"{timedelta(seconds=round(left))} left")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


@asynccontextmanager
async def progress(console: Console | None, name: str, done: int, total: int) -> AsyncIterator[Count]:
    """Show the count while the block runs; None: show nothing. Without a terminal, a line every `LINE_SECONDS` and one
    at the end, however it ends."""
    count = Count(name, done, total)
    if console is None:
        yield count
    elif console.is_terminal:
        with _bar(console) as shown:
            task = shown.add_task(name, total=total, completed=done)
            count.show = lambda done: shown.update(task, completed=done)
            yield count
    else:
        lines = asyncio.create_task(_lines(console, count))
        try:
            yield count
        finally:
            lines.cancel()
            try:
                await settled([lines])
            finally:
                _print(console, count)


async def _lines(console: Console, count: Count) -> None:
    while True:
        await asyncio.sleep(LINE_SECONDS)
        _print(console, count)


def _print(console: Console, count: Count) -> None:
    console.print(count.line(), highlight=False, markup=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    """Bar, count, rate, time gone and time left."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=60,
    )
