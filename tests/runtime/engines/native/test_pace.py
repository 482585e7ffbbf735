"""What a step costs is learnt, and a large job gets no more rows than is fair to a small one beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.engines.native.pace import Cost, Pace
from plait.tests.runtime.engines.native.stepped import Stepped

SLOW = Cost(4 / 128, 1 / 128)
"""About a language model on a CPU, without rounding."""


def test_costs_are_learnt_from_steps_of_two_sizes():
    pace = Pace()
    assert pace.cost() is None
    for rows in [1, 1, 5, 64, 64, 1, 64]:
        pace.note(rows, SLOW.base + SLOW.per_row * rows)
    assert pace.cost() == pytest.approx(SLOW)
    pace.note(64, 20.0)  # something was compiled
    assert pace.cost() == pytest.approx(SLOW)


def test_steps_that_do_not_grow_with_their_rows_tell_nothing():
    pace = Pace()
    pace.note(1, 0.03)
    assert pace.cost() is None
    pace.note(64, 0.03)
    assert pace.cost() is None


def test_a_small_job_takes_twice_as_long_beside_a_large_one_and_equals_are_left_alone():
    assert SLOW.fair_rows([1, 512], 1) == 5  # 4 + 6 is twice 4 + 1
    assert SLOW.fair_rows([64, 64], 64) == 64
    assert SLOW.fair_rows([8] * 16, 8) == 8
    assert Cost(1 / 8192, 1 / 8192).fair_rows([1, 512], 1) == 38  # 5 ms, of which 40 rows take less
    assert SLOW.fair_rows([1, 512], 512) == 512  # the large one comes first


@given(
    wanted=st.lists(st.integers(1, 2000), min_size=2, max_size=20),
    base=st.floats(0, 0.1),
    per_row=st.floats(1e-6, 0.01),
)
def test_no_step_is_longer_than_what_is_fair(wanted, base, per_row):
    cost = Cost(base, per_row)
    rows = cost.fair_rows(wanted, min(wanted))
    assert 1 <= rows <= max(wanted)

    def seconds(share: int) -> float:
        return base + per_row * sum(min(share, of_job) for of_job in wanted)

    fair = max(len(wanted) * (base + per_row * min(wanted)), 0.005)
    assert rows == 1 or seconds(rows) <= fair * 1.0001
    if rows < max(wanted):
        assert seconds(rows + 1) >= fair * 0.9999 or seconds(rows + 1) == seconds(rows)


async def test_prompts_and_branches_of_a_large_job_are_dealt_out_by_what_steps_cost():
    at = Stepped()
    for rows in (1, 100):
        at.scheduler.pace.note(rows, SLOW.base + SLOW.per_row * rows)
    at.scheduler.pace.note = lambda rows, seconds: None
    at.generate(list(range(9)), job="small")
    assert at.step(2) == [{"small": 9}, {"small": 1}]
    at.generate(list(range(100)), job="large")
    assert at.step(2) == [{"small": 1, "large": 5}] * 2
    await at.close()


def test_alone_a_job_has_rows_enough_to_lose_a_tenth_at_most():
    pace = Pace()
    assert pace.ample_rows() is None
    for rows in [1, 512] * 5:
        pace.note(rows, 3 * SLOW.base + SLOW.per_row * rows)
    assert pace.ample_rows() == 108  # of 120 parts
    for rows in [1, 512] * 9:
        pace.note(rows, 1e-4 + 1e-3 * rows)
    assert pace.ample_rows() == 64
    for _ in range(9):
        pace.note(70, 70 * 1.3e-3)  # of this size it is slower than it should be
    assert pace.ample_rows() == 128
