"""Event queues: order and content survive any reader, and what waits is bounded by structure."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.event_queue import EventHub, EventQueue
from plait.runtime.events import BudgetUsed, Done, Stopped, Text

BRANCHES = ("0", "1.0.0", "1.1.0")
DONE = Done(job="j", time=9.0, answer="42", reason="eos", total_tokens=3, critical_tokens=2)


def text(branch, value):
    return Text(job="j", time=0.0, branch=branch, text=value, tokens=1)


def stopped(branch):
    return Stopped(job="j", time=0.0, branch=branch, reason="eos", tokens=1)


def used(total):
    return BudgetUsed(job="j", time=0.0, total_tokens=total, critical_tokens=total)


def drain(queue):
    events = []
    while (event := queue.get_nowait()) is not None:
        events.append(event)
    return events


puts = st.one_of(
    st.builds(text, st.sampled_from(BRANCHES), st.text(min_size=1, max_size=3)),
    st.builds(stopped, st.sampled_from(BRANCHES)),
    st.builds(used, st.integers(0, 100)),
)
steps = st.lists(st.one_of(puts, st.just(None)), max_size=60)
"""None: the reader takes one event."""


def by_branch(events, branch):
    """What one branch's reader sees: its text between structural events."""
    seen = [""]
    for event in events:
        if getattr(event, "branch", None) != branch:
            continue
        if isinstance(event, Text):
            seen[-1] += event.text
        else:
            seen += [event.type, ""]
    return seen


@given(steps)
def test_each_branch_reads_the_same_however_slow_the_reader(script):
    queue, read = EventQueue(), []
    for step in script:
        if step is not None:
            queue.put(step)
        elif (event := queue.get_nowait()) is not None:
            read.append(event)
    read += drain(queue)
    written = [step for step in script if step is not None]
    for branch in BRANCHES:
        assert by_branch(read, branch) == by_branch(written, branch)
    assert sum(e.tokens for e in read if isinstance(e, Text)) == sum(isinstance(e, Text) for e in written)
    structure = Counter(e.type for e in written if isinstance(e, Stopped))
    assert Counter(e.type for e in read if isinstance(e, Stopped)) == structure
    budgets = [e for e in written if isinstance(e, BudgetUsed)]
    assert [e for e in read if isinstance(e, BudgetUsed)][-1:] == budgets[-1:]


@given(st.lists(puts, max_size=200))
def test_unread_text_is_bounded_by_structure(events):
    queue = EventQueue()
    for event in events:
        queue.put(event)
    structure = sum(isinstance(event, Stopped) for event in events)
    assert len(queue) <= 2 * structure + len(BRANCHES) + 1


async def test_a_reader_waits_for_events_and_ends_with_the_job():
    hub = EventHub()
    queue = hub.subscribe()

    async def read():
        return [event async for event in queue]

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    hub.emit(text("0", "a"))
    await asyncio.sleep(0)
    hub.emit(text("0", "b"))
    hub.end(DONE)
    assert [event.type for event in await reader] == ["text", "text", "done"]


async def test_late_readers_get_the_last_event_only():
    hub = EventHub()
    hub.end(DONE)
    assert [event async for event in hub.subscribe()] == [DONE]


async def test_readers_do_not_share_events():
    hub = EventHub()
    fast, slow = hub.subscribe(), hub.subscribe()
    for letter in "abc":
        hub.emit(text("0", letter))
        assert fast.get_nowait() == text("0", letter)
    hub.unsubscribe(fast)
    hub.end(DONE)
    assert [getattr(event, "text", "") async for event in slow] == ["abc", ""]


@pytest.mark.parametrize("event", [text("0", "a"), stopped("0"), used(1)], ids=lambda event: event.type)
async def test_any_event_wakes_a_reader_that_waits(event):
    queue = EventQueue()
    reader = asyncio.create_task(anext(queue))
    await asyncio.sleep(0)
    queue.put(event)
    async with asyncio.timeout(5):
        assert await reader == event


def test_who_reads_no_more_gets_nothing_more():
    hub = EventHub()
    left, other = hub.subscribe(), hub.subscribe()
    hub.unsubscribe(left)
    hub.unsubscribe(left)
    hub.emit(text("0", "a"))
    assert (drain(left), drain(other), hub.has_readers) == ([], [text("0", "a")], True)
    hub.unsubscribe(other)
    assert not hub.has_readers
