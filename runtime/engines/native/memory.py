"""How much memory there is to be had, and how much of it a KV store takes if nobody says."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

SHARE = 4
"""A KV store takes a quarter of what is free: the rest is for activations, other engines and other programs."""
MIN_BLOCKS = 64
BRANCHES = 64
"""Branches at the end of their context that a KV store is made for at most."""
_UNKNOWN = 4 << 30
"""What is taken to be free where the system does not say."""


def default_blocks(block_bytes: int, block_size: int, context_limit: int, free: int) -> int:
    """KV blocks for a model: a quarter of the `free` bytes, at least 64 blocks, and at most what 64 branches at the end
    of their context hold."""
    most = BRANCHES * -(-context_limit // block_size)
    return max(MIN_BLOCKS, min(free // SHARE // block_bytes, most))


def swap_blocks(tokens: int | None, block_size: int, block_bytes: int) -> int:
    """Blocks of a swap space for so many tokens; None: for a quarter of the host's free memory."""
    return free_memory(torch.device("cpu")) // SHARE // block_bytes if tokens is None else tokens // block_size


def return_free_memory() -> None:
    """To the system, what the C library keeps between pieces that are in use: after loading, hundreds of megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # glibc's
        trim(0)


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes: of a GPU what its driver says; else what the system can give without swapping, or less where a control
    group (a container) allows less. `root`: of the file system."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    system = _system_memory(root)
    return min([_UNKNOWN if system is None else system, *_group_limits(root)])


def _system_memory(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) << 10
    for pages in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        if pages in os.sysconf_names and (count := os.sysconf(pages)) > 0:
            return count * os.sysconf("SC_PAGE_SIZE")
    return None


def _group_limits(root: Path) -> list[int]:
    """What this process's control groups, and those around them, have left; page cache that they can drop counts as
    left. Both versions of Linux's control groups."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, usage, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        folder = base / path.strip("/")
        # In a container the path may be that of the host, which is not there.
        for group in (folder, *folder.parents):
            most, used = _number(group / limit), _number(group / usage)
            if most is not None and used is not None:
                statistics = dict(line.split() for line in _lines(group / "memory.stat"))
                found.append(max(most - used + int(statistics.get(cache, 0)), 0))
            if group == base:
                break
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """None: there is no such file, or it says `max`."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None
