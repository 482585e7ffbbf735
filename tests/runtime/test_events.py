"""Event queues: order and content survive any reader, and what waits is bounded by structure."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.runtime.events import (
    EVENT_TYPES,
    BranchEvent,
    BranchStarted,
    BudgetUsed,
    Done,
    Event,
    EventHub,
    EventQueue,
    Joined,
    Stopped,
    Text,
    parse_event,
)

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


def test_events_are_json_and_back():
    events = [
        text("0", "a"),
        stopped("0"),
        used(3),
        DONE,
        BranchStarted(job="j", time=1.0, branch="1.0.0", parent="0", label="x", prompt_tokens=4),
        Joined(job="j", time=1.0, branch="0", children=("1.0.0",), found=(), text="t"),
    ]
    assert [parse_event(event.to_json()) for event in events] == events


@pytest.mark.parametrize("data", [{}, {"type": "nonsense"}, {"type": "text", "job": "j"}, {"type": "done", "x": 1}])
def test_unknown_events_are_refused(data):
    with pytest.raises(InvalidInput):
        parse_event(data)


def test_every_event_type_has_its_own_name():
    # By name: a dataclass with slots leaves the class it was made of behind, as a second subclass.
    names = {cls.__name__ for base in (Event, BranchEvent) for cls in base.__subclasses__()} - {"BranchEvent"}
    assert {cls.__name__ for cls in EVENT_TYPES.values()} == names
