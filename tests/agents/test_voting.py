"""Votes and their order, against what counting by hand gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.sandbox.base import Execution
from plait.agents.voting import Candidate, gather, rank, reproducing, take_check, take_results

codes = st.sampled_from([0, 1, 2])


def execution(code: int, ended="exit") -> Execution:
    return Execution(exit_code=code, output="", seconds=0.0, ended=ended)


def test_equal_patches_are_one_candidate_and_empty_ones_none():
    found = gather([("edit 0", "a\n"), ("edit 1", "\n"), ("edit 2", "b\n"), ("other", "a\n"), ("edit 4", "a")])
    assert [(one.patch, one.sources) for one in found] == [("a\n", ["edit 0", "other", "edit 4"]), ("b\n", ["edit 2"])]
    assert gather([]) == []


@given(st.data())
def test_the_first_has_the_most_votes_then_copies_then_is_the_shortest(data):
    tests = data.draw(st.integers(0, 4))
    originals = [execution(data.draw(codes)) for _ in range(tests)]
    candidates = [
        Candidate(
            patch="x" * data.draw(st.integers(1, 3)) + str(number),
            sources=["s"] * data.draw(st.integers(1, 3)),
            keeps=data.draw(st.booleans()),
        )
        for number in range(data.draw(st.integers(1, 5)))
    ]
    results = {
        (test, number): execution(data.draw(codes), data.draw(st.sampled_from(["exit", "exit", "patch"])))
        for test in range(tests)
        for number in range(len(candidates))
    }
    results = {key: execution(1, "patch") if one.ended == "patch" else one for key, one in results.items()}
    take_results(candidates, results)
    for rule in ("all", "reproducing"):
        counted = [test for test in range(tests) if rule == "all" or originals[test].exit_code == 2] or range(tests)

        def key(number, counted=counted):
            ended = [results[test, number] for test in range(tests)]
            fails = any(one.ended == "patch" for one in ended)
            votes = sum(ended[test].exit_code == 0 for test in counted)
            one = candidates[number]
            return fails, not one.keeps, -votes, -len(one.sources), len(one.patch), one.patch

        expected = [candidates[number] for number in sorted(range(len(candidates)), key=key)]
        assert rank(candidates, originals, rule) == expected


def test_tests_that_show_the_issue_end_with_2():
    assert reproducing([execution(0), execution(2), execution(1), execution(2)]) == [1, 3]


PASSES, FAILS, LONG, CUT = execution(0), execution(1), execution(1, "timeout"), execution(1, "deadline")


@pytest.mark.parametrize(
    ("before", "after", "keeps", "first"),
    [
        (PASSES, [FAILS, PASSES], [False, True], 1),
        (PASSES, [LONG, PASSES], [False, True], 1),
        (FAILS, [FAILS, PASSES], [True, True], 0),
        (LONG, [FAILS, CUT], [True, True], 0),
        (PASSES, [CUT, PASSES], [None, True], 0),
        (PASSES, [FAILS, CUT], [False, None], 1),
        (PASSES, [FAILS, PASSES, CUT], [False, True, None], 1),
        (CUT, [CUT, CUT], [None, None], 0),
    ],
)
def test_a_check_puts_behind_who_is_known_to_fail_and_nobody_whom_the_deadline_cut(before, after, keeps, first):
    candidates = [Candidate(patch="a" * length, sources=["s"]) for length, _ in enumerate(after, 1)]
    take_check(candidates, before, after)
    assert [one.keeps for one in candidates] == keeps
    assert rank(candidates, [])[0] is candidates[first]


def test_a_check_sees_what_does_not_apply():
    candidates = [Candidate(patch=patch, sources=["s"]) for patch in ("a", "longer")]
    take_check(candidates, PASSES, [execution(1, "patch"), PASSES])
    assert [one.applies for one in candidates] == [False, True]
