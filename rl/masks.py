"""What is trained is what is served: attention masks and position ids from the views that decoding had.

A `TreeMask` comes from a recorded trace, of any method, or from a text in Multiverse form, and then is the mask of the
run that would have written it. One masked forward over its tokens gives the logits that decoding gave. It holds a few
numbers per token and a small table, never an L x L mask, until `dense` or `block_mask` makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.errors import InvalidInput
from ..runtime.methods.multiverse.replay import Encode, Item, Positions, Run, layout
from ..runtime.trace.record import Kind, Piece, SegmentRecord, SpanRecord
from ..runtime.trace.sights import Sight, sights
from ..runtime.trace.trace import Trace
from ..runtime.trace.writer import SegmentWriter

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeMask:
    """Which of L tokens see which: a token sees its own segment up to itself, and of every other segment so many
    tokens as its row of `reach` says. There is one row per segment (live views: one per forward pass)."""

    token_ids: list[int]
    positions: Ints
    """(L,) position ids."""
    segment: Ints
    """(L,) column of `reach` that a token is counted in."""
    offset: Ints
    """(L,) place within its segment."""
    row: Ints
    """(L,) row of `reach` that holds for a token."""
    reach: Ints
    """(rows, segments): first tokens of each segment that are seen; 0 for the own one."""
    is_sampled: NDArray[np.bool_]
    """(L,) written by the model: what a loss is taken of."""
    source: Ints
    """(L,) which token's logits a token was sampled from; -1: none among these."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def allows(self, query: int, key: int) -> bool:
        """Does token `query` see token `key`?"""
        if self.segment[query] == self.segment[key]:
            return bool(self.offset[key] <= self.offset[query])
        return bool(self.offset[key] < self.reach[self.row[query], self.segment[key]])

    def position_ids(self) -> Tensor:
        """(1, L) int64."""
        return torch.from_numpy(self.positions.astype(np.int64))[None]

    def input_ids(self) -> Tensor:
        """(1, L) int64."""
        return torch.tensor([self.token_ids])

    def dense(self) -> Tensor:
        """(1, 1, L, L) bool, True where attention is allowed: the `attention_mask` for SDPA. On the CPU the only form
        that trains, since FlexAttention has no backward there."""
        segment, offset = torch.from_numpy(self.segment), torch.from_numpy(self.offset)
        mask = torch.empty(len(self), len(self), dtype=torch.bool)
        for row, reach in enumerate(torch.from_numpy(self.reach)):
            own = torch.from_numpy(np.flatnonzero(self.row == row))
            mask[own] = offset < reach[segment.long()]
        for index in range(self.reach.shape[1]):
            own = torch.from_numpy(np.flatnonzero(self.segment == index))
            mask[own[:, None], own[None, :]] = offset[own][:, None] >= offset[own][None, :]
        return mask[None, None]

    def predicate(self, device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """`mask_mod(batch, head, query, key)` of FlexAttention, over the metadata on `device`."""
        segment, offset, row, reach = (
            torch.from_numpy(a).to(device) for a in (self.segment, self.offset, self.row, self.reach)
        )

        def mask_mod(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_own = segment[query] == segment[key]
            limit = torch.where(is_own, offset[query] + 1, reach[row[query], segment[key]])
            return offset[key] < limit

        return mask_mod

    def block_mask(self, device: torch.device | str = "cuda", block_size: int = 128) -> BlockMask:
        """For FlexAttention; building it takes L x L booleans on the device for a moment."""
        from torch.nn.attention.flex_attention import create_block_mask

        make: Any = create_block_mask
        made: BlockMask = make(
            self.predicate(device), None, None, len(self), len(self), device=device, BLOCK_SIZE=block_size
        )
        return made


def trace_mask(trace: Trace, segment: int | None = None) -> TreeMask:
    """The mask of a recorded job: all tokens of its own model, forgotten ones included, segment after segment.

    With `segment`, only the text that this segment was written in and the segment itself, in the order of the text: the
    sequence to train on. Raises `InvalidInput` for traces whose views a mask cannot express: attached contexts, shifted
    spans, text that saw what is not in its sequence.
    """
    own = [s for s in trace.segments if len(s) and trace.model_of(s.branch) is None]
    spans = [SpanRecord(segment=s.id, length=len(s)) for s in own]
    if segment is not None:
        last = trace.segments[segment]
        spans = [span for span in last.view if span.is_text] + [SpanRecord(segment=segment, length=len(last))]
    column = {span.segment: i for i, span in enumerate(spans)}
    if len(column) < len(spans):
        raise InvalidInput("a segment is twice in this view: one mask cannot hold it")
    lengths = [span.length or 0 for span in spans]
    firsts = np.cumsum([0, *lengths])
    rows: list[list[int]] = []
    row: list[int] = []
    source: list[int] = []
    for at, span in enumerate(spans):
        record = trace.segments[span.segment]
        is_fixed = not record.views and all(s.length is not None for s in record.view)
        seen: list[Sight] | None = None
        for i, now in zip(range(lengths[at]), _sights(trace, record, is_fixed), strict=False):
            if i == 0 or (now is not seen and now != seen):
                rows.append(_reach(record, now, column, lengths))
            seen = now
            row.append(len(rows) - 1)
        before = [s for s in record.view if s.is_text and s.length]
        origin = int(firsts[column[before[-1].segment]]) + (before[-1].length or 0) - 1 if before else -1
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
        reach=_ints(rows).reshape(len(rows), len(spans)),
        is_sampled=np.array([flag for record, n in pairs for flag in _sampled(record)[:n]], dtype=np.bool_),
        source=_ints(source),
    )


def text_mask(
    text: str,
    encode: Encode,
    positions: Positions = "train",
    *,
    prompt: Sequence[int] = (),
    end: Sequence[int] = (),
) -> TreeMask:
    """The mask of an assistant's text in Multiverse form behind `prompt`; `end`: tokens behind it (EOS).

    Any text has one: what is no block (`multiverse.grammar.blocks`) is plain causal text.
    """
    return trace_mask(text_trace(text, encode, positions, prompt=prompt, end=end))


def text_trace(
    text: str,
    encode: Encode,
    positions: Positions = "train",
    *,
    prompt: Sequence[int] = (),
    end: Sequence[int] = (),
) -> Trace:
    """The trace of the run that would have written `text`: the tags that the runtime puts in count as sampled, since
    they are trained (spec of the data, section 5.2)."""
    trace = Trace()
    line = _Line(trace, "0")
    line.write(prompt, "prompt")
    line.walk(layout(text, encode), positions == "train")
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


def _reach(record: SegmentRecord, seen: Sequence[Sight], column: dict[int, int], lengths: Sequence[int]) -> list[int]:
    """How much of each segment a token sees."""
    reach = [0] * len(column)
    for sight in seen:
        at = column.get(sight.segment)
        if sight.end and (at is None or sight.end > lengths[at]):
            raise InvalidInput(f"segment {record.id} saw text of segment {sight.segment} that is not in this sequence")
        if sight.end and (sight.shift or sight.group is not None):
            raise InvalidInput(f"segment {record.id} sees segment {sight.segment} shifted or as a group: no mask is it")
        if at is not None:
            reach[at] = max(reach[at], sight.end)
    return reach


def _sampled(record: SegmentRecord) -> list[bool]:
    return [piece.kind == "sampled" for piece in record.pieces for _ in piece.token_ids]


def _ints(values: Sequence[Any]) -> Ints:
    return np.array(values, dtype=np.int32)
