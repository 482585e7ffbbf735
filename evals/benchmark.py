"""`Benchmark`: a set of problems, how each is put to a model, and how an answer is judged.

A benchmark knows no engine and no runner: whoever runs methods, here or behind a server, can use one.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from ..runtime.errors import InvalidInput, PlaitError
from ..runtime.methods.base import Method
from ..runtime.plugins import blaming
from ..runtime.spec import Kinds, Spec
from .extras import Extra

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


def check_samples(samples: Sequence[object]) -> None:
    """Raise `InvalidInput` unless there are problems, with ids that differ and texts that can be written."""
    if not samples:
        raise InvalidInput("the benchmark holds no problems")
    places: dict[str, int] = {}
    for number, sample in enumerate(samples, start=1):
        if not isinstance(sample, Sample):
            raise InvalidInput(f"problem {number}: it is no Sample, but of type {type(sample).__name__}")
        for name in ("id", "question", "reference"):
            value: object = getattr(sample, name)
            if value is None and name == "reference":
                continue
            if not isinstance(value, str):
                raise InvalidInput(f"problem {number}: {name}: it is no text, but of type {type(value).__name__}")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidInput(f"problem {number}: {name}: it holds half a surrogate pair") from None
        if sample.id in places:
            raise InvalidInput(f"problems {places[sample.id]} and {number} have the id {sample.id!r}")
        places[sample.id] = number


def ask(text: str, method: str, rule: str, *, chat: bool, system: str | None = None) -> dict[str, Any]:
    """Fields for `Benchmark.prompt`: the text as a chat message, or as it stands and on a line of its own, and `rule`
    to find the answer where the method takes one."""
    prompt: list[dict[str, str]] | str
    if chat:
        prompt = [{"role": "system", "content": system}] if system else []
        prompt.append({"role": "user", "content": text})
    else:
        prompt = "\n\n".join(filter(None, (system, text))).removesuffix("\n") + "\n"
    return {"prompt": prompt} if method == "apr" else {"prompt": prompt, "answer": rule}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one answer."""

    correct: bool
    extracted: str | None
    """What was judged, in a form in which equal answers look equal where there is one; None: no answer was found."""
    reason: str
    """`correct`, or what is wrong."""
    extra: Extra | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer that was judged."""

    sample: str
    """Id of the problem."""
    method: str
    """The method's label."""
    place: str
    """Tells answers to one problem by one method apart: budget, window and attempt; empty: there is only one."""
    model: str
    answer: str | None
    """As in `Verdict.extracted`."""


class ProblemUnusable(PlaitError):
    """Of one problem: its jobs fail, and others run all the same."""


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

    def inputs(self, samples: Sequence[Sample]) -> Mapping[str, Any]:
        """What decides about prompts and verdicts beside the fields and these problems, such as what is in other files,
        by name: an evaluation goes on only while it stays. Raises `InvalidInput` when it cannot be read."""
        return {}

    def check_ready(self, samples: Sequence[Sample]) -> None:
        """Raise `InvalidInput` for what keeps these problems from being worked on here, before any work. What is done
        can be reported all the same."""

    async def prepare(self, sample: Sample) -> None:
        """Get ready for a problem, before its prompt is made for a job; may take minutes. Called for every job, several
        at a time. A `PlaitError` makes the job a failed one, and of the first job ends the evaluation, unless it is
        `ProblemUnusable`."""

    @abstractmethod
    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        """Fields for the method of this name, as in its JSON: the prompt, and how to find the answer. What a
        configuration sets itself goes before them."""

    @abstractmethod
    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        """Judge the answer a method found in its text; any strings give a verdict, within a time limit. May block and
        be called from several threads."""

    async def judge(
        self, sample: Sample, method: Method, answer: str | None, text: str, details: Mapping[str, Any]
    ) -> Verdict:
        """Judge what a job gave: by `grade`, unless a benchmark looks at the method and the result's details, too. A
        `PlaitError` says that no verdict can be given here; the job counts as failed."""
        return await asyncio.to_thread(self.grade, sample, answer, text)

    def export(self, folder: Path, answers: Sequence[Answered]) -> None:
        """Write files for other programs into the evaluation's folder, beside its report."""

    def close(self) -> None:
        """Let go of what grading holds; idempotent."""


_benchmarks: Kinds[Benchmark] = Kinds("benchmark", "plait.benchmarks", field="name")


def register_benchmark(cls: type[B]) -> type[B]:
    """Class decorator: make a benchmark known by the default of its `name` field. Raises `InvalidInput` without one, or
    with one that is taken."""
    _benchmarks.add(cls)
    return cls


def read_problems(benchmark: Benchmark) -> list[Sample]:
    """Its problems, checked. Raises `InvalidInput`, which names the benchmark where it is not its own."""
    with blaming(benchmark.name):
        samples = list(benchmark.load())
    try:
        check_samples(samples)
    except InvalidInput as error:
        raise InvalidInput(f"{benchmark.name}: {error}") from None
    return samples


@contextmanager
def closing(benchmark: Benchmark) -> Iterator[None]:
    """Close it in the end. What its `close` raises is `InvalidInput` that names it, and hides no other exception."""
    try:
        yield
    except BaseException:
        with suppress(InvalidInput), blaming(benchmark.name):
            benchmark.close()
        raise
    with blaming(benchmark.name):
        benchmark.close()


def benchmark_names() -> list[str]:
    """All that are installed or registered."""
    return _benchmarks.names()


def benchmark_class(name: object) -> type[Benchmark] | None:
    """The benchmark of this name; None: there is none."""
    return _benchmarks.find(name)


def parse_benchmark(data: object) -> Benchmark:
    """The benchmark of a configuration table. Raises `InvalidInput`."""
    return _benchmarks.make(data)
