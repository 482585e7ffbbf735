"""`exit_status`: what a command ends with, whatever ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from ..errors import PlaitError
from ..printable import printable


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a command; returns its status, or 1 for what plait refuses or what cannot be printed, 130 when it was
    interrupted or terminated. What cannot be said on standard error is lost, and nothing else with it."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # what its encoding does not have is printed as an escape
    out, notes = _Stream(sys.stdout), _Stream(sys.stderr, is_lenient=True)
    with redirect_stdout(out), redirect_stderr(notes):
        try:
            with _ending_like_interrupt():
                try:
                    return run() or 0
                finally:
                    out.flush()
        except PlaitError as error:
            notes.write(f"plait: {printable(str(error))}\n")
            return 1
        except (OSError, SystemExit):  # the latter from argparse, which does not look whether its help is written
            if out.failure is None:
                raise
            if not isinstance(out.failure, BrokenPipeError):  # its reader has gone, as `head` does
                notes.write(f"plait: cannot write to standard output: {out.failure.strerror}\n")
            return 1
        except KeyboardInterrupt:
            return 130


def is_terminated() -> bool:
    """Has one of `_ENDING` come, for the command that runs? For one that Ctrl-C does not end."""
    handlers = map(signal.getsignal, _ENDING)
    return any(isinstance(handler, _Termination) and handler.has_come for handler in handlers)


def _open_closed() -> None:
    """Standard streams that were closed when the process began lead nowhere, in the order of their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))


class _Stream:
    """A standard stream. When it cannot be written, it knows, and what comes later goes nowhere: what is left is
    written when the process ends. `is_lenient`: that is no error."""

    def __init__(self, stream: TextIO, *, is_lenient: bool = False) -> None:
        self._stream = stream
        self._is_lenient = is_lenient
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        with self._noticing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noticing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self._is_lenient:
                raise


_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""The latter comes where the terminal is closed or its connection lost; `nohup` has it ignored."""


class _Termination:
    """Handles a signal by what Ctrl-C does."""

    has_come = False

    def __call__(self, *_: object) -> None:
        self.has_come = True
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _ending_like_interrupt() -> Iterator[None]:
    """`_ENDING` do what Ctrl-C does: jobs are cancelled, their traces saved, what they hold is freed."""
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDING if is_main and signal.getsignal(number) is signal.SIG_DFL]
    if not taken:
        yield
        return
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.SIG_IGN:
        # As for what a shell starts in the background. It is to end all the same, and asyncio ends jobs in good order
        # only where this is the handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in taken:
        signal.signal(number, _Termination())
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if interrupted is signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupted)
