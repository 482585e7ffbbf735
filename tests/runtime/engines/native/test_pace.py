"""What a step costs is learnt, and a large job gets no more rows than is fair to a small one beside it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plait import SamplingParams
from plait.runtime.engines.native.pace import Cost, Pace
from plait.runtime.engines.native.scheduler import Scheduler
from plait.runtime.engines.native.step import Step
from plait.tests.runtime.engines.native.stepped import Stepped


def line(base: float, per_row: float) -> Cost:
    return Cost([(rows, base + per_row * rows) for rows in (1, 33, 257)])


SLOW = line(4 / 128, 1 / 128)
"""Without rounding."""
ROOF = Cost([(1, 0.022), (5, 0.022), (64, 0.2816)])
"""About a language model on a CPU: five rows take as long as one, the time of more is arithmetic."""


def test_costs_are_learnt_from_steps_of_several_sizes():
    pace = Pace()
    assert pace.cost is None
    for rows in [1, 1, 5, 64, 64, 1, 64]:
        pace.note(rows, SLOW.seconds(rows))
    for _ in range(3):
        pace.note(64, 20.0)  # something was compiled, the machine was busy
    pace.note(64, 1e-3)  # one that was faster than all others tells nothing either
    cost = pace.cost
    assert cost is not None and [cost.seconds(n) for n in (1, 3, 200)] == pytest.approx([5 / 128, 7 / 128, 204 / 128])
    assert [cost.rows(n / 128) for n in (5, 7, 204)] == pytest.approx([1, 3, 200])
    faster = {10: 10 / 128, 20: 15 / 128, 40: 20 / 128}  # each size tells for itself
    for rows, seconds in faster.items():
        for _ in range(17):
            pace.note(rows, seconds)
    cost = pace.cost
    assert cost is not None and {rows: cost.seconds(rows) for rows in faster} == pytest.approx(faster)


def test_steps_that_do_not_grow_with_their_rows_tell_nothing():
    pace = Pace()
    pace.note(1, 0.03)
    assert pace.cost is None
    pace.note(64, 0.03)
    assert pace.cost is None
    pace.note(128, 0.05)
    assert pace.cost is not None


def test_what_other_work_made_longer_is_told_by_the_others():
    cost = Cost([(1, 0.9), (8, 0.02), (20, 0.5), (64, 0.1), (128, 0.4)])
    assert [cost.seconds(n) for n in (1, 8, 20, 64, 128)] == pytest.approx([0.02, 0.02, 0.05, 0.1, 0.2])


def test_a_small_job_takes_twice_as_long_beside_a_large_one_and_equals_are_left_alone():
    assert SLOW.fair_rows([1, 512], 1) == 5  # 4 + 6 is twice 4 + 1
    assert SLOW.fair_rows([64, 64], 64) == 64
    assert SLOW.fair_rows([8] * 16, 8) == 8
    assert line(1 / 8192, 1 / 8192).fair_rows([1, 512], 1) == 38  # 5 ms, of which 40 rows take less
    assert SLOW.fair_rows([1, 512], 512) == 512  # the large one comes first
    assert ROOF.fair_rows([1, 512], 1) == 9  # the large one keeps 9 rows of 44 ms, nine tenths of what it had


@given(
    wanted=st.lists(st.integers(1, 2000), min_size=2, max_size=20),
    base=st.floats(0, 0.1),
    per_row=st.floats(1e-6, 0.01),
    knee=st.integers(1, 100),
)
def test_no_step_is_longer_than_what_is_fair(wanted, base, per_row, knee):
    cost = Cost([(1, base + per_row * knee), (knee + 1, base + per_row * (knee + 1)), (500, base + per_row * 500)])
    rows = cost.fair_rows(wanted, min(wanted))
    assert 1 <= rows <= max(wanted)

    def seconds(share: int) -> float:
        return cost.seconds(sum(min(share, of_job) for of_job in wanted))

    fair = max(len(wanted) * cost.seconds(min(wanted)), 0.005)
    assert rows == 1 or seconds(rows) <= fair * 1.0001
    if rows < max(wanted):
        assert seconds(rows + 1) >= fair * 0.9999 or seconds(rows + 1) == seconds(rows)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(1e-3, 1)), min_size=2, max_size=9, unique_by=lambda one: one[0]),
    st.floats(1e-3, 9),
)
def test_rows_and_seconds_are_each_others_inverse(points, seconds):
    cost = Cost(sorted(points))
    assume(cost.seconds(9) > cost.seconds(1))
    rows = cost.rows(seconds)
    assert rows < 0 or cost.seconds(rows) == pytest.approx(seconds)


def know(at: Stepped, *costs: tuple[int, float]) -> None:
    """Let the engine have seen steps of so many rows and seconds."""
    for pace in (at.scheduler.pace, at.scheduler.model_pace):
        for rows, seconds in costs:
            pace.note(rows, seconds)


async def test_prompts_and_branches_of_a_large_job_are_dealt_out_by_what_steps_cost():
    at = Stepped()
    know(at, *((rows, SLOW.seconds(rows)) for rows in (1, 100)))
    at.generate(list(range(9)), job="small")
    assert at.step(2) == [{"small": 9}, {"small": 1}]
    at.generate(list(range(100)), job="large")
    assert at.step(2) == [{"small": 1, "large": 5}] * 2
    await at.close()


def test_alone_a_job_has_rows_enough_to_lose_a_tenth_at_most():
    assert line(1e-4, 1e-3).ample_rows == ROOF.ample_rows == 8
    assert SLOW.ample_rows == 64 and line(12 / 128, 1 / 128).ample_rows == 128
    assert Cost([(1, 0.01), (64, 0.08), (512, 9.0)]).ample_rows == 64  # more is slower


async def test_a_lone_job_is_dealt_out_when_it_is_known_what_that_costs():
    at = Stepped(kv_tokens=1 << 14)
    root = at.native.open([1, 2, 3], job="a")
    for branch in root.fork(200):
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    assert at.step(3)[-1] == {"a": 200}
    know(at, *((rows, SLOW.seconds(rows)) for rows in (1, 100)))
    at.scheduler.repeatable = None
    assert at.step(3) == [{"a": 64}] * 3  # not 200
    await at.close()


@pytest.mark.parametrize("number", [8, 9])
async def test_few_branches_of_a_lone_job_have_room_for_their_drafts(number):
    at = Stepped(kv_tokens=1 << 12)
    know(at, *((rows, rows / 128) for rows in (1, 8, 100)))
    root = at.native.open([1, 2, 3], job="a")
    for branch in root.fork(number):
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    assert at.step(3)[-1] == {"a": 8}
    assert at.scheduler._share() == (None if number == 8 else 8)
    await at.close()


async def test_what_is_around_a_burst_counts_whole_for_a_step_that_is_planned_anew():
    at = Stepped()
    step = Step(num_rows=3)
    for rows in (1, 3):
        step.num_rows = rows
        Scheduler.note(at.scheduler, step, count=4, model_seconds=0.4 * rows, seconds=0.4 * rows + 0.05)
    alone, beside = at.scheduler.model_pace.cost, at.scheduler.pace.cost
    assert [alone.seconds(n) for n in (1, 3)] == pytest.approx([0.1, 0.3])
    assert [beside.seconds(n) for n in (1, 3)] == pytest.approx([0.15, 0.35])
    await at.close()


async def test_alone_the_model_counts_and_beside_others_what_is_around_it_too():
    """In bursts Python is nearly nothing; where steps are planned anew it makes large ones seem cheap."""
    at = Stepped(kv_tokens=1 << 14)
    for rows in (1, 100, 600):
        at.scheduler.model_pace.note(rows, rows / 128)
        at.scheduler.pace.note(rows, 1.0 + rows / 128)
    root = at.native.open([1, 2, 3], job="a")
    for branch in root.fork(100):
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    at.step(2)
    assert at.scheduler._share() == 8  # by the other cost a step of 1,024 would be the first that is worth its time
    at.generate([5], job="b")
    assert at.scheduler._share() == at.scheduler.pace.cost.fair_rows([100, 1], 1) > 60
    await at.close()


async def test_what_is_fair_is_measured_by_the_smallest_of_the_most_urgent():
    at = Stepped(kv_tokens=1 << 14)
    know(at, *((rows, SLOW.seconds(rows)) for rows in (1, 100)))
    root = at.native.open([1, 2, 3], job="large", priority=1)
    for branch in root.fork(20):
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    at.step(2)
    at.generate([5], job="small")
    cost = at.scheduler.pace.cost
    assert at.scheduler._share() == cost.fair_rows([20, 1], 20) > cost.fair_rows([20, 1], 1)
    await at.close()


async def test_a_prompt_of_a_lone_job_does_not_lift_the_limit_of_those_that_decode():
    at = Stepped(kv_tokens=1 << 14)
    know(at, *((rows, rows / 128) for rows in (1, 8, 100)))
    root = at.native.open([1, 2, 3], job="a")
    for branch in root.fork(100):
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    at.step(2)
    at.generate(list(range(20)), job="a")
    assert at.step(2) == [{"a": 8 + 20}, {"a": 8}]
    await at.close()


async def test_prompts_of_a_lone_job_come_whole():
    at = Stepped(kv_tokens=1 << 12)
    know(at, *((rows, rows / 128) for rows in (1, 8, 100)))
    for number in range(12):
        branch = at.native.open([number] * 20, job="a")
        branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
    assert at.step(2) == [{"a": 12 * 20}, {"a": 8}]
    await at.close()
