"""`Cgroup`: a control group of one command, version 1 or 2, where this process may make one."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
JOIN = (
    'for folder in $PLAIT_CGROUPS; do echo $$ > "$folder/cgroup.procs" || exit 1; done; unset PLAIT_CGROUPS; exec "$@"'
)
"""Shell: joins before it becomes the command, so that nothing ever runs outside."""
_numbers = itertools.count()


class Cgroup:
    """Limits on all processes of a command together. `make`, then `remove` in any case."""

    def __init__(self, folders: dict[str, Path]) -> None:
        """`folders`: controller -> folder; in version 2 they are the same."""
        self._folders = folders

    @staticmethod
    def is_possible() -> bool:
        """May this process make groups? Blocks the first time."""
        return _parents() is not None

    @classmethod
    def make(cls, *, memory_bytes: int, processes: int) -> Cgroup | None:
        """A new group; None: there can be none here."""
        parents = _parents()
        return None if parents is None else cls._make(parents, memory_bytes, processes)

    @classmethod
    def _make(cls, parents: dict[str, Path], memory_bytes: int, processes: int) -> Cgroup | None:
        name = f"plait-{os.getpid()}-{next(_numbers)}"
        group = cls({controller: parent / name for controller, parent in parents.items()})
        memory, pids = group._folders["memory"], group._folders["pids"]
        try:
            for folder in {memory, pids}:
                folder.mkdir()
            if group._is_v1:
                (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
            else:
                (memory / "memory.max").write_text(str(memory_bytes))
                (memory / "memory.swap.max").write_text("0")
            (pids / "pids.max").write_text(str(processes))
        except OSError:
            group.remove()
            return None
        return group

    @property
    def _is_v1(self) -> bool:
        return self._folders["memory"] != self._folders["pids"]

    def joining(self, command: list[str]) -> list[str]:
        """The command that joins the group and becomes `command`."""
        folders = " ".join(str(folder) for folder in set(self._folders.values()))
        return ["/usr/bin/env", f"PLAIT_CGROUPS={folders}", "/bin/sh", "-c", JOIN, "sh", *command]

    def anonymous_bytes(self) -> int:
        """Memory of all processes that is no file's."""
        key = "total_rss" if self._is_v1 else "anon"
        return self._number("memory.stat", key)

    def has_run_out(self) -> bool:
        """Has the kernel killed a process for want of memory?"""
        return self._number("memory.oom_control" if self._is_v1 else "memory.events", "oom_kill") > 0

    def kill(self) -> bool:
        """Kill what is in it; False: nothing was."""
        found = False
        for folder in set(self._folders.values()):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    found = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
        return found

    def remove(self) -> None:
        """Kill what is left and remove the group. Blocks for as long as the kernel takes to bury processes."""
        end = time.monotonic() + 10
        while self.kill() and time.monotonic() < end:
            time.sleep(0.002)
        for folder in set(self._folders.values()):
            while folder.exists() and time.monotonic() < end:
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.002)

    @staticmethod
    def remove_if_any(group: Cgroup | None) -> None:
        if group is not None:
            group.remove()

    def _number(self, file: str, key: str) -> int:
        try:
            lines = (self._folders["memory"] / file).read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), 0)


@cache
def _parents() -> dict[str, Path] | None:
    """Where groups can be made and joined: below this process's own ones (version 1), or in the first folder on the way
    up from its own that allows it (version 2)."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            own[controller] = path.lstrip("/")
    candidates = []
    if "memory" in own and "pids" in own:
        candidates.append({name: ROOT / name / own[name] for name in ("memory", "pids")})
    elif "" in own:
        folder = ROOT / own[""]
        ways = [folder, *(parent for parent in folder.parents if parent.is_relative_to(ROOT))]
        candidates += [{"memory": way, "pids": way} for way in ways]
    return next(filter(_is_usable, candidates), None)


def _is_usable(parents: dict[str, Path]) -> bool:
    for folder in set(parents.values()):
        if not os.access(folder, os.W_OK):
            return False
        _sweep(folder)
    group = Cgroup._make(parents, 2**26, 4)
    if group is None:
        return False
    try:
        return subprocess.run(group.joining(["/bin/true"]), stderr=subprocess.DEVNULL, check=False).returncode == 0
    finally:
        group.remove()


def _sweep(folder: Path) -> None:
    """Remove empty groups of processes that were killed before they could."""
    for left in folder.glob("plait-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                left.rmdir()
