"""`Step`: one forward pass, as rows; `Filling` puts it together, `tensors` says it to the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...attention.plan import AttentionPlan, Group
from .generation import NativeGeneration
from .segment import Segment, Span, packed_shifts

_ORDINARY = Group()


@dataclass(slots=True)
class Chunk:
    """Rows `row .. row + count - 1` of the step: tokens `begin .. begin + count - 1` of a segment seen under `view`."""

    segment: Segment
    view: tuple[Span, ...]
    begin: int
    count: int
    row: int
    version: int
    first: int = 0
    """First visible token of the segment itself."""


@dataclass(slots=True)
class Step:
    """One forward pass."""

    chunks: list[Chunk] = field(default_factory=list)
    num_rows: int = 0
    sampling: list[tuple[NativeGeneration, int]] = field(default_factory=list)
    """Generations that get a token, or only a hidden state, and the row they get it from."""
    prefilled: list[NativeGeneration] = field(default_factory=list)
    """Generations that only wanted their pending tokens computed, which this step completes."""

    def logit_rows(self) -> Tensor:
        return torch.tensor([row for _, row in self.sampling], dtype=torch.int64)


@dataclass(slots=True)
class Filling:
    """A step being put together."""

    max_rows: int
    prefill_room: int
    step: Step = field(default_factory=Step)
    planned: dict[Segment, Chunk] = field(default_factory=dict)
    recomputed: dict[tuple[Segment, int], int] = field(default_factory=dict)
    """(segment, end) -> row of a last token that is computed again for its logits."""

    is_short: bool = False
    """Was somebody refused KV blocks?"""

    @property
    def rows_left(self) -> int:
        return self.max_rows - self.step.num_rows

    def add(self, segment: Segment, view: tuple[Span, ...], begin: int, count: int, first: int = 0) -> Chunk:
        chunk = Chunk(segment, view, begin, count, self.step.num_rows, segment.version, first)
        self.step.chunks.append(chunk)
        self.step.num_rows += count
        return chunk


def tensors(step: Step, block_size: int) -> tuple[Tensor, Tensor, Tensor, AttentionPlan]:
    """Token ids, positions and pool slots of the step's rows, all (N,) int64, and its attention plan."""
    size = block_size
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    runs: dict[Segment, int] = {}
    groups: dict[int, int] = {}
    group_list = [_ORDINARY]
    entries: list[tuple[int, int, int, int, int, int, int, int]] = []
    written = {c.segment: c.begin + c.count for c in step.chunks if c.begin + c.count > c.segment.computed}
    for c in step.chunks:
        segment, begin, end = c.segment, c.begin, c.begin + c.count
        blocks = segment.blocks
        if c.count == 1:
            tokens.append(segment.tokens[begin])
            positions.append(segment.start + begin)
            slots.append(int(blocks[begin // size]) * size + begin % size)
        else:
            index = np.arange(begin, end)
            tokens.extend(segment.tokens[begin:end])
            positions.extend(range(segment.start + begin, segment.start + end))
            slots.extend((blocks[index // size] * size + index % size).tolist())
        ends = [_end(span, written) for span in c.view]
        shifts = packed_shifts(c.view, ends, segment.start)[0] if segment.is_packed else [span.shift for span in c.view]
        for span, last, shift in zip(c.view, ends, shifts, strict=True):
            group = 0
            if span.group is not None:
                group = groups.setdefault(id(span.group), len(group_list))
                if group == len(group_list):
                    group_list.append(span.group)
            run = runs.setdefault(span.segment, len(runs))
            entries.append((c.row, c.count, run, span.start, last, 0, shift, group))
        live = tuple(end for span, end in zip(c.view, ends, strict=True) if span.is_live)
        if live:
            segment.seen.append((begin, live))
        run = runs.setdefault(segment, len(runs))
        entries.append((c.row, c.count, run, c.first, end, 1, 0, 0))
    tables = [segment.blocks for segment in runs]
    plan = AttentionPlan(
        num_rows=step.num_rows,
        run_blocks=np.maximum(np.concatenate(tables), 0),
        run_start=np.cumsum([0, *map(len, tables)], dtype=np.int32),
        entries=np.asarray(entries, dtype=np.int32),
        groups=tuple(group_list),
    )
    as_tensor = torch.tensor
    return as_tensor(tokens), as_tensor(positions), as_tensor(slots), plan


def _end(span: Span, written: dict[Segment, int]) -> int:
    """How far the span is seen in this step."""
    if span.end is not None:
        return span.end
    # A watched segment whose last holder is gone has given its blocks back.
    return written.get(span.segment, span.segment.computed) if span.segment.refs else span.start
