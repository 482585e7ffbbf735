"""What the context machines read out of answers, and how rankings are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.machines.ranking import merge, read_paths
from plait.agents.machines.relevance import read_verdict


@pytest.mark.parametrize(
    "text, expected",
    [
        ("I think so.\nRELEVANCE: Relevant\nSUMMARY: slugs", (True, "slugs")),
        ("RELEVANCE: Not Relevant", (False, "")),
        (
            "One might say RELEVANCE: not relevant, but\nRELEVANCE: Relevant\nSUMMARY: two\nlines\n",
            (True, "two\nlines"),
        ),
        ("It is not relevant for others.\nRELEVANCE: Relevant\nSUMMARY: s\n", (True, "s")),
        ("RELEVANCE: Relevant\nSUMMARY: a\nNo, wait.\nRELEVANCE: Not Relevant\n", (False, "")),
        ("**RELEVANCE:** Relevant\n**SUMMARY:** bold", (True, "bold")),
        ("relevance : RELEVANT", (True, "")),
        ("RELEVANCE: Relevant.\n\nSUMMARY: s", (True, "s")),
        ("RELEVANCE: relevantly put", None),
        ("RELEVANCE: maybe", None),
        ("RELEVANCE" + ":" * 500_000, None),  # at once
        ("", None),
    ],
)
def test_the_last_verdict_counts(text, expected):
    assert read_verdict(text) == expected


@given(st.text(alphabet="RELVANC: otelvant\nSUMRY*", max_size=80))
def test_any_text_is_read(text):
    found = read_verdict(text)
    assert found is None or isinstance(found[0], bool)


@pytest.mark.parametrize(
    "text, expected",
    [
        ('So:\n```json\n["a.py", "b.py"]\n```', ["a.py", "b.py"]),
        ('```json\n["old.py"]\n```\nNo:\n```\n["new.py"]\n```\nDone.', ["new.py"]),
        ('["a.py"]', ["a.py"]),
        ('The list: ["a.py"].', ["a.py"]),
        ("```json\n[]\n```", None),
        ("```json\n[1, 2]\n```", None),
        ('```json\n{"a": 1}\n```', None),
        ("```json\n" + "[" * 5000 + "\n```", None),
        ("none", None),
    ],
)
def test_the_last_list_counts(text, expected):
    assert read_paths(text) == expected


def test_rankings_are_merged_by_mean_rank():
    """By hand, of the spec's formula: a 0/2 and 1/3, b 1/2 and 0/3, c 1 and 2/3, d in none."""
    assert merge([["a", "b"], ["b", "a", "c"]], ["d", "c", "b", "a"]) == ["a", "b", "c", "d"]
    assert merge([], ["b", "a"]) == ["a", "b"], "ties by path"


@given(st.lists(st.permutations("abcd"), min_size=1, max_size=4))
def test_merging_loses_nothing_and_does_not_depend_on_the_order_of_paths(rankings):
    assert sorted(merge(rankings, "abcd")) == list("abcd")
    assert merge(rankings, "abcd") == merge(rankings, "dbca")
