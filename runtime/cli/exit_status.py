"""`exit_status`: what a command ends with, whatever ends it."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import PlaitError


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a command; returns its status, or 1 for what plait refuses or what cannot be printed, 130 when it was
    interrupted or terminated."""
    try:
        with _ending_like_interrupt():
            try:
                return run() or 0
            finally:
                sys.stdout.flush()
    except PlaitError as error:
        sys.stderr.write(f"plait: {error}\n")
        return 1
    except BrokenPipeError:
        if not _is_unread(sys.stdout.fileno()):
            raise
        _print_no_more()
        return 1
    except OSError as error:
        # What is written elsewhere is known by its path, and refused by it.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _print_no_more()
        sys.stderr.write("plait: standard output has no space left\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _print_no_more() -> None:
    """What is left is written when the process ends; let it go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread(pipe: int) -> bool:
    """Has the reader of a pipe gone, as `head` does?"""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


@contextmanager
def _ending_like_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: jobs are cancelled, their traces saved, what they hold is freed."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.SIG_IGN:
        # As for what a shell starts in the background. It is to end all the same, and asyncio ends jobs in good order
        # only where this is the handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if interrupted is signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupted)
