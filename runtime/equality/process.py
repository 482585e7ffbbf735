"""math-verify in a process that can be stopped.

math-verify hands what a model wrote to a computer algebra system: a tower of exponents keeps that busy for ever, and
its own time limit works in a main thread only. So it runs in a child process with limited memory, is given a limited
number of characters and of seconds, and is replaced when it overruns them. The seconds are those that it computes on a
request: how long others keep it, or the machine, changes no reply.
"""

from __future__ import annotations

import atexit
import json
import select
import subprocess
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from ..errors import PlaitError
from ..python_process import import_environment, python_command

START_SECONDS = 60.0
"""Importing sympy on a busy machine."""
PATIENCE = 10.0
"""Seconds to wait for each that a request may compute, for the case that its process does not get to its limit."""
LONGEST = 1e6
"""Seconds of a request, whatever is asked for: timers take no more than so many."""

ABANDONED: ContextVar[threading.Event | None] = ContextVar("plait_abandoned", default=None)
"""Set once nobody waits any more for what this thread asks for."""


class MathUnavailable(PlaitError):
    """The mathematics process cannot be started."""


class MathProcess:
    """A child process that compares formulas, one request at a time; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """The reply, see `worker.answer`, with the `seconds` it took; None if it takes more than these, or the process
        died of the request. What the process cannot do gives `error`, a message. Seconds are those that the process
        computes; starting it, and waiting for it, is not counted. None without asking once the caller is `ABANDONED`.
        Raises `MathUnavailable`."""
        seconds = min(seconds, LONGEST)
        with self._lock:
            # Here and not before, for others may have kept the process long.
            if (abandoned := ABANDONED.get()) is not None and abandoned.is_set():
                return None
            reply = None
            try:
                if self._process is None:
                    self._start()
                process = self._process
                assert process is not None and process.stdin is not None
                process.stdin.write(json.dumps({**request, "limit": seconds}) + "\n")
                process.stdin.flush()
                reply = self._read(PATIENCE * seconds)
            except OSError:  # It died, before it had the request or of it.
                pass
            finally:  # Interrupted, too: what it says later would be taken for the next reply.
                if reply is None:
                    self._stop()
            return reply

    def close(self) -> None:
        """End the process; idempotent."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                python_command("-m", f"{__package__}.worker"),
                env=import_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        except OSError as error:
            raise MathUnavailable(f"math-verify does not start: {error}") from error
        if self._read(START_SECONDS) is None:
            process = self._process
            process.kill()
            _, errors = process.communicate()
            self._process = None
            reason = (errors.strip().splitlines() or ["no message"])[-1]
            advice = "" if is_installed() else " (pip install 'plait[evals]')"
            raise MathUnavailable(f"math-verify does not start: {reason}{advice}")

    def _read(self, seconds: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None and process.stdout is not None
        # One request, one short line in reply: either nothing is there yet or all of it is on its way.
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@dataclass(slots=True)
class Allowance:
    """Seconds that several requests have together."""

    process: MathProcess
    seconds: float
    """What is left."""
    overruns: int = 3
    """Requests without a reply that are left: each costs a start of the process, which others wait for and no seconds
    count."""

    def ask(self, request: dict[str, str], most: float | None = None) -> dict[str, Any] | None:
        """As `MathProcess.ask`, within what is left and `most` seconds; None, too, if nothing is left, of
        seconds or of overruns."""
        limit = self.seconds if most is None else min(most, self.seconds)
        if limit <= 0 or self.overruns == 0:
            return None
        reply = self.process.ask(request, limit)
        self.seconds -= limit if reply is None else reply["seconds"]
        self.overruns -= reply is None
        return reply


def is_installed() -> bool:
    """Is math-verify here? Imports nothing."""
    try:
        return find_spec("math_verify") is not None
    except ValueError:  # Somebody put None into sys.modules.
        return False


@cache
def shared() -> MathProcess:
    """The process that votes use, started by the first that needs it, ended with the interpreter."""
    process = MathProcess()
    atexit.register(process.close)
    return process
