"""The paper's Countdown language: byte-exact on real traces, safe on any text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.methods.answers import extract
from plait.runtime.methods.apr.dialect import Child, Joined, find_dialect
from plait.runtime.methods.apr.paper import PaperDialect
from plait.runtime.methods.search_path import final_path, operations
from plait.tests.data import SHARED

TRACES = SHARED / "countdown_traces.jsonl"
PAPER = PaperDialect()

ROOT = "Moving to Node #0\nCurrent State: 27:[53, 22, 4], Operations: []"
EXPLORED = (
    "\nExploring Operation: 53-22=31, Resulting Numbers: [4, 31]\n"
    "Generated Node #0,0: 27:[4, 31] Operation: 53-22=31\n"
    "Exploring Operation: 22-4=18, Resulting Numbers: [53, 18]\n"
    "Generated Node #0,1: 27:[53, 18] Operation: 22-4=18\n"
)
SECTION = (
    "<Calling Sub Searches>\n"
    "<Start Sub Search 0 at level 1> Moving to Node #0,1\n"
    "<Start Sub Search 1 at level 1> Moving to Node #0,0\n"
    "<End Calling Sub Searches>"
)
PATH = (
    "Moving to Node #0,0\nCurrent State: 27:[4, 31], Operations: ['53-22=31']\n"
    "Exploring Operation: 31-4=27, Resulting Numbers: [27]\n27,27 equal: Goal Reached"
)


def rows():
    if not TRACES.is_file():
        return []
    lines = TRACES.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["format"] == "apr"]


@pytest.mark.skipif(not TRACES.is_file(), reason="no published traces here")
def test_real_traces_are_reproduced_byte_for_byte():
    rounds = 0
    for row in rows():
        calls = row["main_calls"]
        assert calls[0].startswith(PAPER.root_prompt(row["nums"], row["target"]))
        for call, following, children in zip(calls, calls[1:], row["sub_calls"], strict=False):
            spawn = PAPER.spawn(call, 0)
            texts = [child["main_calls"][0] for child in children]
            assert [t[: len(c.prompt)] for t, c in zip(texts, spawn.children, strict=True)] == [
                child.prompt for child in spawn.children
            ]
            joined = [
                Joined(child=child, result=PAPER.result(text))
                for child, text in zip(spawn.children, texts, strict=True)
            ]
            assert all(PAPER.verify(entry.child, entry.result) for entry in joined if entry.result is not None)
            assert following.startswith(call[: spawn.keep] + PAPER.join(joined, 0))
            rounds += 1
        assert (PAPER.result(calls[-1]) is not None) == row["solved"]
    assert rounds > 20


def test_spawn_section():
    spawn = PAPER.spawn(ROOT + EXPLORED + SECTION, 0)
    assert spawn.keep == len(ROOT + EXPLORED)
    assert spawn.children == (
        Child(label="0,1", prompt="Moving to Node #0,1\nCurrent State: 27:[53, 18], Operations: ['22-4=18']"),
        Child(label="0,0", prompt="Moving to Node #0,0\nCurrent State: 27:[4, 31], Operations: ['53-22=31']"),
    )
    assert PAPER.spawn(ROOT + EXPLORED + SECTION + "\n", 0) == spawn


def test_operations_add_up_along_the_ids():
    text = (
        "Moving to Node #0,2\nCurrent State: 27:[4, 31], Operations: ['1+1=2', '53-22=31']\n"
        "Generated Node #0,2,0: 27:[27] Operation: 31-4=27\n"
    ) + SECTION.replace("#0,0", "#0,2,0")
    prompt = PAPER.spawn(text, 0).children[1].prompt
    assert prompt.endswith("27:[27], Operations: ['1+1=2', '53-22=31', '31-4=27']")


def test_a_node_described_twice_is_what_its_last_state_or_first_generation_says():
    text = ROOT + EXPLORED + EXPLORED.lstrip("\n").replace("53-22=31", "53+4=57").replace("[4, 31]", "[22, 57]")
    assert [child.prompt for child in PAPER.spawn(text + SECTION, 0).children] == [
        child.prompt for child in PAPER.spawn(ROOT + EXPLORED + SECTION, 0).children
    ]
    moved = "Moving to Node #0,1\nCurrent State: 27:[1, 2], Operations: ['1+1=2']\n"
    again = moved + "Generated Node #0,1: 27:[53, 18] Operation: 22-4=18\n"
    later = moved.replace("[1, 2]", "[3, 5]")
    assert "27:[1, 2]" in PAPER.spawn(ROOT + EXPLORED + again + SECTION, 0).children[0].prompt
    assert "27:[3, 5]" in PAPER.spawn(ROOT + EXPLORED + moved + later + SECTION, 0).children[0].prompt


def test_prompts():
    assert PAPER.root_prompt((53, 22, 4), 27) == ROOT
    assert PAPER.serial_prompt((53, 22, 4), 27) == "Current State: 27:[53, 22, 4], Operations: []"
    assert PAPER.serial_prompt((53, 22, 4), 27, 1024).startswith("Token Budget: 1024 Current State: 27:[")


def test_the_final_path_ends_where_it_says_so():
    found = f"x\n27,27 equal: Goal Reached\n{PATH}"
    assert final_path(found + "\nExit Sub Search at level 1\n") == PATH
    assert final_path(PATH) is None
    assert operations(PATH) == ["31-4=27"]
    assert extract("path", found + "\nExploring Operation: 1+1=2, Resulting Numbers: [2]") == "31-4=27"
    assert extract("path", "27,27 equal: Goal Reached\n27,27 equal: Goal Reached") is None


def test_join_section():
    children = PAPER.spawn(ROOT + EXPLORED + SECTION, 0).children
    joined = [Joined(child=children[0], result=None), Joined(child=children[1], result=PATH)]
    assert PAPER.join(joined, 0) == (
        "<Sub Searches>\n"
        "<No Solution in Sub Search 0 at level 1 at Node #0,1>\n"
        "<Goal Reached in Sub Search 1 at level 1 at Node #0,0>\n"
        f"{PATH}\n<End Sub Searches>\n"
    )
    assert PAPER.join_short(joined, 0) == (
        "<Sub Searches>\n<No Solution in 1 Sub Searches at level 1>\n"
        f"<Goal Reached in Sub Search 1 at level 1 at Node #0,0>\n{PATH}\n<End Sub Searches>\n"
    )
    assert PAPER.join([], 0) == "<Sub Searches>\n<End Sub Searches>\n"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", None),
        ("27,27 equal: Goal Reached", None),
        (f"27,27 equal: Goal Reached\n{PATH}\n", PATH),
        (f"<Goal Reached in Sub Search 0>\nx\n27,27 equal: Goal Reached\n{PATH}", PATH),
        ("No solution found.", None),
    ],
)
def test_result_needs_the_goal_twice(text, result):
    assert PAPER.result(text) == result


@pytest.mark.parametrize(
    "text",
    [
        ROOT,
        SECTION + "\nmore text",
        "<End Calling Sub Searches>",
        SECTION.replace("<Calling Sub Searches>\n", ""),
        SECTION + "\n\n",
    ],
)
def test_no_spawn_section_at_the_end(text):
    assert PAPER.spawn(text, 0) is None


def test_children_that_cannot_be_understood():
    section = SECTION.replace("#0,1", "#0,9").replace("Moving to Node #0,0", "Moving nowhere")
    children = PAPER.spawn(ROOT + EXPLORED + section, 0).children
    assert [(child.label, child.prompt) for child in children] == [("0,9", None), ("?", None)]
    for state in ("27:[1, __import__('os')], Operations: []", "27:[4], Operations: [f()]", "27:[4]", "9" * 5000):
        text = f"Moving to Node #0,1\nCurrent State: {state}\n{SECTION}"
        assert {child.prompt for child in PAPER.spawn(text, 0).children} == {None}


CHILD = Child(label="0,0", prompt="Moving to Node #0,0\nCurrent State: 27:[4, 31], Operations: ['53-22=31']")


@pytest.mark.parametrize(
    "change",
    [
        ("31-4=27, Resulting Numbers: [27]", "31-4=26, Resulting Numbers: [26]"),
        ("31-4=27", "30-3=27"),
        ("Numbers: [27]", "Numbers: [27, 4]"),
        ("31-4=27, Resulting Numbers: [27]", "31/4=7, Resulting Numbers: [7]"),
        ("31-4=27, Resulting Numbers: [27]", "31/0=0, Resulting Numbers: [0]"),
        ("Exploring Operation: 31-4=27, Resulting Numbers: [27]", ""),
        ("Goal Reached", "done"),
    ],
)
def test_wrong_paths_are_refused(change):
    assert PAPER.verify(CHILD, PATH)
    assert not PAPER.verify(CHILD, PATH.replace(*change))


def test_a_child_without_a_state_verifies_nothing():
    assert not PAPER.verify(Child(label="?", prompt=None), PATH)


def test_dialects_by_name():
    assert isinstance(find_dialect("paper"), PaperDialect)


soup = st.lists(
    st.sampled_from(
        [
            *SECTION.split("\n"),
            *EXPLORED.split("\n"),
            *ROOT.split("\n"),
            *PATH.split("\n"),
            "\n",
            "#",
            "[",
            "'",
            "9" * 20,
        ]
    )
    | st.text(max_size=8),
    max_size=20,
).flatmap(lambda parts: st.sampled_from(["\n", "", " "]).map(lambda glue: glue.join(parts)))


@given(soup)
def test_any_text_is_parsed_without_an_exception(text):
    spawn = PAPER.spawn(text, 0)
    result = PAPER.result(text)
    operations(final_path(text) or "")
    if spawn is not None:
        joined = [Joined(child=child, result=result) for child in spawn.children]
        assert text[: spawn.keep] + PAPER.join(joined, 0) and PAPER.join_short(joined, 0)
        for child in spawn.children:
            PAPER.verify(child, text)
