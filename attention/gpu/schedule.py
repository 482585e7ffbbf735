"""`Schedule`: an `AttentionPlan` cut into pieces of work for a GPU.

A *line* is one row on one of its entries, with the range of tokens it sees. An *item* is what one program does for one
key/value head: a *tile* of lines over one *chunk* of tokens. Lines of different rows on one run share a tile, which
reads keys and values once for all of them. Each line and chunk gives a partial result in its own *slot*; the slots of a
row, one behind the other, are merged by log-sum-exp (FlashDecoding's merge).

How a row is cut into lines and chunks depends on that row's view alone: neither what else is in the step, nor who
shares what with it, changes the order in which its numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan import CAUSAL, END, ROWS, AttentionPlan, Float32, Int32, Int64
from ..plan import ROW as ENTRY_ROW

LINE0, LINES, BLOCK0, BLOCKS, BASE, CHUNK, FULL0, FULL1 = range(8)
"""Columns of `Tiles.items`."""
ROW, LOW, HIGH, SHIFT, SLOT0, CHUNK0, SLOTS, OWN = range(8)
"""Columns of `Schedule.lines`."""

SHORT = 128
"""Tokens of a span up to which a decoding row reads its spans together, one behind the other as if they were one run: a
program for each would wait longer than it reads, and what several rows share then comes out of the cache."""
MAX_TOKENS = 1 << 22
"""Of a run."""
_SMALLEST = 4
"""Token tiles of a chunk at least, where shares are equal."""


def _starts(*parts: tuple[int, int]) -> Int64:
    """First tokens of the chunks, and where the last one ends: they have `size` tokens up to `until`, for each (until,
    size)."""
    begins = [0, *(until for until, _ in parts[:-1])]
    steps = [np.arange(begin, until, size) for begin, (until, size) in zip(begins, parts, strict=True)]
    starts: Int64 = np.concatenate([*steps, [parts[-1][0]]]).astype(np.int64)
    return starts


_DECODE = _starts((1024, 256), (8192, 512), (65536, 1024), (MAX_TOKENS, 2048))
"""Short runs are cut finer, to keep all processors busy; long ones coarser, since each slot costs a merge."""
_PREFILL = _starts((MAX_TOKENS, 4096))
"""Rows that come many at a time keep the processors busy without."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Items whose tiles have the same shape, and so one kernel."""

    block_m: int
    """Lines of a tile times H / K, at most."""
    items: Int32
    """(I, 8): columns `line0, lines, block0, blocks, base, chunk, full0, full1`.

    Lines line0 .. line0 + lines - 1 look at blocks block0 .. block0 + blocks - 1 of `Schedule.blocks`, whose first
    token is number `base` as lines count. `chunk`: which one it is. Token tiles full0 .. full1 - 1, counted from
    `base`, are visible to all lines, whole."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All index arrays are int32 and C-contiguous."""

    tiles: tuple[Tiles, ...]
    """Of the largest tiles first."""
    lines: Int32
    """(L, 8): columns `row, low, high, shift, slot0, chunk0, slots, own`. The line sees tokens low .. high - 1; its
    result for chunk c goes to slot `slot0 + c - chunk0`, if that is one of its `slots`. `own`: 1 for what a decoding
    row sees of its own run, where each step adds a token."""
    inverse_temperature: Float32
    """(L,)."""
    blocks: Int32
    """Pool blocks of all runs, as in the plan, and behind them those of spans that are read together."""
    bounds: Int32
    """For each of `blocks`: first visible slot + 65536 * the slot behind the last one."""
    slot_start: Int32
    """(N + 1,): row r has slots slot_start[r] .. slot_start[r + 1] - 1, group by group."""
    slot_group: Int32
    """Group of each slot."""
    is_shifted: bool

    @property
    def num_slots(self) -> int:
        return len(self.slot_group)


_ROW, _BLOCK0, _LOW, _SEEN, _HIGH, _SHIFT, _GROUP, _PREFILLS, _OWN, _ORDER, _TOGETHER = range(11)
"""Columns of lines here: token 0 of the run is in block `block0`; `seen` is `high` as it is now."""


def make_schedule(
    plan: AttentionPlan,
    block_size: int,
    ratio: int,
    token_tile: int,
    block_ms: Sequence[int],
    *,
    ahead: int = 0,
    share: Callable[[int], int] | None = None,
) -> Schedule:
    """The plan's schedule for `ratio` query heads per key/value head, tiles of `token_tile` tokens, and of one of
    `block_ms` (rising) rows of queries.

    `ahead`: the `own` lines will see up to so many tokens more, which their runs have blocks for: with their `high`
    raised by 1 a step, the schedule stays right for so many steps. `share`: programs that are to share what tiles of a
    `block_m` have to do, in equal parts, for each key/value head; None: chunks are where they are for any plan, and so
    are the bits of the results."""
    lines = _lines(plan, ahead)
    lines, blocks, bounds = _read_together(plan, lines, block_size)
    order = np.lexsort((lines[:, _ROW], lines[:, _SEEN], lines[:, _PREFILLS], lines[:, _BLOCK0]))
    lines = lines[order]
    line0, stop, which = _tiles(lines, ratio, block_ms)
    if share is None:
        tables, table = [_DECODE, _PREFILL], lines[line0, _PREFILLS] if len(lines) else which
    else:
        work = np.bincount(which, weights=_span(lines, line0), minlength=len(block_ms))
        sizes = [_equal(work[i], share(block_m), token_tile) for i, block_m in enumerate(block_ms)]
        tables, table = [_starts((MAX_TOKENS, size)) for size in sizes], which
    of_lines = np.repeat(table, stop - line0)
    first, last = _chunks(tables, of_lines, lines[:, _LOW]), _chunks(tables, of_lines, lines[:, _HIGH] - 1)
    slots = last - first + 1
    slot0, slot_start, slot_group = _slots(plan.num_rows, lines, slots)
    packed = np.stack(
        [lines[:, _ROW], lines[:, _LOW], lines[:, _SEEN], lines[:, _SHIFT], slot0, first, slots, lines[:, _OWN]], axis=1
    )
    inverse = np.array([1.0 / group.temperature for group in plan.groups], dtype=np.float32)
    return Schedule(
        tiles=_items(
            lines, line0, stop, which, tables, table, block_size, token_tile, block_ms, is_invariant=share is None
        ),
        lines=np.ascontiguousarray(packed, dtype=np.int32),
        inverse_temperature=inverse[lines[:, _GROUP]],
        blocks=blocks.astype(np.int32, copy=False),
        bounds=bounds.astype(np.int32, copy=False),
        slot_start=slot_start.astype(np.int32),
        slot_group=slot_group.astype(np.int32),
        is_shifted=bool(lines[:, _SHIFT].any()),
    )


def _equal(work: float, programs: int, token_tile: int) -> int:
    """Tokens of a chunk, so that `programs` have equal parts of `work` tokens; whole tiles, and not so few that what a
    program does before and after its loop counts."""
    tiles = -(-int(work) // (max(programs, 1) * token_tile))
    return min(max(tiles, _SMALLEST) * token_tile, MAX_TOKENS)


def _span(lines: Int64, line0: Int64) -> Int64:
    """Tokens from the first to the last that each tile sees."""
    span: Int64 = np.maximum.reduceat(lines[:, _HIGH], line0) - np.minimum.reduceat(lines[:, _LOW], line0)
    return span


def _chunks(tables: Sequence[Int64], table: Int64, token: Int64) -> Int64:
    """Number of the chunk of each `token`, by the table of each."""
    found = [np.searchsorted(starts, token, side="right") - 1 for starts in tables]
    chosen: Int64 = np.choose(table, found) if len(found) > 1 else found[0]
    return chosen


def _lines(plan: AttentionPlan, ahead: int) -> Int64:
    """Of all entries, in their order."""
    entries = plan.entries.astype(np.int64)
    rows, is_causal = entries[:, ROWS], entries[:, CAUSAL] != 0
    prefills = np.zeros(plan.num_rows, dtype=np.int64) if plan.is_prefill is None else plan.is_prefill.astype(np.int64)
    if plan.is_prefill is None:
        for row, count in entries[is_causal & (rows > 1)][:, [ENTRY_ROW, ROWS]].tolist():
            prefills[row : row + count] = 1
    each = np.repeat(entries, rows, axis=0) if (rows != 1).any() else entries
    index = np.arange(len(each)) - np.repeat(np.cumsum(rows) - rows, rows)
    causal = each[:, CAUSAL] != 0
    row, run, begin = each[:, 0] + index, each[:, 2], each[:, 3]
    end = each[:, END] - np.where(causal, each[:, ROWS] - 1 - index, 0)
    own = causal & (prefills[row] == 0)
    block0 = plan.run_start[run].astype(np.int64)
    nothing = np.zeros(len(each), dtype=np.int64)
    lines: Int64 = np.stack(
        [row, block0, begin, end, end + np.where(own, ahead, 0), each[:, 6], each[:, 7], prefills[row], own,
         np.arange(len(each)), nothing], axis=1,
    )  # fmt: skip
    return lines[begin < end] if (begin >= end).any() else lines


def _read_together(plan: AttentionPlan, lines: Int64, block_size: int) -> tuple[Int64, NDArray[np.integer], Int32]:
    """The lines, with those of one row that are short, and moved and weighted alike, made one line on blocks of its
    own; all blocks; and their bounds."""
    blocks = plan.run_blocks
    bounds = np.full(len(blocks), block_size << 16, dtype=np.int32)
    is_short = (lines[:, _SEEN] - lines[:, _LOW] <= SHORT) & (lines[:, _PREFILLS] == 0) & (lines[:, _OWN] == 0)
    if is_short.sum() < 2:
        return lines, blocks, bounds
    short = lines[is_short]
    order = np.lexsort((short[:, _ORDER], short[:, _SHIFT], short[:, _GROUP], short[:, _ROW]))
    short = short[order]
    keys = short[:, [_ROW, _GROUP, _SHIFT]]
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    counts = np.diff(np.r_[starts, len(short)])
    is_several = np.repeat(counts > 1, counts)
    if not is_several.any():
        return lines, blocks, bounds
    alone, short, counts = short[~is_several], short[is_several], counts[counts > 1]
    first = short[:, _LOW] // block_size
    num_blocks = -(-short[:, _SEEN] // block_size) - first
    # For each block of each short line: which one of the line's it is.
    nth = np.arange(num_blocks.sum()) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    begin = np.repeat(first, num_blocks) + nth
    low = np.maximum(np.repeat(short[:, _LOW], num_blocks) - begin * block_size, 0)
    high = np.minimum(np.repeat(short[:, _SEEN], num_blocks) - begin * block_size, block_size)
    found = blocks[np.repeat(short[:, _BLOCK0], num_blocks) + begin]
    heads = np.cumsum(counts) - counts
    together = short[heads].copy()
    per_line = np.add.reduceat(num_blocks, heads)
    together[:, _BLOCK0] = len(blocks) + np.cumsum(per_line) - per_line
    together[:, _LOW], together[:, _TOGETHER] = 0, 1
    together[:, _SEEN] = together[:, _HIGH] = per_line * block_size
    return (
        np.concatenate([lines[~is_short], alone, together]),
        np.concatenate([blocks, found]),
        np.concatenate([bounds, (low + (high << 16)).astype(np.int32)]),
    )


def _slots(num_rows: int, lines: Int64, slots: Int64) -> tuple[Int64, Int64, Int64]:
    """First slot of each line, of each row, and the group of each slot: row by row, group by group, in the order of the
    row's view."""
    order = np.lexsort((lines[:, _ORDER], lines[:, _GROUP], lines[:, _ROW]))
    ordered = slots[order]
    slot0 = np.empty(len(lines), dtype=np.int64)
    slot0[order] = np.cumsum(ordered) - ordered
    of_rows = np.bincount(lines[:, _ROW], weights=slots, minlength=num_rows).astype(np.int64)
    return slot0, np.concatenate([[0], np.cumsum(of_rows)]), np.repeat(lines[order, _GROUP], ordered)


def _tiles(lines: Int64, ratio: int, block_ms: Sequence[int]) -> tuple[Int64, Int64, Int64]:
    """Of lines sorted by run: first line of each tile, the one behind its last, and which of `block_ms` it takes."""
    if not len(lines):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    keys = lines[:, [_BLOCK0, _PREFILLS]]
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    counts = np.diff(np.r_[starts, len(lines)])
    sizes = np.array(block_ms)
    which = np.minimum(np.searchsorted(sizes, counts * ratio), len(sizes) - 1)
    per_run = -(-counts // (sizes // ratio)[which])
    size = -(-counts // per_run)  # equal shares, rather than full tiles and a rest
    per_run = -(-counts // size)
    nth = np.arange(per_run.sum()) - np.repeat(np.cumsum(per_run) - per_run, per_run)
    line0 = np.repeat(starts, per_run) + nth * np.repeat(size, per_run)
    stop = np.minimum(line0 + np.repeat(size, per_run), np.repeat(starts + counts, per_run))
    return line0, stop, np.repeat(which, per_run)


def _items(
    lines: Int64, line0: Int64, stop: Int64, which: Int64, tables: Sequence[Int64], table: Int64, block_size: int,
    token_tile: int, block_ms: Sequence[int], *, is_invariant: bool,
) -> tuple[Tiles, ...]:  # fmt: skip
    if not len(lines):
        return ()
    low, high = np.minimum.reduceat(lines[:, _LOW], line0), np.maximum.reduceat(lines[:, _HIGH], line0)
    all_low, all_high = np.maximum.reduceat(lines[:, _LOW], line0), np.minimum.reduceat(lines[:, _SEEN], line0)
    all_high = np.where(lines[line0, _TOGETHER] == 1, 0, all_high)
    first, last = _chunks(tables, table, low), _chunks(tables, table, high - 1)
    per_tile = last - first + 1
    of = np.repeat(np.arange(len(line0)), per_tile)
    chunk = np.arange(len(of)) - np.repeat(np.cumsum(per_tile) - per_tile, per_tile) + first[of]
    begin = np.empty(len(of), dtype=np.int64)
    end = np.empty(len(of), dtype=np.int64)
    for number, starts in enumerate(tables):
        chosen = table[of] == number
        begin[chosen], end[chosen] = starts[chunk[chosen]], starts[chunk[chosen] + 1]
    end = np.minimum(end, high[of])
    # Token tiles begin at multiples of their size, wherever a line begins.
    base = begin + np.maximum(low[of] - begin, 0) // token_tile * token_tile
    full0 = -(-np.maximum(all_low[of] - base, 0) // token_tile)
    full1 = np.maximum((np.minimum(all_high[of], end) - base) // token_tile, full0)
    if is_invariant:
        # Full tiles are added first, but which ones are full depends on who shares them: none may lie before them.
        full1 = np.where(full0 > 0, full0, full1)
    items: Int64 = np.stack(
        [line0[of], (stop - line0)[of], lines[line0[of], _BLOCK0] + base // block_size,
         -(-(end - base) // block_size), base, chunk, full0, full1], axis=1,
    )  # fmt: skip
    # The longest first: what is left for the end should be short.
    order = np.argsort(-items[:, BLOCKS], kind="stable")
    items, kind = items[order].astype(np.int32), which[of][order]
    return tuple(
        Tiles(block_ms[number], np.ascontiguousarray(items[kind == number]))
        for number in reversed(range(len(block_ms)))
        if (kind == number).any()
    )
