"""What our verifier and the published checkers say of searches in the paper's language."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.evals.benchmarks.countdown import paths
from plait.evals.benchmarks.countdown.verify import verify
from plait.runtime.methods.apr.dialect import Child
from plait.runtime.methods.apr.paper import PaperDialect
from plait.runtime.methods.search_path import final_path
from plait.tests.data import SHARED

NUMS, TARGET = (53, 22, 4), 27
PATH = (
    "Moving to Node #0\nCurrent State: 27:[53, 22, 4], Operations: []\n"
    "Exploring Operation: 53-22=31, Resulting Numbers: [4, 31]\n"
    "Generated Node #0,0: 27:[4, 31] Operation: 53-22=31\nMoving to Node #0,0\n"
    "Current State: 27:[4, 31], Operations: ['53-22=31']\n"
    "Exploring Operation: 31-4=27, Resulting Numbers: [27]\n27,27 equal: Goal Reached"
)
BEFORE = "\nExploring Operation: 31-4=27, Resulting Numbers: [27]\n27,27 equal: Goal Reached\n"
CHECKERS = ("strict", "apr", "sosp")


def verdicts(path):
    texts = {"strict": path, "apr": path, "sosp": BEFORE + path + "\n"}
    return [bool(getattr(paths, name)(NUMS, TARGET, texts[name])) for name in CHECKERS]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", [True, True, True]),
        ("31-4=27", "31-4=26", [False, False, False]),
        ("[27]", "[26]", [False, False, True]),
        ("Numbers: [4, 31]", "Numbers: [31, 4]", [True, True, True]),
        ("Numbers: [4, 31]", "Numbers: [22, 4, 31]", [False, False, True]),
        ("53-22=31", "53-23=30", [False, False, False]),
        # Skipped by the one published checker; the other looks at the states alone.
        ("Exploring Operation: 53-22=31", "Exploring Operation: oops", [False, False, True]),
        ("\nMoving to Node #0,0", "\nExploring Operation: 1-2=-1, Resulting Numbers: [1]\nMoving", [False, True, True]),
        ("27,27 equal: Goal", "so the Goal", [False, True, False]),
        # Numbers are used twice, or not at all.
        ("31-4=27, Resulting Numbers: [27]", "53-22=31, Resulting Numbers: [31]", [False, False, False]),
        ("'53-22=31'", "'53-22=31', '53-22=31'", [True, True, True]),
        ("31-4=27", "54/2=27", [False, False, False]),
        ("Operations: ['53-22=31']", "Operations: ['53-22=31', '22/4=5.5']", [True, True, False]),
        ("Operations: ['53-22=31']", "Operations: []", [True, True, False]),
    ],
)  # fmt: skip
def test_verdicts(old, new, expected):
    assert verdicts(PATH.replace(old, new)) == expected


def test_numbers_may_be_as_long_as_what_a_file_holds_can_make():
    big, product = 999_999_999, 999_999_999**3
    steps = (
        (f"{big}*{big}={big**2}", f"{big}, {big}, {big**2}"), (f"{big}*{big**2}={product}", f"{big}, {product}"),
        (f"{product}/{big}={big**2}", f"{big**2}"),
    )  # fmt: skip
    lines = [f"Exploring Operation: {operation}, Resulting Numbers: [{left}]" for operation, left in steps]
    explored = ", ".join(f"'{operation}'" for operation, _ in steps[:-1])
    lines.insert(2, f"Current State: {big**2}:[{big}, {product}], Operations: [{explored}]")
    path = "\n".join([*lines, f"{big**2},{big**2} equal: Goal Reached"])
    assert paths.strict([big] * 4, big**2, path) and paths.apr([big] * 4, big**2, path)
    assert paths.sosp([big] * 4, big**2, f"{lines[-1]}\n{big**2},{big**2} equal: Goal Reached\n{path}\n")
    assert verify([big] * 4, big**2, ", ".join(operation for operation, _ in steps))
    prompt = f"Moving to Node #0\nCurrent State: {big**2}:[{big}, {big}, {big}, {big}], Operations: []\n"
    child = Child(label="#0", prompt=prompt)
    assert PaperDialect().verify(child, path)


def test_the_published_checker_of_one_line_lets_numbers_be_used_again_and_left_over():
    listed = (
        "Current State: 62:[62], Operations: ['53-22=31']\nExploring Operation: 31+31=62, Resulting Numbers: [62]\n"
    )
    path = listed + "62,62 equal: Goal Reached"
    assert paths.sosp(NUMS, 62, BEFORE.replace("27", "62") + path)
    assert not paths.strict(NUMS, 62, path) and not paths.apr(NUMS, 62, path)


@pytest.mark.parametrize("text", ["", "Goal Reached", PATH, BEFORE, "27,27 equal: Goal Reached\n" * 3])
def test_what_has_no_path_behind_its_find_is_refused_in_one_line(text):
    assert not paths.sosp(NUMS, TARGET, text)


def test_real_traces_are_judged_as_they_say():
    if not (SHARED / "countdown_traces.jsonl").is_file():
        pytest.skip("no published traces here")
    seen = []
    for row in map(json.loads, (SHARED / "countdown_traces.jsonl").read_text(encoding="utf-8").splitlines()):
        nums, target = row["nums"], row["target"]
        if row["format"] == "apr":
            path = PaperDialect().result(row["main_calls"][-1])
            found = [bool(path and check(nums, target, path)) for check in (paths.strict, paths.apr)]
        elif row["format"] == "sosp":
            path = final_path(row["text"])
            found = [bool(path and paths.strict(nums, target, path)), bool(paths.sosp(nums, target, row["text"]))]
        else:
            continue
        assert found == [row["solved"]] * 2, row["id"]
        seen.append(row["solved"])
    assert len(seen) == 80 and 20 < sum(seen) < 70


LINES = [
    *PATH.split("\n"),
    "Exploring Operation: 9/0=1, Resulting Numbers: []",
    "9" * 5000,
    "Current State: 27:[1], Operations: [f(), '']",
]
soup = st.lists(st.sampled_from(LINES) | st.text(max_size=8), max_size=12)


@given(soup.map("\n".join))
def test_any_text_gives_a_verdict(text):
    for name in CHECKERS:
        verdict = getattr(paths, name)(NUMS, TARGET, text)
        assert verdict.ok == (verdict.reason == "correct")
    paths.said(text)
