"""Schedules, worked out as the kernel works them out, against the plans they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.attention import AttentionPlan
from plait.attention.gpu.schedule import HIGH, LOW, OWN, ROW, SHIFT, SHORT, Schedule, make_schedule
from plait.attention.plan import CAUSAL, END
from plait.tests.attention.gpu.plans import Case, cases
from plait.tests.attention.scenes import alone

TILE = 64
KINDS = st.sampled_from([(16,), (64,), (16, 64)])
RATIOS = st.sampled_from([1, 3, 7])
SHARES: list[Callable[[int], int] | None] = [None, lambda block_m: 2, lambda block_m: 40]
checked = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Slot:
    """What one partial result is made of."""

    row: int = -1
    group: int = -1
    shift: int = 0
    tiles: list[list[int]] = field(default_factory=list)
    """Slots in the pool of the tokens seen, tile by tile in the order in which they are added."""


def work(schedule: Schedule, block_size: int, ratio: int, plan: AttentionPlan, row: int | None = None) -> list[Slot]:
    """What a launch computes, slot by slot; of one `row` alone, if given."""
    inverse = [1 / group.temperature for group in plan.groups]
    slots = [Slot() for _ in range(schedule.num_slots)]
    for tiles in schedule.tiles:
        for line0, count, block0, num_blocks, base, chunk, full0, full1 in tiles.items.tolist():
            assert 1 <= count and count * ratio <= tiles.block_m
            lines = schedule.lines[line0 : line0 + count].astype(np.int64)
            if row is not None and row not in lines[:, ROW]:
                continue
            low, high = lines[:, LOW] - base, lines[:, HIGH] - base
            num_tiles = -(-min(num_blocks * block_size, high.max()) // TILE)
            others = [i if i < full0 else i - full0 + full1 for i in range(num_tiles - (full1 - full0))]
            order = [*range(full0, full1), *others]
            assert len(set(order)) == len(order)
            added: list[list[list[int]]] = [[] for _ in lines]
            for tile in order:
                token = tile * TILE + np.arange(TILE)
                nth = token // block_size
                at = np.minimum(nth, num_blocks - 1) + block0
                bound = schedule.bounds[at].astype(np.int64)
                offset = token % block_size
                is_there = (nth < num_blocks) & (offset >= bound & 0xFFFF) & (offset < bound >> 16)
                seen = is_there & (token >= low[:, None]) & (token < high[:, None])
                assert tile >= full1 or tile < full0 or seen.all(), "a full tile is not visible to all"
                keys = schedule.blocks[at].astype(np.int64) * block_size + offset
                for of_line, mask in zip(added, seen, strict=True):
                    if mask.any():
                        of_line.append(keys[mask].tolist())
            for line, of_line, temperature in zip(
                lines.tolist(), added, schedule.inverse_temperature[line0 : line0 + count].tolist(), strict=True
            ):
                of, _, _, shift, slot0, chunk0, num_slots, _ = line
                if not 0 <= chunk - chunk0 < num_slots:
                    assert not of_line, "tokens without a slot"
                    continue
                slot = slots[slot0 + chunk - chunk0]
                assert slot.row == -1, "two results for one slot"
                slot.row, slot.shift, slot.tiles = of, shift, of_line
                slot.group = int(schedule.slot_group[slot0 + chunk - chunk0])
                assert temperature == np.float32(inverse[slot.group])
    start, stop = (0, len(slots)) if row is None else schedule.slot_start[row : row + 2]
    assert all(slot.row >= 0 for slot in slots[start:stop]), "a slot that nobody writes"
    return slots[start:stop]


def check_covers(case: Case, plan: AttentionPlan, schedule: Schedule, ratio: int) -> None:
    """Each row sees each of its tokens once, under the right shift and group; its slots lie together by groups."""
    slots = work(schedule, case.block_size, ratio, plan)
    found = [(s.row, s.group, s.shift, key) for s in slots for tile in s.tiles for key in tile]
    expected = []
    for row, run, begin, end, shift, group in plan.row_entries().tolist():
        token = np.arange(begin, end)
        blocks = plan.run_blocks[plan.run_start[run] + token // case.block_size].astype(np.int64)
        expected += [(row, group, shift, key) for key in (blocks * case.block_size + token % case.block_size).tolist()]
    assert sorted(found) == sorted(expected)
    start = schedule.slot_start.tolist()
    assert len(start) == plan.num_rows + 1 and start[0] == 0 and start[-1] == schedule.num_slots
    for row in range(plan.num_rows):
        of_row = slots[start[row] : start[row + 1]]
        assert all(slot.row == row for slot in of_row)
        groups = [slot.group for slot in of_row]
        assert groups == sorted(groups)
    assert schedule.is_shifted == any(slot.shift for slot in slots)
    for array in (schedule.lines, schedule.blocks, schedule.bounds, schedule.slot_start, schedule.slot_group):
        assert array.dtype == np.int32 and array.flags.c_contiguous
    assert all(tiles.items.dtype == np.int32 and tiles.items.flags.c_contiguous for tiles in schedule.tiles)


@pytest.mark.parametrize("share", SHARES)
@checked
@given(case=cases(), kinds=KINDS, ratio=RATIOS)
def test_covers_the_plan(share: Callable[[int], int] | None, case: Case, kinds: tuple[int, ...], ratio: int) -> None:
    schedule = make_schedule(case.plan, case.block_size, ratio, TILE, kinds, share=share)
    check_covers(case, case.plan, schedule, ratio)


@pytest.mark.parametrize("share", SHARES)
@checked
@given(case=cases(), window=st.sampled_from([1, 40, 64, 200]))
def test_covers_what_a_window_leaves(share: Callable[[int], int] | None, case: Case, window: int) -> None:
    plan = case.plan.within(case.positions, window)
    check_covers(case, plan, make_schedule(plan, case.block_size, 2, TILE, (16, 64), share=share), 2)


@pytest.mark.parametrize("share", SHARES)
@checked
@given(case=cases(is_decoding=True, ahead=70), ratio=RATIOS, ahead=st.sampled_from([1, 7, 70]))
def test_holds_for_the_steps_ahead(share: Callable[[int], int] | None, case: Case, ratio: int, ahead: int) -> None:
    """With a token more of each own run at each step, it is what the plan of that step asks for."""
    schedule = make_schedule(case.plan, case.block_size, ratio, TILE, (16, 64), ahead=ahead, share=share)
    for step in sorted({0, 1, ahead // 2, ahead}):
        entries, lines = case.plan.entries.copy(), schedule.lines.copy()
        entries[:, END] += step * entries[:, CAUSAL]
        lines[:, HIGH] += step * lines[:, OWN]
        check_covers(case, replace(case.plan, entries=entries), replace(schedule, lines=lines), ratio)


def signature(case: Case, plan: AttentionPlan, row: int, kinds: tuple[int, ...]) -> list[Slot]:
    """All that the bits of a row's result depend on, in the order in which it is added."""
    schedule = make_schedule(plan, case.block_size, 2, TILE, kinds)
    return [replace(slot, row=0) for slot in work(schedule, case.block_size, 2, plan, row)]


@checked
@given(case=cases(), kinds=KINDS, seed=st.integers(0, 99))
def test_a_row_alone_is_added_up_in_the_same_order(case: Case, kinds: tuple[int, ...], seed: int) -> None:
    plan = case.plan
    if plan.is_prefill is None:
        plan = replace(plan, is_prefill=np.zeros(plan.num_rows, dtype=np.bool_))
    for row in sorted({*np.random.default_rng(seed).integers(0, plan.num_rows, 5).tolist()} if plan.num_rows else ()):
        assert signature(case, alone(plan, row), 0, kinds) == signature(case, plan, row, kinds)


@settings(checked, max_examples=25)
@given(
    tokens=st.integers(1, 100),
    before=st.sampled_from([0, 1, 500, 4090]),
    step=st.integers(1, 100),
    begin=st.sampled_from([0, 0, 5]),
    other=st.sampled_from([(0, 0), (0, 130), (3, 4200), (70, 300)]),
)
def test_a_prefill_in_parts_is_added_up_in_the_same_order(
    tokens: int, before: int, step: int, begin: int, other: tuple[int, int]
) -> None:
    def part(first: int, count: int) -> AttentionPlan:
        end = before + first + count
        return AttentionPlan(
            num_rows=count,
            run_blocks=np.arange(300, dtype=np.int32),
            run_start=np.array([0, 200, 300], dtype=np.int32),
            entries=np.array([(0, count, 0, *other, 0, 0, 0), (0, count, 1, begin, end, 1, 0, 0)], dtype=np.int32),
            is_prefill=np.ones(count, dtype=np.bool_),
        )

    rows = sorted({0, tokens // 2, tokens - 1})
    case = Case(part(0, tokens), 64, np.arange(tokens))
    for row in rows:
        first = row // step * step
        inside = part(first, min(step, tokens - first))
        assert signature(case, inside, row - first, (16,)) == signature(case, case.plan, row, (16,))


def _always(programs: int, block_m: int) -> int:
    return programs


def _plan(
    entries: Sequence[tuple[int, ...]], *, rows: int, blocks: list[int], prefill: list[bool] | None
) -> AttentionPlan:
    return AttentionPlan(
        num_rows=rows,
        run_blocks=np.arange(sum(blocks), dtype=np.int32),
        run_start=np.cumsum([0, *blocks]).astype(np.int32),
        entries=np.array(entries, dtype=np.int32).reshape(-1, 8),
        is_prefill=None if prefill is None else np.array(prefill),
    )


@pytest.mark.parametrize("share", SHARES)
def test_nothing_to_do(share: Callable[[int], int] | None) -> None:
    for rows, entries in ((0, []), (3, []), (3, [(0, 3, 0, 5, 5, 0, 0, 0), (1, 0, 0, 0, 9, 0, 0, 0)])):
        schedule = make_schedule(
            _plan(entries, rows=rows, blocks=[2], prefill=None), 16, 4, TILE, (16, 64), share=share
        )
        assert schedule.tiles == () and schedule.num_slots == 0 and len(schedule.lines) == 0
        assert schedule.slot_start.tolist() == [0] * (rows + 1) and not schedule.is_shifted


def test_rows_of_one_run_share_tiles() -> None:
    """64 rows over one long run: as few tiles as hold them, and all of their whole tiles are full."""
    entries = [(row, 1, 0, 0, 1024, 0, 0, 0) for row in range(64)]
    plan = _plan(entries, rows=64, blocks=[16], prefill=[False] * 64)
    (tiles,) = make_schedule(plan, 64, 4, TILE, (64,)).tiles
    assert len(tiles.items) == 4 * 4  # 16 rows a tile, chunks of 256 tokens
    assert (tiles.items[:, 1] == 16).all() and (tiles.items[:, 6:] == [0, 4]).all()


def test_short_spans_of_a_row_become_one_line() -> None:
    """Those of one shift and group, of rows that decode; longer ones and the own run stay."""
    entries = [(0, 1, 0, 3, 40, 0, 0, 0), (0, 1, 1, 0, SHORT, 0, 0, 0), (0, 1, 2, 0, SHORT + 1, 0, 0, 0),
               (0, 1, 3, 0, 9, 0, 5, 0), (0, 1, 4, 0, 9, 1, 0, 0)]  # fmt: skip
    plan = _plan(entries, rows=1, blocks=[3, 8, 9, 1, 1], prefill=[False])
    lines = make_schedule(plan, 16, 4, TILE, (16,)).lines
    assert len(lines) == 4
    assert sorted(lines[:, SHIFT].tolist()) == [0, 0, 0, 5] and lines[:, OWN].tolist().count(1) == 1
    assert (3 + 8) * 16 in lines[:, HIGH].tolist()
    assert len(make_schedule(replace(plan, is_prefill=np.array([True])), 16, 4, TILE, (16,)).lines) == 5


def test_who_is_a_prefill() -> None:
    """By `is_prefill`; without it, rows of causal entries that have several. Their own runs do not grow."""
    entries = [(0, 3, 0, 0, 20, 1, 0, 0), (3, 1, 1, 0, 30, 1, 0, 0)]
    said = _plan(entries, rows=4, blocks=[4, 4], prefill=[False, False, False, True])
    guessed = _plan(entries, rows=4, blocks=[4, 4], prefill=None)
    own = {
        name: {int(line[ROW]): int(line[OWN]) for line in make_schedule(plan, 16, 1, TILE, (16,)).lines}
        for name, plan in (("said", said), ("guessed", guessed))
    }
    assert own == {"said": {0: 1, 1: 1, 2: 1, 3: 0}, "guessed": {0: 0, 1: 0, 2: 0, 3: 1}}


def test_equal_shares() -> None:
    """A long run that one row reads is cut in as many parts as there are programs."""
    plan = _plan([(0, 1, 0, 0, 8192, 0, 0, 0)], rows=1, blocks=[128], prefill=[False])
    for programs, parts in ((1, 1), (4, 4), (16, 16), (1000, 32)):
        (tiles,) = make_schedule(plan, 64, 4, TILE, (16,), share=partial(_always, programs)).tiles
        assert len(tiles.items) == parts
