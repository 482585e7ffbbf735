"""A program: runs a command, takes in every process that it leaves behind, and ends them all when it ends.

It is started by its file's name, without plait and without installed packages.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGTERM, end)
    if os.getppid() != parent:
        return 1
    try:
        status = subprocess.Popen(sys.argv[1:]).wait() % 256
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return status
    finally:
        end_children()


def end(*_: object) -> None:
    # The death of a parent with several threads may be told twice, and the second time would break off the end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def end_children() -> None:
    """Kill until there is none; those of a killed one become ours."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def children() -> list[int]:
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
