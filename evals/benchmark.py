"""`Benchmark`: a set of problems, how each is put to a model, and how an answer is judged.

A benchmark knows no engine and no runner: whoever runs methods, here or behind a server, can use one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from ..runtime.errors import InvalidInput
from ..runtime.spec import Kinds, Spec

B = TypeVar("B", bound="Benchmark")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One problem."""

    id: str
    """Unique within the benchmark."""
    question: str
    """For people."""
    reference: str | None = None
    """The right answer, for people; None where there is more than one."""
    data: Any = field(default=None, repr=False)
    """The benchmark's own."""


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise `InvalidInput` unless there are problems, with ids that differ and texts that can be written."""
    if not samples:
        raise InvalidInput("the benchmark holds no problems")
    places: dict[str, int] = {}
    for number, sample in enumerate(samples, start=1):
        for name in ("id", "question", "reference"):
            try:
                (getattr(sample, name) or "").encode()
            except UnicodeEncodeError:
                raise InvalidInput(f"problem {number}: {name}: it holds half a surrogate pair") from None
        if sample.id in places:
            raise InvalidInput(f"problems {places[sample.id]} and {number} have the id {sample.id!r}")
        places[sample.id] = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one answer."""

    correct: bool
    extracted: str | None
    """What was judged, in a form in which equal answers look equal where there is one; None: no answer was found."""
    reason: str
    """`correct`, or what is wrong."""


class Benchmark(Spec):
    """Base of all benchmarks. The fields are what a configuration may set; wrong ones raise `InvalidInput`."""

    refusal = InvalidInput

    name: str
    """What configurations call it."""
    data: Path | None = None
    """JSON Lines file of the problems; None: the benchmark's own source."""
    count: int | None = Field(default=None, ge=1)
    """Problems at most, from the first; None: all."""

    @classmethod
    def title(cls) -> str:
        return f"benchmark {cls.model_fields['name'].default}"

    @abstractmethod
    def load(self) -> list[Sample]:
        """The problems. Raises `InvalidInput` when they cannot be read."""

    @abstractmethod
    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        """Fields for the method of this name, as in its JSON: the prompt, and how to find the answer. What a
        configuration sets itself goes before them."""

    @abstractmethod
    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        """Judge the answer a method found in its text; any strings give a verdict, within a time limit. May block and
        be called from several threads."""

    def close(self) -> None:
        """Let go of what grading holds; idempotent."""


_benchmarks: Kinds[Benchmark] = Kinds("benchmark", "plait.benchmarks", field="name")


def register_benchmark(cls: type[B]) -> type[B]:
    """Class decorator: make a benchmark known by the default of its `name` field. Raises `InvalidInput` without one, or
    with one that is taken."""
    _benchmarks.add(cls)
    return cls


def benchmark_names() -> list[str]:
    """All that are installed or registered."""
    return _benchmarks.names()


def parse_benchmark(data: object) -> Benchmark:
    """The benchmark of a configuration table. Raises `InvalidInput`."""
    return _benchmarks.make(data)
