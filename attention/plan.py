"""`AttentionPlan`: which query rows see which keys, for one forward pass over many branches.

Legend for shapes: N query rows, H query heads, K key/value heads, D head size, B block size, P pool blocks,
R runs, E entries, G groups.

A *run* is one segment as the pool holds it: a list of blocks. An *entry* says that a range of query rows sees a range
of a run's tokens. The entries of a row, over all runs, make up its view. Runs are unique, so entries on the same run
show where several branches can share one read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

ROW, ROWS, RUN, BEGIN, END, CAUSAL, SHIFT, GROUP = range(8)
"""Columns of `AttentionPlan.entries`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A score scale and a weight for the spans of one group (APE, arXiv 2502.05431, section 4)."""

    temperature: float = 1.0
    """T: scores of the group are divided by it."""
    factor: float = 1.0
    """Multiplies the group's joint log-sum-exp (APE's S * T), after the ordinary merge inside the group."""
    bias: float = 0.0
    """Added to the joint log-sum-exp after `factor`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionPlan:
    """All arrays are C-contiguous. A plan must not change once it has been used: work derived from it is kept."""

    num_rows: int
    """N."""
    run_blocks: Int32
    """Block ids of all runs, one run after the other."""
    run_start: Int32
    """(R + 1,): run r has blocks run_blocks[run_start[r] : run_start[r + 1]]; its token t: block t // B, slot t % B."""
    entries: Int32
    """(E, 8): columns `row, rows, run, begin, end, causal, shift, group`.

    Query rows row .. row + rows - 1 see the run's tokens begin .. end - 1; if `causal` is 1, row `row + i` sees only
    begin .. end - rows + i (the last row sees all, each earlier row one less: the rows are the run's own last tokens).
    `shift` moves the run's keys by that many positions. An empty range is allowed and contributes nothing. No row may
    see the same key twice; a row without any visible key gets zeros.
    """
    groups: tuple[Group, ...] = (Group(),)
    """Group 0 is ordinary attention."""
    run_position: Int32 | None = None
    """(R,) position of each run's token 0 (plus an entry's shift, where that entry sees it); None: all 0. Only windows
    need it."""
    is_prefill: NDArray[np.bool_] | None = None
    """(N,): is the row of a text that was given, and not of one that is being written token by token? GPU kernels cut
    the work of the two differently; None: rows of causal entries that have several."""
    derived: dict[str, object] = field(default_factory=dict, init=False, repr=False)
    """What implementations worked out from the plan, so that they do it once per step and not once per layer."""

    def __post_init__(self) -> None:
        """Raise ValueError if an array has another type, layout or shape than the compiled kernels rely on."""
        for name in ("run_blocks", "run_start", "entries"):
            array = getattr(self, name)
            if array.dtype != np.int32 or not array.flags.c_contiguous:
                raise ValueError(f"plan.{name} must be a C-contiguous int32 array")
        if self.entries.ndim != 2 or self.entries.shape[1] != 8:
            raise ValueError(f"plan.entries must have shape (E, 8), not {self.entries.shape}")
        if self.run_blocks.ndim != 1 or self.run_start.ndim != 1 or len(self.run_start) < 1 or not self.groups:
            raise ValueError("plan.run_blocks and plan.run_start must be lists, run_start and groups not empty")
        positions = self.run_position
        if positions is not None and (positions.dtype != np.int32 or positions.shape != (len(self.run_start) - 1,)):
            raise ValueError("plan.run_position must be an int32 array with one position for each run")
        if self.is_prefill is not None and self.is_prefill.shape != (self.num_rows,):
            raise ValueError(f"plan.is_prefill must have shape ({self.num_rows},), not {self.is_prefill.shape}")

    def check(self, block_size: int, num_blocks: int) -> None:
        """Raise ValueError if an entry points outside the rows, the runs, their blocks, the groups or the pool."""
        entries, run_start, num_runs = self.entries, self.run_start, len(self.run_start) - 1
        if run_start[0] != 0 or run_start[-1] > len(self.run_blocks) or (np.diff(run_start) < 0).any():
            raise ValueError("plan.run_start must rise from 0 to at most len(plan.run_blocks)")
        if len(self.run_blocks) and not (0 <= self.run_blocks.min() and self.run_blocks.max() < num_blocks):
            raise ValueError(f"plan.run_blocks must name blocks 0 .. {num_blocks - 1} of the pool")
        for group in self.groups:
            if not (group.temperature > 0 and np.isfinite([group.factor, group.bias]).all()):
                raise ValueError(f"a group needs a positive temperature and a finite factor and bias, not {group}")
        row, rows, run, group_of = (entries[:, column] for column in (ROW, ROWS, RUN, GROUP))
        if ((row < 0) | (rows < 0) | (row.astype(np.int64) + rows > self.num_rows)).any():
            raise ValueError(f"plan.entries: rows must lie in 0 .. {self.num_rows - 1}")
        if ((run < 0) | (run >= num_runs)).any():
            raise ValueError(f"plan.entries: runs must lie in 0 .. {num_runs - 1}")
        if ((group_of < 0) | (group_of >= len(self.groups))).any():
            raise ValueError(f"plan.entries: groups must lie in 0 .. {len(self.groups) - 1}")
        begin, end, capacity = entries[:, BEGIN], entries[:, END], np.diff(run_start)[run] * block_size
        if ((end > begin) & ((begin < 0) | (end > capacity))).any():
            raise ValueError("plan.entries: begin .. end must lie inside the blocks of the run")

    def row_entries(self) -> Int64:
        """(M, 6): columns `row, run, begin, end, shift, group`, one line per query row and entry that shows it a key.

        In the order of `entries`, so that the lines of one row stand in the order of its view.
        """
        entries = self.entries.astype(np.int64)
        rows = entries[:, ROWS]
        each = np.repeat(entries, rows, axis=0)
        index = np.arange(len(each)) - np.repeat(np.cumsum(rows) - rows, rows)
        end = each[:, END] - np.where(each[:, CAUSAL] != 0, each[:, ROWS] - 1 - index, 0)
        begin, row = each[:, BEGIN], each[:, ROW] + index
        lines: Int64 = np.stack([row, each[:, RUN], begin, end, each[:, SHIFT], each[:, GROUP]], axis=1)
        seen: Int64 = lines[begin < end]
        return seen

    def farthest(self, positions: NDArray[np.number[Any]]) -> int:
        """How far back any row sees: the largest distance between a row's position and that of a key, at least 0.

        positions: (N,) of the rows; those of one entry must rise.
        """
        distance = self._distances(positions)
        return max(0, int(distance.max(initial=0)))

    def within(self, positions: NDArray[np.number[Any]], window: int) -> AttentionPlan:
        """The plan in which a row at position p sees only keys at positions above p - window (transformers' sliding
        window), as the row's entries place them; this very plan if nothing changes. Keys ahead of p stay.

        positions: as for `farthest`. The new plan is kept, so ask with the same ones.
        """
        if self.farthest(positions) < window:
            return self
        key = f"within {window}"
        kept = self.derived.get(key)
        if not isinstance(kept, AttentionPlan):
            kept = self.derived[key] = self._within(positions, window)
        return kept

    def _within(self, positions: NDArray[np.number[Any]], window: int) -> AttentionPlan:
        """Entries that the window cuts are unrolled: each of their rows sees another range."""
        entries, cut = self.entries, self._distances(positions) >= window
        rows = entries[cut, ROWS]
        each = np.repeat(entries[cut], rows, axis=0)
        index = np.arange(len(each)) - np.repeat(np.cumsum(rows) - rows, rows)
        each[:, END] -= np.where(each[:, CAUSAL] != 0, each[:, ROWS] - 1 - index, 0)
        each[:, ROW] += index
        each[:, ROWS] = 1
        oldest = positions[each[:, ROW]].astype(np.int64) - window + 1 - self._origins(each)
        each[:, BEGIN] = np.maximum(each[:, BEGIN], oldest)
        # In the order of the plan, in which partial results are merged.
        place = np.concatenate([np.flatnonzero(~cut), np.repeat(np.flatnonzero(cut), rows)])
        merged = np.concatenate([entries[~cut], each])[np.argsort(place, kind="stable")]
        return replace(self, entries=np.ascontiguousarray(merged[merged[:, BEGIN] < merged[:, END]]))

    def _origins(self, entries: Int32) -> Int64:
        """(len(entries),) position of token 0 of each one's run, as the entry places it."""
        origins: Int64 = entries[:, SHIFT].astype(np.int64)
        return origins if self.run_position is None else origins + self.run_position[entries[:, RUN]]

    def _distances(self, positions: NDArray[np.number[Any]]) -> Int64:
        """(E,) distance between the first key and the last row of each entry; negative for empty ones."""
        entries = self.entries
        if not len(positions):
            return np.full(len(entries), -1, dtype=np.int64)
        last = positions[entries[:, ROW] + np.maximum(entries[:, ROWS], 1) - 1].astype(np.int64)
        distance = last - self._origins(entries) - entries[:, BEGIN]
        is_empty = (entries[:, ROWS] < 1) | (entries[:, BEGIN] >= entries[:, END])
        seen: Int64 = np.where(is_empty, -1, distance)
        return seen
