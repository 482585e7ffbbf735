"""Workers in processes that start at once: forked off one that has imported what they need.

A worker that is started anew imports torch, which takes two seconds of a core; where kills come faster than that, a
machine of few cores would do nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess

from ...runtime.cli import worker

_context = get_context("forkserver")
_context.set_forkserver_preload(["plait.runtime.engines.native.engine", "plait.runtime.mqtt.worker"])


def _serve(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    worker.add_arguments(parser)
    sys.exit(worker.run(parser.parse_args(arguments)))


class Workers:
    """A context manager; all are killed in the end."""

    def __init__(self, url: str, count_: int, *options: str, model: str = "countdown") -> None:
        self._arguments = [model, "--broker", url, *options]
        self._numbers = count(1)
        self._first = count_
        self.processes: dict[str, ForkServerProcess] = {}
        """By name, the oldest first."""

    def __enter__(self) -> Workers:
        for _ in range(self._first):
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes.values() if process.pid is not None]

    def start(self) -> str:
        name = f"worker-{next(self._numbers)}"
        self.processes[name] = _context.Process(target=_serve, args=([*self._arguments, "--name", name],), daemon=True)
        self.processes[name].start()
        return name

    def kill(self, name: str) -> None:
        """As kill -9 does."""
        process = self.processes.pop(name)
        process.kill()
        process.join()
        process.close()

    def oldest(self, alive: Iterable[str]) -> str | None:
        """Of those that are known to be alive."""
        names = set(alive)
        return next((name for name in self.processes if name in names), None)
