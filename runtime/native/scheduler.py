"""Continuous batching: which rows the next forward pass computes, and what becomes of its results.

A step is a list of *chunks*: consecutive pending tokens of one segment. Decoding branches contribute one token each;
what room is left in the step goes to prefills in chunks, so that a long prompt does not stall running branches
(Sarathi-Serve, arXiv 2403.02310). A segment that was frozen with pending tokens is computed by whoever needs it first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...attention.plan import AttentionPlan, Group
from ..engine import FinishReason
from .generation import Delivery, NativeGeneration
from .sampling import Draw, sample, uniform
from .segment import Segment, Span
from .store import KVStore

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
    """Generations that get a token, and the row whose logits they get."""
    prefilled: list[NativeGeneration] = field(default_factory=list)
    """Generations that only wanted their pending tokens computed, which this step completes."""

    def logit_rows(self) -> Tensor:
        return torch.tensor([row for _, row in self.sampling], dtype=torch.int64)


class Scheduler:
    """Not thread-safe: callers hold the engine's lock."""

    def __init__(self, store: KVStore, *, max_rows: int, prefill_chunk: int) -> None:
        self.store = store
        self.max_rows = max_rows
        self.prefill_chunk = prefill_chunk
        self.running: list[NativeGeneration] = []
        self._arrivals = 0
        self._served: defaultdict[str, int] = defaultdict(int)
        """Rows each job was given while others waited: the fair share is owed to the job with the fewest."""
        self.num_steps = 0
        self.num_rows = 0

    # -- life of a generation ----------------------------------------------------------------------------------

    def submit(self, generation: NativeGeneration) -> None:
        self._arrivals += 1
        generation.sequence = self._arrivals
        job = generation.branch.job
        if all(g.branch.job != job for g in self.running):
            # A job that comes back does not get to catch up on the time it was away.
            self._served[job] = min((self._served[g.branch.job] for g in self.running), default=0)
        self.running.append(generation)

    def abort(self, generation: NativeGeneration) -> None:
        """Stop without a result; the branch keeps what was sampled."""
        if not generation.is_done:
            self._retire(generation)

    def _retire(self, generation: NativeGeneration) -> None:
        generation.is_done = True
        generation.branch.generation = None
        self.running.remove(generation)
        if not self.running:
            self._served.clear()

    # -- planning ----------------------------------------------------------------------------------------------

    def plan(self) -> tuple[Step, list[Delivery]]:
        """The next step, and generations that end without one. The step is empty if there is nothing to run."""
        done = [g for g in self.running if not g.wants_logits and not self._work(g)]
        deliveries = [self._finish(g, g.limit_reason) for g in done]
        step = self._fill(self._ordered() if len(self.running) > 1 else self.running)
        if not step.chunks and self.running:
            # Everybody waits for memory: the youngest gives way. Its blocks come back when its method closes it.
            youngest = max(self.running, key=lambda g: (-g.branch.priority, g.sequence))
            deliveries.append(self._finish(youngest, FinishReason.MEMORY))
        return step, deliveries

    def _ordered(self) -> list[NativeGeneration]:
        """Decoding generations first, then prefills; by priority, then fair share, then arrival."""

        def key(g: NativeGeneration) -> tuple[bool, int, int, int]:
            own = g.branch.own
            is_prefill = own is not None and own.pending > 1
            return is_prefill, -g.branch.priority, self._served[g.branch.job], g.sequence

        return sorted(self.running, key=key)

    def _fill(self, order: Iterable[NativeGeneration]) -> Step:
        step = Step()
        planned: dict[Segment, Chunk] = {}
        recomputed: dict[tuple[Segment, int], int] = {}
        prefill_room = self.prefill_chunk
        for g in order:
            if step.num_rows >= self.max_rows:
                break
            complete = True
            for segment, view in self._work(g):
                if segment in planned:
                    chunk = planned[segment]
                    complete = complete and chunk.begin + chunk.count == len(segment.tokens)
                    continue
                count = min(segment.pending, self.max_rows - step.num_rows)
                if segment.pending > 1:
                    count = min(count, prefill_room)
                if count < 1 or not complete or not self._reserve(segment, segment.computed + count):
                    complete = False
                    break
                if segment.pending > 1:
                    prefill_room -= count
                planned[segment] = self._add(step, segment, view, segment.computed, count)
                self._served[g.branch.job] += count
                g.num_prefilled += count if not g.sampled else 0
                complete = count == segment.pending
            if not complete:
                continue
            if not g.wants_logits:
                step.prefilled.append(g)
            elif (row := self._last_row(step, g, planned, recomputed)) is not None:
                step.sampling.append((g, row))
        return step

    def _work(self, g: NativeGeneration) -> Iterator[tuple[Segment, tuple[Span, ...]]]:
        """Segments with pending tokens that the branch needs, in the order in which they can be computed."""
        visited: set[Segment] = set()

        def visit(view: tuple[Span, ...]) -> Iterator[tuple[Segment, tuple[Span, ...]]]:
            for span in view:
                segment = span.segment
                if span.end is not None and span.end > segment.computed and segment not in visited:
                    visited.add(segment)
                    yield from visit(segment.view)
                    yield segment, segment.view

        yield from visit(g.branch.view)
        own = g.branch.own
        if own is not None and own.pending:
            yield own, own.view

    def _reserve(self, segment: Segment, length: int) -> bool:
        """Blocks for the segment's first `length` tokens; a new prompt leaves one block to each running branch."""
        missing = self.store.blocks_missing(segment, length)
        if missing and not segment.computed and len(self.running) > 1:
            reserve = sum(bool(g.sampled) for g in self.running)
            if missing + reserve > self.store.available:
                return False
        return self.store.reserve(segment, length)

    def _add(
        self, step: Step, segment: Segment, view: tuple[Span, ...], begin: int, count: int, first: int = 0
    ) -> Chunk:
        chunk = Chunk(segment, view, begin, count, step.num_rows, segment.version, first)
        step.chunks.append(chunk)
        step.num_rows += count
        return chunk

    def _last_row(
        self,
        step: Step,
        g: NativeGeneration,
        planned: dict[Segment, Chunk],
        recomputed: dict[tuple[Segment, int], int],
    ) -> int | None:
        """The row that ends in the branch's last token; computed again if its KV is there but its logits are gone."""
        own = g.branch.own
        if own is not None and own.tokens:
            segment, view, end, first = own, own.view, len(own.tokens), 0
        else:
            *before, last = g.branch.view
            assert last.end is not None
            segment, view, end, first = last.segment, tuple(before), last.end, last.start
        chunk = planned.get(segment)
        if chunk is not None and chunk.begin < end <= chunk.begin + chunk.count:
            return chunk.row + end - 1 - chunk.begin
        key = segment, end
        if key not in recomputed:
            if step.num_rows >= self.max_rows:
                return None
            # The row writes its keys and values once more, with the values they have.
            recomputed[key] = self._add(step, segment, view, end - 1, 1, first).row
        return recomputed[key]

    # -- tensors -----------------------------------------------------------------------------------------------

    def tensors(self, step: Step) -> tuple[Tensor, Tensor, Tensor, AttentionPlan]:
        """Token ids, positions and pool slots of the step's rows, all (N,) int64, and its attention plan."""
        size = self.store.block_size
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
            ends = []
            for span in c.view:
                if span.end is not None:
                    last = span.end
                elif span.segment.refs:
                    last = written.get(span.segment, span.segment.computed)
                    ends.append(last)
                else:
                    ends.append(0)
                    continue
                group = 0
                if span.group is not None:
                    group = groups.setdefault(id(span.group), len(group_list))
                    if group == len(group_list):
                        group_list.append(span.group)
                run = runs.setdefault(span.segment, len(runs))
                entries.append((c.row, c.count, run, span.start, last, 0, span.shift, group))
            if ends:
                segment.seen.append((begin, tuple(ends)))
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

    # -- results -----------------------------------------------------------------------------------------------

    def commit(self, step: Step, logits: Tensor, *, keep_logits: bool = False) -> list[Delivery]:
        """Take over the results of a step; `logits` (len(step.sampling), V) float32 on the CPU."""
        self.num_steps += 1
        self.num_rows += step.num_rows
        for c in step.chunks:
            segment = c.segment
            # The branch may have been closed or rewound while the pass was running.
            if segment.refs and segment.version == c.version and c.begin + c.count > segment.computed:
                self.store.advance(segment, c.begin + c.count)
        live = [(i, g) for i, (g, _) in enumerate(step.sampling) if not g.is_done]
        draws = [Draw(g.params, uniform(g.branch.sampling_seed, g.branch.num_sampled), g.seen) for _, g in live]
        if len(live) < len(step.sampling):
            logits = logits[[i for i, _ in live]]
        drawn = sample(logits, draws) if live else []
        deliveries = [self._finish(g, g.limit_reason) for g in step.prefilled if not g.is_done]
        for i, (_, g) in enumerate(live):
            if keep_logits:
                g.branch.logits = logits[i]
            g.branch.num_sampled += 1
            g.branch.open_segment().tokens.append(drawn[i].token)
            delivery = g.push(drawn[i].token, drawn[i].logprob, drawn[i].top)
            if delivery.completion is not None:
                if delivery.completion.rolled_back:
                    g.branch.cut(g.start_length + len(g.sampled))
                self._retire(g)
            if delivery.tokens or delivery.completion is not None:
                deliveries.append(delivery)
        return deliveries

    def fail(self, error: BaseException) -> list[Delivery]:
        """End every generation with an error (a forward pass failed)."""
        deliveries = []
        for g in list(self.running):
            self._retire(g)
            deliveries.append(Delivery(g, [], error=error))
        return deliveries

    def _finish(self, g: NativeGeneration, reason: FinishReason) -> Delivery:
        self._retire(g)
        return g.finish(reason)
