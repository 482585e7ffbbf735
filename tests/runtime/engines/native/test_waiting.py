"""Who waits for KV blocks, decision by decision; what comes of it altogether is in test_pressure.py."""

from __future__ import annotations

from typing import Any

import pytest

from plait import SamplingParams
from plait.runtime.engines.native import pressure
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_pressure import prompt


def three(stepped, **options):
    """Generations of three jobs that have begun, of 3 blocks each."""
    found = [stepped.generate(prompt(40, i), job=job, **options) for i, job in enumerate("abc")]
    stepped.until(lambda: all(g.sampled for g in found))
    return found


async def test_only_who_is_younger_gives_way_to_those_that_are_short_and_the_youngest_first():
    stepped = Stepped(kv_tokens=320)
    a, b, c = three(stepped)
    assert stepped.pressure.relieve([b], is_stuck=False)
    assert list(stepped.pressure.suspended) == [c] and list(stepped.scheduler.running) == [a, b]
    assert [g.num_preemptions for g in (a, b, c)] == [0, 0, 1] and stepped.pressure.num_preemptions == 1
    # What `c` had is out; of those that still run, only `a` could give, which is older than `b`.
    assert not stepped.pressure.relieve([b], is_stuck=False)
    assert list(stepped.scheduler.running) == [a, b]
    assert stepped.pressure.relieve([b, a], is_stuck=False) and list(stepped.scheduler.running) == [a]
    await stepped.close()


async def test_where_nobody_can_go_on_an_older_one_gives_way_too_but_never_itself():
    stepped = Stepped(kv_tokens=320)
    a, b, c = three(stepped)
    assert stepped.pressure.relieve([c], is_stuck=True)
    assert list(stepped.pressure.suspended) == [b] and c in stepped.scheduler.running
    assert stepped.pressure.relieve([c], is_stuck=True) and list(stepped.scheduler.running) == [c]
    assert not stepped.pressure.relieve([c], is_stuck=True)
    await stepped.close()


async def test_what_nobody_waits_for_goes_first_then_what_was_left_of_those_who_wait():
    stepped = Stepped(kv_tokens=640)
    idle = stepped.generate(prompt(40, 7), max_tokens=0)
    stepped.until(lambda: idle.is_done)
    a, b, c = three(stepped)
    store = stepped.native.store
    assert stepped.pressure.relieve([a], is_stuck=False) and not stepped.pressure.suspended
    assert idle.branch.view.segments[-1].num_swapped == 3 and store.num_swapped == 1
    later = stepped.generate(prompt(40, 8), max_tokens=0)
    stepped.until(lambda: later.is_done)
    stepped.pressure._suspend(b)
    assert stepped.pressure.relieve([a], is_stuck=False)
    assert later.branch.view.segments[-1].num_swapped == 3 and not any(s.num_swapped for s in b.branch.view.segments)
    assert stepped.pressure.relieve([a], is_stuck=False) and any(s.num_swapped for s in b.branch.view.segments)
    assert c in stepped.scheduler.running
    await stepped.close()


async def test_of_what_nobody_waits_for_some_more_is_moved_than_is_asked_for():
    stepped = Stepped(kv_tokens=1024)  # 64 blocks
    idle = [stepped.generate(prompt(16, 10 + i), max_tokens=0) for i in range(4)]
    stepped.until(lambda: all(g.is_done for g in idle))
    a, b, c = three(stepped)
    store = stepped.native.store
    assert stepped.pressure.relieve([a], is_stuck=False) and store.num_swapped == 1 + 64 // 32
    for g in idle:
        g.branch.close()
    for g in (b, c):
        stepped.pressure._suspend(g)
    assert store.num_swapped == 0 and stepped.pressure.relieve([a], is_stuck=False) and store.num_swapped == 1
    await stepped.close()


async def test_without_room_in_the_swap_space_the_youngest_lets_go_of_what_it_wrote():
    stepped = Stepped(kv_tokens=320, swap_tokens=0)
    a, b, c = three(stepped)
    store, tokens = stepped.native.store, c.branch.tokens
    assert store.available == 20 - 3 * 3 and stepped.pressure.relieve([a], is_stuck=False)
    assert list(stepped.scheduler.running) == [a, b] and c.branch.tokens == tokens
    assert store.available == 20 - 2 * 3 and store.usage().cached == 2 and store.num_swapped == 0
    assert stepped.pressure.resume() and c in stepped.scheduler.running
    assert c.branch.tokens == tokens and c.branch.view.own.pending == len(tokens) - 32  # the rest was there still
    for g in (a, b):
        g.branch.close()
    stepped.until(lambda: c.is_done)
    assert len(c.sampled) == 100 and c.num_prefilled == 40
    alone = stepped.generate(prompt(40, 2), job="d")
    stepped.until(lambda: alone.is_done)
    assert alone.sampled == c.sampled
    await stepped.close()


@pytest.mark.parametrize("why", ["gang", "watched", "inexact"])
async def test_what_would_not_be_the_same_again_is_not_let_go_of(why):
    stepped = Stepped(kv_tokens=320, swap_tokens=0)
    a, b, c = three(stepped)
    if why == "inexact":
        stepped.pressure.recomputes = False
    for g in (b, c) if why != "inexact" else ():
        if why == "gang":
            stepped.scheduler.gangs.put(g.branch, ("x", g.branch.job))
        else:
            stepped.native.store.acquire(g.branch.view.own)
    assert not stepped.pressure.relieve([a], is_stuck=True)
    assert list(stepped.scheduler.running) == [a, b, c]
    if why == "watched":
        for g in (b, c):
            stepped.native.store.release(g.branch.view.own)
    await stepped.close()


async def test_the_rest_of_a_segment_is_moved_whose_beginning_somebody_has_found():
    stepped = Stepped(kv_tokens=320)
    writer = stepped.generate(prompt(64), job="a")
    stepped.until(lambda: bool(writer.sampled))
    reader = stepped.generate([*prompt(64), 5], max_tokens=200, job="b")
    stepped.until(lambda: reader.is_done)
    assert (writer.is_done, len(writer.sampled), len(reader.sampled)) == (True, 100, 200)
    [segment] = [s for s in writer.branch.view.segments if s.num_swapped]
    assert segment in reader.branch.view.segments and len(segment.blocks) >= 4
    reader.branch.close()
    again = writer.branch.generate(SamplingParams(max_tokens=50, ignore_eos=True))
    stepped.until(lambda: again.is_done)
    whole, text = stepped.generate(prompt(64), max_tokens=150, job="c"), writer.branch.tokens
    stepped.until(lambda: whole.is_done)
    assert whole.branch.tokens == text
    await stepped.close()


async def test_nobody_ends_at_once_for_the_rest_of_a_segment_whose_beginning_it_has_found():
    stepped = Stepped(kv_tokens=320, swap_tokens=0)
    writer = stepped.generate(prompt(64), job="a")
    stepped.until(lambda: bool(writer.sampled))
    reader = stepped.generate([*prompt(64), 5], max_tokens=200, job="b")
    assert reader.num_reused == 64
    stepped.until(lambda: writer.is_done and stepped.pressure.is_stuck)
    assert not reader.is_done and stepped.native.store.available == 0
    writer.branch.close()
    stepped.until(lambda: reader.is_done)
    assert len(reader.sampled) == 200
    await stepped.close()


async def test_nobody_ends_at_once_for_the_blocks_of_those_that_may_be_about_to_be_closed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(pressure.time, "monotonic", lambda: now)
    stepped = Stepped(kv_tokens=160, swap_tokens=0)
    idle = stepped.generate(prompt(70, 1), max_tokens=0, job="a")
    stepped.until(lambda: idle.is_done)
    grows, waits = stepped.generate(prompt(40, 2), job="b"), stepped.generate(prompt(40, 3), job="c")
    stepped.until(lambda: stepped.pressure.is_stuck)
    stepped.step(5)
    now = pressure.PATIENCE / 2
    stepped.step(5)
    assert not grows.is_done and not waits.is_done
    idle.branch.close()
    stepped.until(lambda: grows.is_done)
    assert len(grows.sampled) == 100 and not stepped.pressure.is_stuck
    again = stepped.generate(prompt(70, 1), max_tokens=0, job="d")
    grows.branch.close()
    stepped.until(lambda: again.is_done and stepped.pressure.is_stuck)
    now += pressure.PATIENCE
    stepped.until(lambda: waits.is_done)  # nothing has come of it
    assert 0 < len(waits.sampled) < 100
    await stepped.close()


async def test_only_who_holds_blocks_that_the_oldest_lacks_ends_for_lack_of_memory(monkeypatch):
    """The youngest has none: to end it would free nothing."""
    monkeypatch.setattr(pressure.time, "monotonic", lambda: 0.0)
    stepped = Stepped(kv_tokens=160, swap_tokens=0)
    stepped.pressure.recomputes = False
    old, young = (stepped.generate(prompt(40, i), job=job) for i, job in enumerate("ab"))
    stepped.until(lambda: old.sampled and young.sampled)
    last = stepped.generate(prompt(100, 2), max_tokens=5, job="c")
    stepped.until(lambda: young.is_done)
    stepped.until(lambda: stepped.pressure.is_stuck)
    assert not old.is_done and not last.is_done
    young.branch.close()
    stepped.until(lambda: old.is_done)
    assert len(old.sampled) == 100 and not last.is_done and not stepped.pressure.is_stuck
    old.branch.close()
    stepped.until(lambda: last.is_done)
    assert len(last.sampled) == 5
    await stepped.close()


@pytest.mark.parametrize("swap_tokens", [8192, 0])
@pytest.mark.parametrize("every", [1, 2])
async def test_who_waits_is_not_overtaken_for_ever(every, swap_tokens):
    """Small jobs come all the time, each of which fits into the room that is left."""
    stepped = Stepped(kv_tokens=1280, swap_tokens=swap_tokens)  # 80 blocks
    first = stepped.generate(prompt(700, 1), max_tokens=150, job="first")
    big = stepped.generate(prompt(850, 2), max_tokens=100, job="big")
    stepped.until(lambda: big in stepped.pressure.suspended)
    small: list[Any] = []

    def step() -> None:
        stepped.step()
        for g in (first, big, *small):
            if g.is_done:
                g.branch.close()

    for number in range(2 * pressure.OVERTAKEN + 400):
        if number % every == 0:
            small.append(stepped.generate(prompt(50, 100 + number), max_tokens=13, job=f"s{number}"))
        step()
        if big.is_done:
            break
    assert len(first.sampled) == 150 and len(big.sampled) == 100 and sum(g.is_done for g in small) > 100
    while not all(g.is_done for g in small):
        step()
    assert all(len(g.sampled) == 13 for g in small)
    await stepped.close()


async def test_nobody_makes_way_for_one_that_would_not_fit_then(monkeypatch):
    monkeypatch.setattr(pressure, "OVERTAKEN", 20)
    stepped = Stepped(kv_tokens=1280, draft_rows=0)
    first = stepped.generate(prompt(600, 1), max_tokens=400, job="first")
    big = stepped.generate(prompt(850, 2), max_tokens=100, job="big")
    stepped.until(lambda: big in stepped.pressure.suspended)
    small = stepped.generate(prompt(50, 3), max_tokens=400, job="small")
    stepped.step(100)
    assert not first.is_done and not small.is_done and (small.num_preemptions, first.num_preemptions) == (0, 0)
    await stepped.close()


async def test_age_is_priority_then_the_jobs_arrival_then_ones_own():
    stepped = Stepped(kv_tokens=640)
    first = stepped.generate(prompt(9, 0), job="one")
    other = stepped.generate(prompt(9, 1), job="two")
    second = stepped.generate(prompt(9, 2), job="one")
    urgent = stepped.generate(prompt(9, 3), job="three", priority=1)
    everybody = [other, second, urgent, first]
    assert sorted(everybody, key=stepped.pressure.age) == [urgent, first, second, other]
    for g in (first, second):
        g.branch.close()
    again = stepped.generate(prompt(9, 4), job="one")  # the name alone is no claim: the job had ended
    assert sorted([again, other], key=stepped.pressure.age) == [other, again]
    await stepped.close()


async def test_a_gang_is_as_old_as_its_oldest_and_waits_as_one():
    stepped = Stepped(kv_tokens=640)
    left, right = (stepped.native.open(prompt(9, i), job="a", path=(i,)) for i in range(2))
    for branch in (left, right):
        branch.lockstep("g")
    one = left.generate(SamplingParams(max_tokens=50, ignore_eos=True))
    between = stepped.generate(prompt(9, 5), job="a")
    stepped.pressure._suspend(one)
    assert list(stepped.pressure.suspended) == [one]
    two = right.generate(SamplingParams(max_tokens=50, ignore_eos=True))  # one who comes later does not run ahead
    assert set(stepped.pressure.suspended) == {one, two} and two not in stepped.scheduler.running
    assert between in stepped.scheduler.running
    assert stepped.pressure.age(two) == stepped.pressure.age(one) < stepped.pressure.age(between)
    assert stepped.pressure.resume() and set(stepped.scheduler.running) == {one, two, between}
    stepped.until(lambda: bool(one.sampled and two.sampled and between.sampled))
    assert stepped.pressure.relieve([between], is_stuck=True)
    assert set(stepped.pressure.suspended) == {one, two}
    assert (one.num_preemptions, two.num_preemptions) == (2, 1) and stepped.pressure.num_preemptions == 3
    await stepped.close()


async def test_who_has_waited_longest_takes_the_place_of_those_that_cannot_go_on():
    stepped = Stepped(kv_tokens=640)
    a, b, c = three(stepped)
    for g in (b, c):
        stepped.pressure._suspend(g)
    assert stepped.pressure.force([]) == [b]
    assert list(stepped.scheduler.running) == [b] and set(stepped.pressure.suspended) == {a, c}
    assert stepped.pressure.force([b, a]) == [c]
    assert list(stepped.scheduler.running) == [c] and set(stepped.pressure.suspended) == {a, b}
    assert stepped.pressure.force([a, b]) == [] and list(stepped.scheduler.running) == [c]
    await stepped.close()


async def test_the_youngest_gives_up_unless_one_alone_has_grown_past_the_pool():
    stepped = Stepped(kv_tokens=640)
    a, b, c = three(stepped)
    assert stepped.pressure.loser([b, a]) is c
    stepped.pressure._suspend(c)
    assert stepped.pressure.loser([a]) is c
    for g in (b, c):
        g.branch.close()
    assert stepped.pressure.loser([a]) is a
    await stepped.close()


@pytest.mark.parametrize("short", [0, 1])
async def test_going_on_takes_what_is_missing_and_two_blocks_for_each_to_grow_into(short):
    stepped = Stepped(kv_tokens=320)
    runs, waits = stepped.generate(prompt(40, 0), job="a"), stepped.generate(prompt(40, 1), job="b")
    stepped.until(lambda: bool(runs.sampled and waits.sampled))
    stepped.pressure._suspend(waits)
    assert stepped.pressure._swap(1)
    store = stepped.native.store
    taken = [store._free.pop() for _ in range(store.available - (3 + 2 * 2) + short)]
    stepped.pressure.note_change()
    assert stepped.pressure.resume() is (not short) and (waits in stepped.scheduler.running) is (not short)
    store._free += taken
    if short:  # blocks that come back are noticed without being told of
        assert stepped.pressure.resume() and waits in stepped.scheduler.running
    assert not stepped.pressure.resume()
    await stepped.close()


async def test_a_gang_that_is_short_of_blocks_gets_them_from_what_nobody_waits_for():
    stepped = Stepped(kv_tokens=160)
    idle = stepped.generate(prompt(100, 0), max_tokens=0)
    stepped.until(lambda: idle.is_done)
    members = [stepped.native.open(prompt(30, i), job="a", path=(i,)) for i in (1, 2)]
    for branch in members:
        branch.lockstep("g")
    found = [b.generate(SamplingParams(max_tokens=5, ignore_eos=True)) for b in members]
    stepped.until(lambda: all(g.is_done for g in found))
    assert stepped.native.store.num_swapped == 1 and [g.num_preemptions for g in found] == [0, 0]
    assert all(len(g.sampled) == 5 for g in found)
    await stepped.close()
