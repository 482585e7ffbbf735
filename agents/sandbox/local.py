"""`Local`: an ordinary process in a temporary folder. It isolates nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal

from ...runtime.errors import InvalidInput
from ..environments import Environment
from ..repository import Snapshot
from .base import SCRATCH, TREE, Execution, Limits, Sandbox, SandboxFailed
from .cgroup import Cgroup
from .process import Killed, acquire, descendants, kill_tree, resident_bytes, watch
from .script import check_command, execution, files_archive, patch_bytes, script, variables
from .tree import Archive, open_archive

logger = logging.getLogger(__name__)

REAPER = Path(__file__).with_name("reaper.py")


class Local(Sandbox):
    """For commands that one would run oneself; used only when asked for by name.

    Enforced: the deadline, the size of one file, the memory of each process, the output that is kept; all processes
    together are limited in number and memory where this process may make a control group, else the number counts what
    the user runs besides (not at all for root), and memory is measured ten times a second. Disk use is measured now and
    then. What the command starts is ended with it, as long as it does not kill the process that does so.

    Not enforced: the command has the network, reads and writes every file that this user may, sees and may kill this
    user's other processes. Files that are deleted but open count for no disk limit.
    """

    sandbox: Literal["local"] = "local"
    """The sandbox's name."""
    environment: Environment = Environment()
    """The Python inside."""

    def check(self) -> None:
        for program in ("git", "tar", "prlimit"):
            if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") is None:
                raise InvalidInput(f"the sandbox needs the program {program!r} in /usr/bin")
        self.environment.interpreter()
        logger.warning("the sandbox `local` isolates nothing: what a model wrote runs with all rights of this user")

    async def run(
        self,
        command: Sequence[str],
        snapshot: Snapshot,
        *,
        files: Mapping[str, str] | None = None,
        inside: bool = False,
        limits: Limits | None = None,
    ) -> Execution:
        check_command(command)
        limits = limits or self.limits
        given, patch = files_archive(files or {}), patch_bytes(snapshot)
        interpreter = await asyncio.to_thread(self.environment.interpreter)
        async with AsyncExitStack() as stack:
            archive = await acquire(stack, partial(open_archive, snapshot), Archive.close)
            folder = await acquire(stack, _make_folder, _remove)
            (folder / "files").write_bytes(given)
            (folder / "patch").write_bytes(patch)
            tree = folder / Path(TREE).name
            memory, disk = limits.memory_mb << 20, limits.disk_mb << 20
            room = memory + archive.disk_bytes + disk + 2**26
            # The reaper and the shell are there, too.
            make = partial(Cgroup.make, memory_bytes=room, processes=limits.processes + 2)
            group = await acquire(stack, make, Cgroup.remove_if_any)
            inner = script(
                tree=str(tree),
                scratch=str(folder / Path(SCRATCH).name),
                files=str(folder / "files"),
                patch=str(folder / "patch") if snapshot.patch else None,
                limits=limits,
                processes=limits.processes + await asyncio.to_thread(_tasks_of_user),
                paths=self.environment.paths,
                inside=inside,
            )
            python = interpreter.executable
            arguments = [sys.executable, "-I", "-S", str(REAPER), "/bin/sh", "-c", inner, "sh"]
            arguments += [python if command[0] == "python" else command[0], *command[1:]]
            usage = _Usage(folder)
            stack.push_async_callback(usage.stop)

            async def probe(pid: int) -> Killed | None:
                if group is None:
                    if resident_bytes(descendants(pid), memory) > memory:
                        return "memory"
                elif group.has_run_out() or group.anonymous_bytes() > memory:
                    return "memory"
                return "disk" if usage.latest() - archive.disk_bytes > disk else None

            try:
                watched = await watch(
                    arguments if group is None else group.joining(arguments),
                    stdin=archive.descriptor,
                    environment={
                        "TMPDIR": str(folder / "tmp"),
                        **variables(python, self.environment.variables, str(folder / "home")),
                    },
                    limits=limits,
                    probe=probe,
                    kill=kill_tree,
                )
                return execution(watched, out_of_memory=group is not None and group.has_run_out())
            except SandboxFailed as error:
                raise SandboxFailed(f"local: {error}") from error


class _Usage:
    """What a folder holds, measured in the background."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes = 0
        self._begun = self._next = 0.0
        self._task: asyncio.Task[int] | None = None

    def latest(self) -> int:
        """Bytes at the last measurement; begins another one when that is a while ago."""
        now = time.monotonic()
        if self._task is not None and self._task.done():
            self._bytes, self._task = self._task.result(), None
            self._next = now + 5 * (now - self._begun)
        if self._task is None and now >= self._next:
            self._begun = now
            self._task = asyncio.create_task(asyncio.to_thread(_bytes_in, self._folder))
        return self._bytes

    async def stop(self) -> None:
        if self._task is not None:
            await self._task


def _bytes_in(folder: Path) -> int:
    total, rest = 0, [str(folder)]
    while rest:
        try:
            with os.scandir(rest.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        rest.append(entry.path)
        except OSError:  # It went away, or may not be read.
            continue
    return total


def _tasks_of_user() -> int:
    """Processes and threads of this user, which the kernel counts together with those of the command."""
    user, count = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == user:
                count += sum(1 for _ in (folder / "task").iterdir())
        except OSError:
            continue
    return count


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="plait-"))
    (folder / "tmp").mkdir()
    return folder


def _remove(folder: Path) -> None:
    """Remove a folder, whatever rights and depth a command gave to what is in it."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        if not folder.exists():
            return
        subprocess.run([*command, str(folder)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
