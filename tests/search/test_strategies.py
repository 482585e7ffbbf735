"""Strategies of one's own: what the search takes of them, and what it refuses."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput, TreeSearch
from plait.runtime.methods.nesting import all_inputs
from plait.search import Frontier, Node, Selection, Strategy, register_strategy
from plait.search.strategies import select
from plait.tests.runtime.tools import run
from plait.tests.search.tools import Steps, by_value


@register_strategy
class Saying(Strategy):
    """Chooses what it is told to."""

    strategy: Literal["test_saying"] = "test_saying"
    counts: Any = None
    whole: Any = None
    """In place of a `Selection`."""

    def select(self, frontier):
        return self.whole or Selection(counts=self.counts)


def frontier(candidates, budget):
    return Frontier(nodes=[Node() for _ in range(candidates)], budget=budget, width=9)


@given(st.lists(st.integers(-1, 5), max_size=4), st.integers(0, 4), st.integers(0, 9))
def test_a_choice_shares_out_what_is_left(counts, candidates, budget):
    if len(counts) == candidates and min(counts, default=0) >= 0 and sum(counts) <= budget:
        assert select(Saying(counts=counts), frontier(candidates, budget)).counts == counts
    else:
        with pytest.raises(InvalidInput, match="^the strategy 'test_saying' chose "):
            select(Saying(counts=counts), frontier(candidates, budget))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": [1.0, 2]}, r"counts that are no whole numbers from 0: \[1.0, 2\]"),
        ({"counts": None}, "counts that are no whole numbers from 0: None"),
        ({"counts": ["1", "1"]}, "counts that are no whole numbers from 0"),
        ({"whole": [1, 1]}, "list, which is no Selection"),
    ],
)
def test_what_is_no_choice_is_refused(fields, message):
    with pytest.raises(InvalidInput, match=f"^the strategy 'test_saying' chose {message}"):
        select(Saying(**fields), frontier(2, 4))


@pytest.mark.parametrize("given", [np.array([1, 3]), np.array([1, 3], np.uint8), (True, np.int32(3))])
def test_counts_may_be_an_arrays(given):
    counts = select(Saying(whole=Selection(counts=given)), frontier(2, 4)).counts
    assert counts == [1, 3] and {type(count) for count in counts} == {int}


async def test_a_search_ends_with_what_is_wrong_with_its_strategy():
    engine = Steps({"q": ["a;", "b;"]})
    fields = {"prompt": "q", "width": 4, "delimiters": (";",), "reward": by_value({})}
    with pytest.raises(InvalidInput, match="chose 2000 continuations, and 4 are left of the width"):
        await run(
            TreeSearch(strategy={"strategy": "test_saying", "counts": [1000, 1000]}, **fields), None, engine=engine
        )
    assert not engine.branches and engine.asked.total() == 4


class Told(Saying):
    """With a field that is called as the method is by which rewards say what they read."""

    inputs: str = ""


def test_a_field_may_be_called_inputs():
    assert all_inputs(TreeSearch(prompt="?", strategy=Told(inputs="x"))) == {}
