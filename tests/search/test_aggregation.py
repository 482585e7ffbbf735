"""The vote of finished trajectories, equal answers together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.equality import numbers, registry
from plait.search.aggregation import Trajectory, choose
from plait.tests.runtime.tools import run
from plait.tests.search.test_tree_search import search
from plait.tests.search.tools import Steps, by_value


def trajectory(answer, score, copies=1):
    return Trajectory(text=f"so {answer}", answer=answer, scores=(score,), copies=copies)


HALVES = [trajectory(r"\frac12", 0.3), trajectory("0.5", 0.4, 2), trajectory("3", 0.6), trajectory(None, 0.9)]


@pytest.mark.parametrize(
    ("vote", "answer", "weights"),
    [
        ("weighted", "0.5", {"0.5": 1.1, "3": 0.6}),
        ("majority", "0.5", {"0.5": 3, "3": 1}),
        ("best", "3", {"0.5": 0.4, "3": 0.6}),
    ],
)
def test_equal_answers_vote_together(vote, answer, weights):
    winner, votes = choose(HALVES, vote, "last", numbers.classes)
    assert winner is not None and winner.answer == answer and votes == pytest.approx(weights)


def test_the_best_trajectory_of_the_spelling_most_often_given_wins():
    voters = [trajectory("0.5", 0.1), trajectory("1/2", 0.9), trajectory("0.5", 0.2)]
    winner, votes = choose(voters, "majority", "last", numbers.classes)
    assert winner is voters[2] and votes == {"0.5": 3}
    assert choose([trajectory(None, 1.0)], "weighted", "last") == (None, {})


@pytest.mark.parametrize("vote", ["weighted", "best", "majority"])
@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_a_step_without_a_score_has_no_vote(vote, missing):
    broken = Trajectory("a", "1", (missing, 0.1), copies=9)
    scored = Trajectory("b", "2", (0.9, 0.9))
    for aggregate in ("last", "min", "mean", "product"):
        assert choose([broken, scored], vote, aggregate)[0] is scored
        assert choose([broken], vote, aggregate) == (None, {})


@pytest.mark.parametrize(("aggregate", "value"), [("last", 0.5), ("min", 0.25), ("product", 0.05), ("mean", 0.5125)])
def test_one_number_from_the_scores_of_the_steps(aggregate, value):
    one = Trajectory(text="", answer="1", scores=(0.25, 0.5, 0.8, 0.5))
    assert one.value(aggregate) == pytest.approx(value)
    assert Trajectory(text="", answer="1", scores=()).value(aggregate) == 0.0


def test_ties_go_to_more_trajectories_then_to_the_best_value_then_to_the_first():
    one, two = trajectory("1", 1.0), trajectory("2", 0.5, 2)
    assert choose([one, two], "weighted", "last")[0] is two
    assert choose([trajectory("1", 0.5), trajectory("2", 0.75)], "majority", "last")[0].answer == "2"
    assert choose([trajectory("1", 0.5), trajectory("2", 0.5)], "best", "last")[0].answer == "1"
    assert choose([trajectory("1", 0.0), trajectory("2", -1.0)], "weighted", "last")[0].answer == "1"


SPELLINGS = [(0, "1/2"), (0, "0.5"), (1, "3"), (1, "3.0"), (2, "7")]
voters = st.lists(st.tuples(st.sampled_from(SPELLINGS), st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 3)))


@given(voters, st.sampled_from(["weighted", "majority", "best"]))
def test_groups_weigh_what_one_spelling_would(drawn, vote):
    together = [trajectory(spelling, score, copies) for (_, spelling), score, copies in drawn]
    same = [trajectory(str(value), score, copies) for (value, _), score, copies in drawn]
    winner, votes = choose(together, vote, "last", numbers.classes)
    expected, weights = choose(same, vote, "last", registry.text)
    assert sorted(votes.values()) == pytest.approx(sorted(weights.values()))
    value = {spelling: str(value) for value, spelling in SPELLINGS}
    assert (winner and value[winner.answer]) == (expected and expected.answer)


async def test_a_tree_search_with_equal_answers():
    tree = {"q": ["a;"], "qa;": ["=1/2", "=0.5", "=3"]}
    values = {"a": 0.9, "=1/2": 0.5, "=0.5": 0.6, "=3": 0.9}
    fields = {"width": 3, "answer": "regex:=(.+)", "reward": by_value(values)}
    result, _ = await run(search(**fields, equal="numbers"), None, engine=Steps(tree))
    assert result.answer == "1/2" and result.details["votes"] == pytest.approx({"1/2": 1.1, "3": 0.9})
    result, _ = await run(search(**fields), None, engine=Steps(tree))
    assert result.answer == "3"
