"""Memory that is in no folder is counted, once, whoever holds it in which way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from plait.agents.sandbox.process import descendants
from plait.agents.sandbox.resident import resident_bytes

MIB = 1 << 20
BEGIN = f"""
import mmap, os, sys
MIB = {MIB}

def fill(memory):
    for at in range(0, len(memory), 4096):
        memory[at] = 1

def in_memory(size):
    file = os.memfd_create("x")
    os.posix_fallocate(file, 0, size)
    return file

def ready():
    os.write(1, b"ready")
    os.read(0, 1)
    os._exit(0)
"""
FORKED = "pid = os.fork()\n"
HELD = {
    "a file": "in_memory(80 * MIB)",
    "a file that two hold": f"in_memory(80 * MIB)\n{FORKED}",
    "a file that is mapped and closed": "f = in_memory(80 * MIB); m = mmap.mmap(f, 80 * MIB); os.close(f); fill(m)",
    "a file that is mapped and open": "f = in_memory(80 * MIB); m = mmap.mmap(f, 80 * MIB); fill(m)",
    "a mapping": "m = mmap.mmap(-1, 80 * MIB); fill(m)",
    "a mapping that two fill": f"m = mmap.mmap(-1, 80 * MIB)\n{FORKED}fill(m)",
    "a mapping that is empty": "p = bytearray(80 * MIB); fill(p); m = mmap.mmap(-1, 400 * MIB)",
    "its own": "p = bytearray(80 * MIB); fill(p)",
    "its own that two share": f"p = bytearray(80 * MIB); fill(p)\n{FORKED}",
    "a file of ours": "p = bytearray(80 * MIB); fill(p)  # beside what it was given",
}


@contextmanager
def running(text: str, given: int) -> Iterator[list[int]]:
    """A process, and those it starts, that have done this."""
    command = [sys.executable, "-I", "-c", f"{BEGIN}\n{text}\nready()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[given]) as process:
        assert process.stdin is not None and process.stdout is not None
        count = 2 if FORKED in text else 1
        assert process.stdout.read(5 * count) == b"ready" * count
        yield [process.pid, *descendants(process.pid)]
        process.stdin.write(b"..")


@pytest.mark.parametrize("what", HELD)
def test_all_that_is_in_no_folder_counts_once(what):
    given = os.memfd_create("ours")
    try:
        os.posix_fallocate(given, 0, 90 * MIB)
        with running(HELD[what], given) as pids:
            assert 80 * MIB <= resident_bytes(pids, 40 * MIB) < 120 * MIB
            assert resident_bytes(pids, 1000 * MIB) >= 80 * MIB
    finally:
        os.close(given)


def test_files_in_folders_are_the_disk_s():
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(40 * MIB)
        text = f"f = os.open({file.name!r}, os.O_RDWR); m = mmap.mmap(f, 40 * MIB); fill(m)"
        with running(text, file.fileno()) as pids:
            assert resident_bytes(pids, 30 * MIB) < 30 * MIB
