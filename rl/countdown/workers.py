"""Processes that make things for one reader, each as far ahead as its pipe lets it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")


def in_turn(make: Callable[..., Iterator[T]], arguments: Sequence[tuple[Any, ...]]) -> Generator[T]:
    """What `make(*arguments[i])` yields in process i, one from each process in turn: the order is always the same.

    The processes end with the iterator. Raises `RuntimeError` when one of them died.
    """
    # Not by fork: the reader has threads, and may have begun to use a GPU.
    context = multiprocessing.get_context("spawn")
    readers: list[Connection] = []
    processes = []
    try:
        for given in arguments:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_write, args=(writer, make, given), daemon=True)
            process.start()
            writer.close()
            readers.append(reader)
            processes.append(process)
        for i in itertools.cycle(range(len(readers))):
            try:
                yield readers[i].recv()
            except EOFError:
                processes[i].join(30)  # it is on its way out, which takes a while on a busy machine
                raise RuntimeError(f"the process that makes documents ended with {processes[i].exitcode}") from None
    finally:
        for reader in readers:
            reader.close()
        for process in processes:
            process.terminate()
            process.join()
            process.close()


def _write(writer: Connection, make: Callable[..., Iterator[T]], given: tuple[Any, ...]) -> None:
    # What stops the reader by a signal to its group (Ctrl-C, timeout) leaves it to the reader to end this process.
    os.setpgid(0, 0)
    for made in make(*given):
        try:
            writer.send(made)
        except BrokenPipeError:
            return
