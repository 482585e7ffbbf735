"""`Workers`: the processes of ranks 1 and up, as the engine's process, which is rank 0, has them.

Each gets its orders through its standard input, so it ends when this process does, however that comes; and says through
its standard output when it is ready and why it ends. When one ends, all do: none can go on without it.
"""

from __future__ import annotations

import pickle
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from ....errors import WorkerLost
from ....python_process import import_environment, python_command
from .collectives import Collectives, open_store
from .messages import READY, Forward, Start

NOTICE = 5.0
"""Seconds until it is known that a process has ended, once what needs it has failed; a GPU's takes its time to end."""
_POLL = 0.1


class Workers:
    """Safe to close from any thread, and more than once."""

    def __init__(self) -> None:
        self.store = open_store()
        self.lost: str | None = None
        """Why they are no more."""
        self.free: dict[int, int] = {}
        """Bytes of memory that a rank's device has free beside the weights, of those that are ready."""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._watchers: list[threading.Thread] = []
        self._collectives: Collectives | None = None
        self._changed = threading.Condition()

    def start(self, orders: Sequence[Start]) -> None:
        for order in orders:
            process = subprocess.Popen(
                python_command("-m", f"{__package__}.worker"),
                env=import_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An interrupt from the terminal is for this process, which closes what it has to.
                start_new_session=True,
            )
            rank = order.shard.rank
            self._processes[rank] = process
            watcher = threading.Thread(target=self._watch, args=(rank, process), name=f"plait-rank-{rank}", daemon=True)
            self._watchers.append(watcher)
            watcher.start()
            with self._failing():
                _send(process, order)

    def join(self, device: torch.device, check: Callable[[], None]) -> Collectives:
        """Wait until all are ready, and connect to them. `check`, called again and again, may raise. Raises
        `WorkerLost`."""
        with self._changed:
            while len(self.free) < len(self._processes):
                check()
                self._check()
                self._changed.wait(_POLL)
        with self._failing():
            self._collectives = Collectives(self.store, 0, len(self._processes) + 1, device)
        return self._collectives

    @contextmanager
    def forward(self, order: Forward) -> Iterator[None]:
        """Around this rank's part of a forward pass. Raises `WorkerLost` once a process has ended, and ever after."""
        self._check()
        with self._failing():
            for process in self._processes.values():
                _send(process, order)
            yield
        self._check()  # nccl waits no longer for who is gone, and raises nothing

    def close(self) -> None:
        """End the processes: they hold nothing that a kill could harm."""
        self._end("the engine is closed")
        for watcher in self._watchers:
            watcher.join()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong inside, the others wait for something that this rank will never do."""
        try:
            yield
        except BaseException as error:
            with self._changed:
                self._changed.wait_for(lambda: self.lost is not None, NOTICE)
            if self.lost is not None and isinstance(error, Exception):
                raise self._error() from error
            self._end(f"rank 0 failed ({type(error).__name__}: {error})")
            raise

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as channel:
            first = channel.readline().decode(errors="replace")
            if first.startswith(READY):
                with self._changed:
                    self.free[rank] = int(first.removeprefix(READY))
                    self._changed.notify_all()
                first = ""
            reason = (first + channel.read().decode(errors="replace")).strip()
        code = process.wait()
        self._end(f"the process of rank {rank} ended ({reason or f'exit status {code}'})")

    def _end(self, reason: str) -> None:
        with self._changed:
            if self.lost is not None:
                return
            self.lost = reason
            self._changed.notify_all()
        for process in self._processes.values():
            process.kill()
            with suppress(OSError):  # orders that nobody reads any more
                if process.stdin is not None:
                    process.stdin.close()
        if self._collectives is not None:
            self._collectives.abort()

    def _check(self) -> None:
        if self.lost is not None:
            raise self._error()

    def _error(self) -> WorkerLost:
        return WorkerLost(f"{self.lost}; the model has to be loaded again")


def _send(process: subprocess.Popen[bytes], order: Start | Forward) -> None:
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(order))
    process.stdin.flush()
