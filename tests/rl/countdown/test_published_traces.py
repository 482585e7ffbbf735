"""Given the choices that the published solvers made in real traces, ours write the same bytes."""

from __future__ import annotations

import json
import random
from collections import deque

import pytest

from plait.rl.countdown.paper import PaperSearch
from plait.rl.countdown.serial import SerialSearch
from plait.tests.data import SHARED

TRACES = SHARED / "countdown_traces.jsonl"
LINE = "Exploring Operation: {1}, Resulting Numbers: {0}"


def rows(kind):
    if not TRACES.is_file():
        pytest.skip("no published traces here")
    return [row for row in map(json.loads, TRACES.read_text(encoding="utf-8").splitlines()) if row["format"] == kind]


class Choices(random.Random):
    """Makes the choices that a trace tells of: the order in which successors are explored, and whether to go deeper."""

    def __init__(self, groups):
        super().__init__(0)
        self.groups = deque(groups)
        self.deeper = False

    def shuffle(self, items):
        lines, self.deeper = self.groups.popleft()
        made = [f"Exploring Operation: {operation}, Resulting Numbers: {list(nums)}" for nums, _, operation in items]
        assert sorted(set(lines) - set(made)) == [], "an operation that is none of the best"
        # What was not reached comes last.
        order = sorted(range(len(made)), key=lambda i: lines.index(made[i]) if made[i] in lines else len(lines))
        items[:] = [items[i] for i in order]

    def random(self):
        return 0.0 if self.deeper else 0.999


def groups(text, mark):
    """Of every expansion in a thread's text: the lines that explore, and whether `mark` begins the line behind them."""
    lines = text.split("\n")
    found = []
    for i, line in enumerate(lines):
        if line.startswith("Current State"):
            explored = []
            for end in range(i + 1, len(lines)):
                if lines[end].startswith("Exploring"):
                    explored.append(lines[end])
                elif not lines[end].startswith("Generated") and "unequal" not in lines[end]:
                    break
            found.append((explored, lines[end].startswith(mark)))
            if "equal: Goal Reached" in lines[end]:
                break
    return found


def choices(thread):
    """Those of a thread and its children, in the order in which they are made."""
    left = deque(thread["sub_calls"])
    for explored, spawns in groups(thread["main_calls"][-1], "<Sub Searches>"):
        yield explored, spawns
        for child in left.popleft() if spawns else ():
            yield from choices(child)
        if spawns and "<Goal Reached" in thread["main_calls"][len(thread["main_calls"]) - 1 - len(left)]:
            return


def written(thread):
    return {"main_calls": thread.main_calls, "sub_calls": [[written(c) for c in round] for round in thread.rounds]}


def test_apr_traces_are_written_again_byte_for_byte():
    traces = rows("apr")
    for row in traces:
        rng = Choices(choices(row))
        search = PaperSearch(
            target=row["target"],
            rng=rng,
            beam=row["beam_size"],
            child_beam=row["sub_call_beam_size"],
            as_published=True,
        )
        thread = search.run(row["nums"])
        assert written(thread) == {name: row[name] for name in ("main_calls", "sub_calls")}, row["id"]
        assert not rng.groups
    assert len(traces) == 40 and sum(len(row["sub_calls"]) for row in traces) > 20


def test_sosp_traces_are_written_again_byte_for_byte():
    traces = rows("sosp")
    for row in traces:
        rng = Choices(groups(row["text"], "Start Sub Search"))
        assert SerialSearch(target=row["target"], rng=rng, beam=row["beam_size"]).run(row["nums"]) == row["text"]
        assert not rng.groups
    assert len(traces) == 40 and sum("Start Sub Search" in row["text"] for row in traces) > 10


def test_a_changed_number_is_noticed():
    row = next(row for row in rows("sosp") if row["solved"])
    at = row["text"].index("Exploring Operation: ") + len("Exploring Operation: ")
    text = row["text"][:at] + "1" + row["text"][at:]
    with pytest.raises(AssertionError, match="none of the best"):
        SerialSearch(target=row["target"], rng=Choices(groups(text, "Start")), beam=row["beam_size"]).run(row["nums"])
