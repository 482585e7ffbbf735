"""What is trained is what is served: attention masks and position ids from the views that decoding had.

A `TreeMask` comes from a recorded trace, of any method, or from a text in Multiverse form, and then is the mask of the
run that would have written it. One masked forward over its tokens gives the logits that decoding gave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from ..runtime.errors import InvalidInput
from ..runtime.methods.multiverse.dialects import MULTIVERSE, Dialect
from ..runtime.methods.multiverse.replay import Encode, Item, Positions, Run, layout, written
from ..runtime.trace.record import Kind, Piece, SegmentRecord, SpanRecord
from ..runtime.trace.sights import Sight, sights
from ..runtime.trace.trace import Trace
from ..runtime.trace.writer import SegmentWriter
from .frames import settle
from .tree_mask import Ints
from .tree_mask import TreeMask as TreeMask


def trace_mask(trace: Trace, segment: int | None = None, *, is_moving: bool = False) -> TreeMask:
    """The mask of a recorded job: all tokens of its own model, forgotten ones included, segment after segment.

    With `segment`, only the text that this segment was written in and the segment itself, in the order of the text: the
    sequence to train on. `is_moving`: readers may see a segment at different places, as Hogwild!'s workers do, and the
    forward pass is one with `frames`. Raises `InvalidInput` for views that a mask cannot express: a segment at two
    places of one view, contexts that are weighed (T or S is not 1), text that saw what is not in its sequence.
    """
    if segment is None:
        spans = [_whole(s) for s in _own(trace)]
    else:
        last = trace.segments[segment]
        spans = [span for span in last.view if span.is_text] + [_whole(last)]
    mask = settle(_mask(trace, spans))
    if mask.is_moving and not is_moving:
        raise InvalidInput("readers see one segment at different places: a mask alone does not say where")
    return mask


def part_masks(trace: Trace) -> list[TreeMask]:
    """As `trace_mask` with `is_moving`, cut into parts that do not see each other, such as a parent and the children
    it spawned. Parts in which nothing was sampled are left out."""
    own = _own(trace)
    part = {segment.id: segment.id for segment in own}

    def find(one: int) -> int:
        while part[one] != one:
            one = part[one]
        return one

    for segment in own:
        for view in (segment.view, *(view for _, view in segment.views)):
            for span in view:
                # What is none of the job's own cannot be in a part: `_mask` refuses it, where something of it was seen.
                if span.length != 0 and span.segment in part:
                    part[find(segment.id)] = find(span.segment)
    parts: dict[int, list[SegmentRecord]] = {}
    for segment in own:
        parts.setdefault(find(segment.id), []).append(segment)
    found = [p for p in parts.values() if any(piece.kind == "sampled" for s in p for piece in s.pieces)]
    return [settle(_mask(trace, [_whole(segment) for segment in p])) for p in found]


def _own(trace: Trace) -> list[SegmentRecord]:
    """What the job's own model read and wrote."""
    return [s for s in trace.segments if len(s) and trace.model_of(s.branch) is None]


def _whole(segment: SegmentRecord) -> SpanRecord:
    return SpanRecord(segment=segment.id, length=len(segment))


def _mask(trace: Trace, spans: Sequence[SpanRecord]) -> TreeMask:
    column = {span.segment: i for i, span in enumerate(spans)}
    if len(column) < len(spans):
        raise InvalidInput("a segment is twice in this view: one mask cannot hold it")
    lengths = [span.length or 0 for span in spans]
    firsts = np.cumsum([0, *lengths])
    rows: list[tuple[list[int], list[int]]] = []
    row: list[int] = []
    source: list[int] = []
    for at, span in enumerate(spans):
        record = trace.segments[span.segment]
        is_fixed = not record.views and all(s.length is not None for s in record.view)
        seen: list[Sight] | None = None
        for i, now in zip(range(lengths[at]), _sights(trace, record, is_fixed), strict=False):
            if i == 0 or (now is not seen and now != seen):
                _check_known(trace, record, now)
                rows.append(_reach(record, now, column, lengths))
            seen = now
            row.append(len(rows) - 1)
        before = [s for s in record.view if s.is_text and s.length]
        origin = -1
        if before:
            place = column.get(before[-1].segment)
            if place is None:
                raise _unseen(record, before[-1].segment)
            origin = int(firsts[place]) + (before[-1].length or 0) - 1
        begin = int(firsts[at])
        source += [origin, *range(begin, begin + lengths[at] - 1)][: lengths[at]]
    records = [trace.segments[span.segment] for span in spans]
    pairs = list(zip(records, lengths, strict=True))
    return TreeMask(
        token_ids=[token for record, n in pairs for token in record.token_ids[:n]],
        positions=_ints([record.position + i for record, n in pairs for i in range(n)]),
        segment=_ints([at for at, n in enumerate(lengths) for _ in range(n)]),
        offset=_ints([i for n in lengths for i in range(n)]),
        row=_ints(row),
        reach=_ints([reach for reach, _ in rows]).reshape(len(rows), len(spans)),
        shift=_ints([shift for _, shift in rows]).reshape(len(rows), len(spans)),
        is_sampled=np.array([flag for record, n in pairs for flag in _sampled(record)[:n]], dtype=np.bool_),
        logprobs=np.array([value for record, n in pairs for value in _logprobs(record)[:n]], dtype=np.float32),
        source=_ints(source),
    )


def text_mask(
    text: str,
    encode: Encode,
    positions: Positions = "train",
    *,
    prompt: Sequence[int] = (),
    end: Sequence[int] = (),
    dialect: Dialect = MULTIVERSE,
) -> TreeMask:
    """The mask of an assistant's text in Multiverse form behind `prompt`; `end`: tokens behind it (EOS).

    Any text has one: what is no block (`multiverse.grammar.blocks`) is plain causal text. So is all of it in a dialect
    that joins by reading again: that is what is read at the end.
    """
    return trace_mask(text_trace(text, encode, positions, prompt=prompt, end=end, dialect=dialect))


def text_trace(
    text: str,
    encode: Encode,
    positions: Positions = "train",
    *,
    prompt: Sequence[int] = (),
    end: Sequence[int] = (),
    dialect: Dialect = MULTIVERSE,
) -> Trace:
    """The trace of the run that would have written `text`: the tags that the runtime puts in count as sampled, since
    they are trained (spec of the data, section 5.2)."""
    trace = Trace()
    line = _Line(trace, "0")
    line.write(prompt, "prompt")
    placing, items = dialect.places[positions], layout(text, encode, dialect)
    if placing == "reread":
        line.write(written(items))
    else:
        line.walk(items, placing == "overlap")
    line.write(end)
    return trace


class _Line:
    """Writes a layout into a trace as a run would."""

    def __init__(self, trace: Trace, name: str, position: int = 0, view: tuple[SpanRecord, ...] = ()) -> None:
        self.trace = trace
        self.name = name
        self.position = position
        self.writer = SegmentWriter(trace, name, view)
        self.forks = 0

    def write(self, tokens: Sequence[int], kind: Kind = "sampled") -> None:
        if tokens:
            self.writer.write(Piece(kind=kind, token_ids=list(tokens), text=""), self.position)
            self.position += len(tokens)

    def walk(self, items: Sequence[Item], is_overlapping: bool) -> None:
        for item in items:
            if isinstance(item, Run):
                self.write(item.tokens)
                continue
            start = self.position
            self.write(item.gap)
            ends, last = [], self.position
            spans: list[SpanRecord] = []
            view = self.writer.view()
            for path in item.paths:
                position = start if is_overlapping else self.position
                line = _Line(self.trace, f"{self.name}.{self.forks}", position, view)
                self.forks += 1
                line.walk(path.items, is_overlapping)
                ends.append(line.position)
                line.write(path.tail)
                last = max(last, line.position)
                spans += line.writer.written()
            self.writer.see(spans)
            self.position = max(ends) if is_overlapping else last


def _sights(trace: Trace, record: SegmentRecord, is_fixed: bool) -> Iterator[list[Sight]]:
    """What each token saw; one list for all of them where nothing changed. Tokens that were never computed saw the
    last thing that is known."""
    last: list[Sight] = []
    for last in sights(trace, record):
        yield last
        if is_fixed:
            break
    yield from repeat(last)


def _check_known(trace: Trace, record: SegmentRecord, seen: Sequence[Sight]) -> None:
    """Raise `InvalidInput` for a context that was attached behind live text: how much of that it saw nobody noted."""
    for sight in seen:
        if sight.group is None or not sight.end:
            continue
        context = trace.segments[sight.segment]
        if not context.seen and any(span.length is None for span in context.view):
            raise InvalidInput(
                f"segment {record.id} sees segment {context.id}, a context behind live text: what that saw is not in "
                "the trace"
            )


def _reach(
    record: SegmentRecord, seen: Sequence[Sight], column: dict[int, int], lengths: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much of each segment a token sees, and how far from its place."""
    reach, shift = [0] * len(column), [0] * len(column)
    for sight in seen:
        at = column.get(sight.segment)
        if not sight.end:
            continue
        if at is None or sight.end > lengths[at]:
            raise _unseen(record, sight.segment)
        if sight.group is not None and sight.group[1:] != (1.0, 1.0, 0.0):
            raise InvalidInput(
                f"segment {record.id} sees segment {sight.segment} as a context weighed by temperature "
                f"{sight.group.temperature:g} and scale {sight.group.scale:g}: no mask is it"
            )
        if reach[at] and shift[at] != sight.shift:
            raise InvalidInput(f"segment {record.id} sees segment {sight.segment} at two places: no mask is it")
        reach[at], shift[at] = max(reach[at], sight.end), sight.shift
    return reach, shift


def _unseen(record: SegmentRecord, segment: int) -> InvalidInput:
    return InvalidInput(f"segment {record.id} saw text of segment {segment} that is not in this sequence")


def _sampled(record: SegmentRecord) -> list[bool]:
    return [piece.kind == "sampled" for piece in record.pieces for _ in piece.token_ids]


def _logprobs(record: SegmentRecord) -> list[float]:
    """Of each token; NaN where there is none."""
    found: list[float] = []
    for piece in record.pieces:
        known = piece.kind == "sampled" and piece.logprobs is not None
        found += (piece.logprobs or []) if known else [math.nan] * len(piece.token_ids)
    return found


def _ints(values: Sequence[Any]) -> Ints:
    try:
        return np.array(values, dtype=np.int32)
    except OverflowError:
        raise InvalidInput("positions of more than 32 bits: no model has them") from None
