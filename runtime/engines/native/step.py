"""`Step`: one forward pass, as rows; `Filling` puts it together, `Inputs` says it to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from ....attention.plan import CAUSAL, END, AttentionPlan, Group, Int32
from .generation import NativeGeneration
from .sampling import Draws
from .segment import Segment, Span, packed_shifts

_ORDINARY = Group()

Run = tuple[tuple[Segment, int, int | None], ...]
"""Of a plan: blocks `first .. stop - 1` (None: to the last) of segments, one behind the other."""


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
    is_joined: bool = False
    """As `Span.is_joined`: does what is visible of it go on the last span of `view`?"""
    is_prefill: bool = True
    """Were its tokens given, or is one computed again? Else it was sampled in the step before."""
    draft: Sequence[int] = ()
    """The last of its tokens, which the segment does not have: they are only guessed."""


@dataclass(slots=True)
class Inputs:
    """What the model is given for a step."""

    tokens: Tensor
    """(N,) int64."""
    positions: Tensor
    """(N,) float32."""
    slots: Tensor
    """(N,) int64, in the pool."""
    logit_rows: Tensor
    """(M,) int64."""
    plan: AttentionPlan
    runs: list[Run]
    """The runs of `plan`."""
    stops: tuple[Tensor, Tensor]
    """Token ids that end the generations of `logit_rows`: (M + 1,) where each one's begin, and all ids."""


@dataclass(slots=True)
class Step:
    """One forward pass."""

    chunks: list[Chunk] = field(default_factory=list)
    num_rows: int = 0
    sampling: list[tuple[NativeGeneration, int]] = field(default_factory=list)
    """Generations that get a token, or only a hidden state, and the row they get it from."""
    prefilled: list[NativeGeneration] = field(default_factory=list)
    """Generations that only wanted their pending tokens computed, which this step completes."""
    jobs: Counter[str] = field(default_factory=Counter)
    """Rows of each job."""
    prefills: list[tuple[NativeGeneration, int]] = field(default_factory=list)
    """(generation, tokens of what it was given that the step computes)."""
    drafts: list[tuple[NativeGeneration, Chunk]] = field(default_factory=list)
    """What is verified: chunks of a token that was sampled and its draft. The logits of the rows of drafts come behind
    those of `sampling`."""
    num_plain: int = 0
    """Rows that decode under a view which stays as it is."""
    num_left_out: int = 0
    """Generations of jobs that have their share of the step without them."""
    num_repeats: int = 0
    """How often it was taken again."""
    num_steps: int = 1
    """Steps that may run, each from what the one before sampled, before anybody has to look."""
    _inputs: Inputs | None = None

    @property
    def can_be_dropped(self) -> bool:
        """Is nothing lost but time if it is planned and not run to its end?"""
        return not self.drafts and not any(span.is_live for c in self.chunks for span in c.view)

    def fits_burst(self, *, scores: bool) -> bool:
        """Does each row give its generation a token that the model can sample (`NativeGeneration.fits_burst`), and
        nothing else happen?"""
        rows = [row for _, row in self.sampling]
        return (
            rows == list(range(self.num_rows)) == [c.row for c in self.chunks]
            and not self.prefilled
            and all(g.limit > 0 and g.fits_burst(scores=scores) for g, _ in self.sampling)
        )

    def draws(self) -> Draws | None:
        """How the rows of a burst are sampled; None: they take the likeliest tokens."""
        generations = [g for g, _ in self.sampling]
        if all(g.is_greedy for g in generations):
            return None
        branches = [g.branch for g in generations]
        return Draws.of(
            [g.params for g in generations], [b.sampling_seed for b in branches], [b.num_sampled for b in branches],
            self.num_steps,
        )  # fmt: skip

    def allowed(self, vocab_size: int) -> list[Tensor | None] | None:
        """For each generation that samples: the tokens (V,) that its constraint allows now; None: none has one."""
        if all(g.matcher is None for g, _ in self.sampling):
            return None
        return [None if g.matcher is None or g.is_done else g.matcher.allowed(vocab_size) for g, _ in self.sampling]

    def inputs(self, block_size: int) -> Inputs:
        """Made at the first call, after the KV blocks were reserved."""
        if self._inputs is None:
            self._inputs = _inputs(self, block_size)
        return self._inputs

    def advance(self, block_size: int, num_steps: int) -> None:
        """Become the step after this one, in which each row decodes the token that it sampled (`num_plain` of them:
        all), and up to `num_steps` may follow. Only what changes is worked out again."""
        inputs = self._inputs
        assert inputs is not None and self.num_plain == self.num_rows
        self.num_repeats += 1
        self.num_steps = num_steps
        slots = inputs.slots.numpy()
        slots += 1
        for c in self.chunks:
            c.begin += 1
            if c.begin % block_size == 0:
                slots[c.row] = c.segment.blocks[c.begin // block_size] * block_size
        inputs.tokens = torch.tensor([c.segment.tokens[c.begin] for c in self.chunks])
        inputs.positions += 1
        plan = inputs.plan
        entries = plan.entries.copy()
        entries[:, END] += entries[:, CAUSAL]  # the own segments
        run_blocks, run_start = plan.run_blocks, plan.run_start
        # Own segments grow, and others lose what only a branch needed that is closed.
        if not np.array_equal(run_start, _starts(inputs.runs)):
            run_blocks, run_start = _tables(inputs.runs)
        inputs.plan = AttentionPlan(
            num_rows=plan.num_rows, run_blocks=run_blocks, run_start=run_start, entries=entries, groups=plan.groups,
            run_position=plan.run_position, is_prefill=np.zeros(plan.num_rows, dtype=np.bool_),
        )  # fmt: skip


@dataclass(slots=True)
class Filling:
    """A step being put together."""

    max_rows: int
    prefill_room: int
    share: int
    """Rows of a job at most, but for gangs that are begun."""
    are_prompts_whole: bool = False
    """Do prompts get all rows that they need, whatever the share?"""
    step: Step = field(default_factory=Step)
    planned: dict[Segment, Chunk] = field(default_factory=dict)
    recomputed: dict[tuple[Segment, int], int] = field(default_factory=dict)
    """(segment, end) -> row of a last token that is computed again for its logits."""
    short: list[NativeGeneration] = field(default_factory=list)
    """Generations that were refused KV blocks; of a gang, one."""

    @property
    def rows_left(self) -> int:
        return self.max_rows - self.step.num_rows

    def rows_of(self, g: NativeGeneration) -> int:
        """How many more rows it may have."""
        if self.are_prompts_whole and not g.sampled:
            return self.rows_left
        return min(self.rows_left, self.share - self.step.jobs[g.branch.job])

    def add(
        self, segment: Segment, view: tuple[Span, ...], begin: int, count: int, *,
        span: Span | None = None, is_prefill: bool = True, draft: Sequence[int] = (),
    ) -> Chunk:  # fmt: skip
        """`span`: of the segment, what these tokens see; None: all in front of them."""
        first, is_joined = (0, segment.is_joined) if span is None else (span.start, span.is_joined)
        row, version = self.step.num_rows, segment.version
        chunk = Chunk(segment, view, begin, count, row, version, first, is_joined, is_prefill, draft)
        self.step.chunks.append(chunk)
        self.step.num_rows += count
        return chunk


def _inputs(step: Step, size: int) -> Inputs:
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    runs: dict[Run, int] = {}
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
            tokens.extend(segment.tokens[begin : end - len(c.draft)])
            tokens.extend(c.draft)
            positions.extend(range(segment.start + begin, segment.start + end))
            slots.extend((blocks[index // size] * size + index % size).tolist())
        ends = [_end(span, written) for span in c.view]
        shifts = packed_shifts(c.view, ends, segment.start)[0] if segment.is_packed else [span.shift for span in c.view]
        before: Run = ()  # what the next span goes on, if it is joined
        for i, (span, last, shift) in enumerate(zip(c.view, ends, shifts, strict=True)):
            if c.view[i + 1].is_joined if i + 1 < len(c.view) else c.is_joined:
                before = (*before, (span.segment, span.start // size, last // size))
                continue
            group = 0
            if span.group is not None:
                group = groups.setdefault(id(span.group), len(group_list))
                if group == len(group_list):
                    group_list.append(span.group)
            run, first, last = _run(before, span.segment, span.start, last, size)
            entries.append((c.row, c.count, runs.setdefault(run, len(runs)), first, last, 0, shift, group))
            before = ()
        live = tuple(end for span, end in zip(c.view, ends, strict=True) if span.is_live)
        if live:
            segment.seen.append((begin, live))
        run, first, last = _run(before, segment, c.first, end, size)
        entries.append((c.row, c.count, runs.setdefault(run, len(runs)), first, last, 1, 0, 0))
    run_blocks, run_start = _tables(list(runs))
    plan = AttentionPlan(
        num_rows=step.num_rows,
        run_blocks=run_blocks,
        run_start=run_start,
        entries=np.asarray(entries, dtype=np.int32),
        groups=tuple(group_list),
        run_position=np.fromiter(
            (segment.start + first * size for (segment, first, _), *_ in runs), dtype=np.int32, count=len(runs)
        ),
        is_prefill=np.repeat([c.is_prefill for c in step.chunks], [c.count for c in step.chunks]),
    )
    logit_rows = [row for _, row in step.sampling]
    for _, c in step.drafts:
        logit_rows.extend(range(c.row + 1, c.row + c.count))
    return Inputs(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions, dtype=torch.float32),
        slots=torch.tensor(slots),
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        plan=plan,
        runs=list(runs),
        stops=_stops(step),
    )


def _stops(step: Step) -> tuple[Tensor, Tensor]:
    ids = [sorted(g.stop_ids | g.eos_ids) for g, _ in step.sampling]
    start = torch.tensor([0, *accumulate(map(len, ids))])
    return start, torch.tensor(list(chain.from_iterable(ids)), dtype=torch.int64)


def _run(before: Run, segment: Segment, first: int, end: int, size: int) -> tuple[Run, int, int]:
    """The run in which tokens `first .. end - 1` of a segment go on `before`, and the range that is seen of it. Token
    `first` begins a block."""
    length = size * sum(stop - start for _, start, stop in before if stop is not None)
    return (*before, (segment, first // size, None)), 0, length + end - first


def _num_blocks(run: Run) -> int:
    return sum(len(segment.blocks[first:stop]) for segment, first, stop in run)


def _tables(runs: list[Run]) -> tuple[Int32, Int32]:
    """`run_blocks` and `run_start` of a plan."""
    tables = [segment.blocks[first:stop] for run in runs for segment, first, stop in run]
    return np.maximum(np.concatenate(tables), 0), _starts(runs)


def _starts(runs: list[Run]) -> Int32:
    return np.cumsum([0, *map(_num_blocks, runs)], dtype=np.int32)


def _end(span: Span, written: dict[Segment, int]) -> int:
    """How far the span is seen in this step."""
    if span.end is not None:
        return span.end
    # A watched segment whose last holder is gone has given its blocks back.
    return written.get(span.segment, span.segment.computed) if span.segment.refs else span.start
