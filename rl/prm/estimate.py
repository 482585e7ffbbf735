"""Verdicts without people: a step is good if a right answer was reached below it (Math-Shepherd's hard estimate, arXiv
2312.08935, section 3.3), in trees of samples that were recorded anyway.

Leaves are graded; steps that have the same text behind the same steps and the same prompt are one, whichever branch or
run wrote them. What is below no leaf that ended on its own (pruned branches, texts that were cut) stays without a
verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...evals.benchmark import Benchmark, Sample, read_problems
from ...runtime.errors import InvalidInput, PlaitError
from ...runtime.methods.answers import extract
from ...runtime.methods.base import Method
from ...runtime.methods.registry import parse_method
from ...runtime.methods.sequential import Answering
from ...runtime.result import Finish
from ...runtime.trace.record import Piece, SegmentRecord
from ...runtime.trace.trace import Trace
from ...search.tree_search import TreeSearch
from .trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class _Leaf:
    prompt: str
    steps: tuple[str, ...]
    is_right: bool


def estimate(paths: Iterable[Path], benchmark: Benchmark, delimiters: Sequence[str] = ()) -> list[Trajectory]:
    """The graded leaves of all trace files together, with the verdicts on those steps that no earlier leaf has.
    `delimiters`: end a step; empty: those of the search that wrote it.

    Raises `InvalidInput` naming a file that is of no problem of the benchmark, or of a method without steps or whose
    branches write parts of answers: it has a generator, or joins them.
    """
    samples = {sample.id: sample for sample in read_problems(benchmark)}
    leaves: list[_Leaf] = []
    try:
        for path in paths:
            try:
                leaves += _leaves(Trace.load(path), benchmark, samples, delimiters)
            except PlaitError as error:
                raise InvalidInput(f"{path}: {error}") from None
    finally:
        benchmark.close()
    right: dict[tuple[str, ...], bool] = {}
    for leaf in leaves:
        for key in _keys(leaf):
            right[key] = right.get(key, False) or leaf.is_right
    found = []
    for leaf in leaves:
        labels = tuple(right.pop(key, None) for key in _keys(leaf))
        if any(label is not None for label in labels):
            found.append(Trajectory(prompt=leaf.prompt, steps=leaf.steps, labels=labels))
    return found


def _keys(leaf: _Leaf) -> list[tuple[str, ...]]:
    return [(leaf.prompt, *leaf.steps[: n + 1]) for n in range(len(leaf.steps))]


def _leaves(
    trace: Trace, benchmark: Benchmark, samples: dict[str, Sample], delimiters: Sequence[str]
) -> Iterator[_Leaf]:
    name = trace.header["settings"].get("metadata", {}).get("sample")
    sample = samples.get(str(name))
    if sample is None:
        raise InvalidInput(f"the trace is of problem {name!r}, which the benchmark {benchmark.name} does not have")
    method = parse_method(trace.header["method"])
    if trace.joins or getattr(method, "generator", None) is not None:
        raise InvalidInput(f"what the branches of this {method.method} wrote are parts of answers, not trajectories")
    ends = tuple(delimiters or (method.delimiters if isinstance(method, TreeSearch) else ()))
    if not isinstance(method, Answering) or not ends:
        raise InvalidInput(
            f"what ends a step of {method.method}? give `delimiters`; methods that answer once have steps"
        )
    inner = {record.parent for record in trace.branches.values()}
    for record in trace.branches.values():
        if record.id in inner or record.pruned is not None or trace.model_of(record.id) is not None:
            continue
        segments = trace.segments_of(record.id)
        if not segments:
            continue
        pieces = [piece for segment in _seen(trace, segments[-1]) for piece in segment]
        written = [piece for piece in pieces if piece.kind == "sampled"]
        text = "".join(piece.text for piece in pieces if piece.kind != "prompt")
        if text and _has_ended(method, record.finish, text, ends):
            verdict = benchmark.grade(sample, extract(method.answer, text), text)
            question = _asked(method, pieces)
            if question and written:
                yield _Leaf(question, tuple(split(text, ends)), verdict.correct)


def _seen(trace: Trace, last: SegmentRecord) -> Iterator[list[Piece]]:
    """The pieces that make up a branch's text, segment by segment; those seen in part are cut."""
    for span in last.view:
        if span.is_text:
            yield _first(trace.segments[span.segment].pieces, span.length or 0)
    pieces = last.pieces
    if pieces and pieces[-1].finish == Finish.EOS:
        # Without what spells the end: no answer ends in it.
        pieces = _first(pieces, sum(len(piece.token_ids) for piece in pieces) - 1)
    yield pieces


def _first(pieces: Sequence[Piece], count: int) -> list[Piece]:
    """So many tokens of them."""
    found = []
    for piece in pieces:
        length = len(piece.token_ids)
        if length > count:
            if count and piece.chars is not None:
                text = piece.text[: sum(piece.chars[:count])]
                found.append(Piece(kind=piece.kind, token_ids=piece.token_ids[:count], text=text))
            elif count:
                raise InvalidInput("a part of a text was seen, and the trace does not spell it by tokens")
            break
        found.append(piece)
        count -= length
    return found


def _has_ended(method: Answering, finish: str | None, text: str, ends: tuple[str, ...]) -> bool:
    """By the policy's own will: neither cut nor left between two steps."""
    if isinstance(method, TreeSearch) and method.finishes(text):
        return True
    return finish == Finish.EOS or (finish == Finish.STOP and not text.endswith(ends))


def _asked(method: Method, pieces: Sequence[Piece]) -> str:
    """The question as a search's reward is told it."""
    question = getattr(method, "question", None)
    if isinstance(question, str):
        return question
    if isinstance(method, Answering):
        if said := [message["content"] for message in method.messages if message["role"] == "user"]:
            return "\n\n".join(said)
        if isinstance(method.prompt, str):
            return method.prompt
    return "".join(piece.text for piece in pieces if piece.kind == "prompt")


def split(text: str, ends: Sequence[str]) -> list[str]:
    """The steps of a text, delimiters at their ends."""
    pattern = "|".join(map(re.escape, ends))
    return [step for step in re.findall(rf"(?s:.*?)(?:{pattern})|(?s:.+)$", text) if step]
