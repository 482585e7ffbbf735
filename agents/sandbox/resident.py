"""`resident_bytes`: memory of processes, measured where no control group counts it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

_MAPPED = re.compile(r"[0-9a-f]+-[0-9a-f]+ (?:\S+ ){3}(\d+) +(/memfd:|/dev/zero \(deleted\)|/SYSV)?")
"""In `smaps`, the inode of a mapping, and what names memory that is in no folder."""


def resident_bytes(pids: Sequence[int], limit: int) -> int:
    """Memory of processes together that is in no folder: their own, shared mappings and files of `memfd_create`, but
    for those that this process gave them. Shared pages count once where the plain sum is over the limit. Blocks."""
    own = _memory_files([os.getpid()])
    files = {inode: size for inode, size in _memory_files(pids).items() if inode not in own}
    held = sum(files.values())
    total = held + sum(map(_resident, pids))
    return total if total <= limit else held + sum(_proportional(pid, {*own, *files}) for pid in pids)


def _memory_files(pids: Sequence[int]) -> dict[int, int]:
    """Inode -> bytes of files in memory alone that processes hold open."""
    found = {}
    for pid in pids:
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # Closed in the meantime.
                    if str(descriptor.readlink()).startswith("/memfd:"):
                        file = descriptor.stat()
                        found[file.st_ino] = file.st_blocks * 512
        except OSError:  # It has ended, or may not be looked into.
            continue
    return found


def _resident(pid: int) -> int:
    """Of one process, mapped files in memory too."""
    return _sum(_lines(pid, "status"), "RssAnon:", "RssShmem:")


def _proportional(pid: int, counted: Collection[int]) -> int:
    """Of one process, its share of what it shares; without files of these inodes."""
    if not (rollup := _lines(pid, "smaps_rollup")):
        return _resident(pid)
    total, counts = _sum(rollup, "Pss_Anon:"), False
    for line in _lines(pid, "smaps"):
        if mapped := _MAPPED.match(line):
            counts = mapped[2] is not None and int(mapped[1]) not in counted
        elif counts and line.startswith("Pss:"):
            total += _bytes(line)
    return total


def _sum(lines: Sequence[str], *names: str) -> int:
    return sum(_bytes(line) for line in lines if line.startswith(names))


def _bytes(line: str) -> int:
    return int(line.split()[1]) * 1024


def _lines(pid: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace").splitlines()
    except OSError:
        return []
