"""`watch`: a process that is read, probed and stopped at its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...runtime.settled import unhurried
from .base import Limits, SandboxFailed
from .output import Output

T = TypeVar("T")

TICK = 0.1
"""Seconds between two probes."""
SETUP_SECONDS = 120.0
"""Until the command begins: files are made, on a busy machine."""
GRACE_SECONDS = 10.0
"""For killed processes to go."""

Killed = Literal["timeout", "memory", "disk"]
Probe = Callable[[int], Awaitable[Killed | None]]
"""What is asked of a running command, given the process's number: is it over a limit?"""
Kill = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What came of a process."""

    exit_code: int
    output: str
    status: list[str]
    """Lines of its status channel."""
    seconds: float
    """Since the line `begun`."""
    killed: Killed | None


async def watch(
    command: Sequence[str],
    *,
    stdin: int,
    descriptors: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    limits: Limits,
    probe: Probe,
    kill: Kill,
) -> Watched:
    """Run a process to its end, or to the first limit that it crosses.

    On its standard error the process says how far it is, see `script`; what it writes goes to its standard output.
    `descriptors`: what it inherits besides. `kill`: ends the process and all that it has started. Cancelling kills.
    Raises `SandboxFailed` when the process cannot be started, or does not say `begun` in time.
    """
    output, status = Output(limits.output_chars), Output(10_000)
    begun: float | None = None

    def progress(data: bytes) -> None:
        nonlocal begun
        status.add(data)
        if begun is None and "begun" in status.text().splitlines():
            begun = time.monotonic()

    output_end, status_end = _Channel(output.add), _Channel(progress)
    async with contextlib.AsyncExitStack() as stack:
        for channel in (output_end, status_end):
            await channel.open()
            stack.callback(channel.close)
        running: list[_Running] = []

        async def start() -> None:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=stdin,
                    stdout=output_end.write_end,
                    stderr=status_end.write_end,
                    pass_fds=descriptors,
                    env=environment or {},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxFailed(f"cannot be started: {error}") from error
            running.append(_Running(process.pid, asyncio.ensure_future(process.wait())))
            for channel in (output_end, status_end):
                channel.close_write_end()

        started = time.monotonic()
        killed: Killed | None = None
        try:
            await unhurried(start())
            process = running[0]
            while not process.ended.done():
                left = started + SETUP_SECONDS if begun is None else begun + limits.seconds
                left -= time.monotonic()
                if left <= 0:
                    if begun is None:
                        raise SandboxFailed("its files were not made in time")
                    killed = "timeout"
                    break
                if begun is not None:
                    killed = await probe(process.pid)
                    if killed is not None:
                        break
                news: set[asyncio.Future[Any]] = {process.ended, status_end.changed()}
                await asyncio.wait(news, timeout=min(TICK, left), return_when=asyncio.FIRST_COMPLETED)
            finished = time.monotonic()
        finally:
            for process in running:
                await unhurried(_end(process, [output_end, status_end], kill))
        status.add(b"", final=True)
        output.add(b"", final=True)
        return Watched(
            exit_code=process.ended.result(),
            output=output.text(),
            status=status.text().splitlines(),
            seconds=0.0 if begun is None else max(0.0, finished - begun),
            killed=killed,
        )


async def acquire(stack: contextlib.AsyncExitStack, make: Callable[[], T], release: Callable[[T], None]) -> T:
    """Make something in a thread. The stack releases it in one, though this task be cancelled meanwhile."""

    async def give_back(thing: T) -> None:
        await unhurried(asyncio.to_thread(release, thing))

    async def work() -> T:
        thing = await asyncio.to_thread(make)
        stack.push_async_callback(give_back, thing)
        return thing

    return await unhurried(work())


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    ended: asyncio.Future[int]


async def _end(process: _Running, channels: list[_Channel], kill: Kill) -> None:
    if not process.ended.done():
        await kill(process.pid)
        await process.ended
    # What the process left behind is dying; whoever still lives keeps a channel open.
    await asyncio.wait({channel.ended for channel in channels}, timeout=GRACE_SECONDS)


class _Channel:
    """A pipe whose other end a process writes to."""

    def __init__(self, consume: Callable[[bytes], None]) -> None:
        self._consume = consume
        self._read_end, self.write_end = os.pipe()
        self._transport: asyncio.ReadTransport | None = None
        self._changed: asyncio.Future[None] | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        protocol = _Protocol(self._receive, self.ended)
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(self._read_end, "rb", 0))

    def _receive(self, data: bytes) -> None:
        self._consume(data)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def changed(self) -> asyncio.Future[None]:
        """Done at the next data."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.close_write_end()
        if self._transport is not None:
            self._transport.close()


class _Protocol(asyncio.Protocol):
    def __init__(self, receive: Callable[[bytes], None], ended: asyncio.Future[None]) -> None:
        self._receive = receive
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def connection_lost(self, exception: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def kill_tree(pid: int) -> None:
    """Kill a child of this process and all its descendants."""
    with contextlib.suppress(ProcessLookupError):
        # Stopped, it starts nothing new and takes in the children of those that die.
        os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + GRACE_SECONDS
        while (alive := list(filter(_is_alive, descendants(pid)))) and time.monotonic() < end:
            for child in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            await asyncio.sleep(0.001)
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Numbers of all descendants, parents before children."""
    found, rest = [], [pid]
    while rest:
        children: list[int] = []
        for task in _tasks(rest.pop()):
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
        found += children
        rest += children
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def resident_bytes(pids: Sequence[int], limit: int) -> int:
    """Memory of processes together; shared pages count once where the plain sum is over the limit."""
    total = sum(_statm(pid) for pid in pids)
    return total if total <= limit else sum(map(_proportional, pids))


def _statm(pid: int) -> int:
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return _statm(pid)
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), _statm(pid))
