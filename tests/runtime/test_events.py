"""Events: names that tell them apart, and their way to JSON and back."""

from __future__ import annotations

import pytest

from plait import InvalidInput
from plait.runtime.events import (
    EVENT_TYPES,
    AnyEvent,
    BranchEvent,
    BranchStarted,
    BudgetUsed,
    Done,
    Event,
    Joined,
    Stopped,
    Text,
    parse_event,
)


def test_events_are_json_and_back():
    events = [
        Text(job="j", time=0.0, branch="0", text="a", tokens=1),
        Stopped(job="j", time=0.0, branch="0", reason="eos", tokens=1),
        BudgetUsed(job="j", time=0.0, total_tokens=3, critical_tokens=3),
        Done(job="j", time=9.0, answer="42", reason="eos", total_tokens=3, critical_tokens=2),
        BranchStarted(job="j", time=1.0, branch="1.0.0", parent="0", label="x", prompt_tokens=4),
        Joined(job="j", time=1.0, branch="0", children=("1.0.0",), found=(), text="t"),
    ]
    assert [parse_event(event.to_json()) for event in events] == events


TEXT = {"type": "text", "job": "j", "time": 1.0, "branch": "0", "text": "a", "tokens": 1}


@pytest.mark.parametrize(
    "data",
    [None, "text", [], {}, {"type": "nonsense"}, {"type": "text", "job": "j"}, {"type": "done", "x": 1},
     {**TEXT, "text": 3},
     {**TEXT, "tokens": "1"}, {**TEXT, "branch": []}, {**TEXT, "time": None}, {**TEXT, "children": 3},
     {"type": "forked", "job": "j", "time": 1.0, "branch": "0", "children": 3},
     {"type": "forked", "job": "j", "time": 1.0, "branch": "0", "children": [3]}, {"type": [], "job": "j"}],
)  # fmt: skip
def test_unknown_events_are_refused(data):
    with pytest.raises(InvalidInput):
        parse_event(data)


def test_the_type_says_to_a_type_checker_which_event_it_is() -> None:
    events: list[AnyEvent] = [parse_event(TEXT), BudgetUsed(job="j", time=0.0, total_tokens=3, critical_tokens=2)]
    assert [event.text for event in events if event.type == "text"] == ["a"]
    assert [event.total_tokens for event in events if event.type in ("budget", "done")] == [3]


def test_every_event_type_has_its_own_name():
    # By name: a dataclass with slots leaves the class it was made of behind, as a second subclass.
    names = {cls.__name__ for base in (Event, BranchEvent) for cls in base.__subclasses__()} - {"BranchEvent"}
    assert {cls.__name__ for cls in EVENT_TYPES.values()} == names
