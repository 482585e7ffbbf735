"""What a benchmark found, line by line: written as it is found, so that a topic that is cut short loses nothing."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

OURS, FLOOR = "plait", "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure, or why there is none."""

    topic: str
    what: str
    """The workload."""
    who: str = OURS
    """plait, a peer's name, or "floor": the least time that the card's own rates allow."""
    value: float | None = None
    unit: str = "ms"
    note: str = ""
    bar: str = ""
    """What is asked of it, in words."""
    is_met: bool | None = None
    """None: nothing is asked."""
    error: str = ""
    """The last line of what went wrong."""


class Book:
    """Takes a topic's lines, prints them, and appends them to a file."""

    def __init__(self, topic: str, file: Path | None = None, seconds: float = 600.0) -> None:
        """`seconds`: that the topic has."""
        self.topic = topic
        self.lines: list[Line] = []
        self._file = file
        self._end = time.monotonic() + seconds

    def add(
        self,
        what: str,
        who: str = OURS,
        value: float | None = None,
        *,
        unit: str = "ms",
        note: str = "",
        bar: str = "",
        is_met: bool | None = None,
        error: str = "",
    ) -> None:
        line = Line(
            topic=self.topic, what=what, who=who, value=value, unit=unit, note=note, bar=bar, is_met=is_met,
            error=error,
        )  # fmt: skip
        self.lines.append(line)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(line)) + "\n")
        print(describe(line), flush=True)

    def need(self, seconds: float) -> None:
        """Raises `TimeoutError` if less than that is left."""
        left = self._end - time.monotonic()
        if left < seconds:
            raise TimeoutError(f"not begun: {max(0.0, left):.0f} s left")

    @contextmanager
    def attempt(self, what: str, who: str = OURS) -> Iterator[None]:
        """A part that may fail without the rest: an exception becomes a line."""
        try:
            yield
        except Exception as error:  # Whatever a kernel or a peer raises is a result here.
            lines = str(error).strip().splitlines() or [""]
            self.add(what, who, error=f"{type(error).__name__}: {lines[-1]}"[:300])
            error.__traceback__ = None  # which would keep its tensors
        finally:
            gc.collect()
            if torch.cuda.is_available():
                # Where a kernel has done what it must not, every later call fails, this one too.
                with suppress(RuntimeError):
                    torch.cuda.empty_cache()


def describe(line: Line) -> str:
    """For the terminal."""
    figure = f"failed: {line.error}" if line.error else "" if line.value is None else f"{line.value:.4g} {line.unit}"
    verdict = "" if line.is_met is None else f"  [{'met' if line.is_met else 'NOT MET'}: {line.bar}]"
    note = f"  ({line.note})" if line.note else ""
    return f"{line.topic}: {line.what}, {line.who}: {figure}{note}{verdict}"


def read(file: Path) -> list[Line]:
    """The lines of a file; the last one may be cut short."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(Line(**json.loads(text)))
        except ValueError:
            continue
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a topic is run."""

    device: torch.device
    is_dry: bool
    """Tiny shapes, to see that it runs at all."""
    book: Book
    only: str = ""
    """Part of the names of the workloads that are wanted."""
    has_peers: bool = True

    def wants(self, name: str) -> bool:
        return self.only.lower() in name.lower()

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


def setting(topic: str, description: str | None, arguments: list[str] | None = None) -> Setting:
    """From the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--out", type=Path, help="append the figures to this JSON Lines file")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin nothing that does not fit into them")
    parser.add_argument("--only", default="", metavar="TEXT", help="only workloads with this in their names")
    parser.add_argument("--no-peers", action="store_true", help="measure plait alone")
    found = parser.parse_args(arguments)
    if not found.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry runs everything in tiny on the CPU")
    device = torch.device("cpu" if found.dry else "cuda")
    if found.dry:
        torch.set_num_threads(1)
    book = Book(topic, found.out, found.seconds)
    return Setting(device=device, is_dry=found.dry, book=book, only=found.only, has_peers=not found.no_peers)
