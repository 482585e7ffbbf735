"""Budgets and ledgers: limits that allow no work are refused, shares are fair, nothing is spent twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import Budget, InvalidBudget, InvalidInput, OutOfBudget
from plait.runtime.budget import Ledger, check_shares

tokens = st.integers(0, 500)


@pytest.mark.parametrize(
    "limits",
    [
        {"total_tokens": 0},
        {"total_tokens": -5},
        {"critical_tokens": 0},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"width": 0},
        {"depth": -1},
        {"total_tokens": "many"},
        {"total_tokens": 1.5},
        {"totl_tokens": 5},
    ],
)
def test_a_budget_that_allows_no_work_is_refused(limits):
    with pytest.raises(InvalidBudget, match=f"^budget.{next(iter(limits))}"):
        Budget(**limits)


def test_no_limits_and_the_smallest_ones_are_allowed():
    assert Budget(depth=0) == Budget(depth=0, seconds=None)
    assert Budget(total_tokens=1, critical_tokens=1, width=1, seconds=0.5).total_tokens == 1


def test_what_no_file_can_hold_is_refused():
    for limits in ({"total_tokens": 10**30}, {"\ud800": 1}, {"seconds": float("inf")}):
        with pytest.raises(InvalidBudget, match="^budget"):
            Budget(**limits)


def test_spending_more_than_is_left_raises_and_changes_nothing():
    ledger = Ledger(10)
    ledger.spend(7)
    with pytest.raises(OutOfBudget):
        ledger.spend(4)
    assert (ledger.left, ledger.spent) == (3, 7)


def test_what_is_reserved_cannot_be_spent_by_anyone_else():
    ledger = Ledger(10)
    taken = ledger.reserve(8)
    assert not ledger.can_spend(3)
    ledger.settle(taken, 5)
    assert (ledger.left, ledger.spent) == (5, 5)


def test_no_more_is_reserved_than_is_left():
    ledger = Ledger(10)
    assert (ledger.reserve(25), ledger.left) == (10, 0)
    assert (ledger.reserve(1), ledger.can_spend(0), ledger.can_spend(1)) == (0, True, False)
    assert (Ledger(10).reserve(10), Ledger(10).reserve(9)) == (10, 9)


def test_all_of_a_ledger_can_be_spent_and_a_share_that_was_given_back_is_empty():
    ledger = Ledger(11)
    one, two = ledger.split(2, reserve=2)
    assert (one.left, two.left, ledger.left) == (4, 4, 3)
    one.spend(4)
    for share in (one, two):
        ledger.give_back(share)
        assert (share.left, share.spent) == (0, 0)
        ledger.give_back(share)  # nothing comes twice
    assert (ledger.left, ledger.spent) == (7, 4)
    ledger.spend(7)
    assert (ledger.left, ledger.spent) == (0, 11) and ledger.split(2)[0].left == 0
    assert Ledger(3).split(0) == [] and Ledger(3).split(1, reserve=9)[0].left == 0


def test_work_that_cost_more_than_was_set_aside_is_a_defect():
    ledger = Ledger(10)
    for used in (-1, 6):
        with pytest.raises(AssertionError, match="used of 5 reserved"):
            ledger.settle(5, used)


def test_an_unlimited_ledger_still_counts():
    ledger = Ledger()
    share = ledger.split(2)[0]
    share.settle(share.reserve(100), 40)
    for _ in range(2):  # nothing comes twice
        ledger.give_back(share)
        assert (ledger.left, ledger.spent) == (None, 40)


@given(limit=tokens, parts=st.integers(1, 20), reserve=tokens, used=st.lists(tokens, min_size=20, max_size=20))
def test_shares_are_equal_and_every_token_comes_back_or_is_spent(limit, parts, reserve, used):
    ledger = Ledger(limit)
    shares = ledger.split(parts, reserve)
    assert {share.left for share in shares} == {max(limit - reserve, 0) // parts}
    kept = ledger.left
    assert kept is not None and kept >= min(reserve, limit)
    total = 0
    for share, want in zip(shares, used, strict=False):
        taken = share.reserve(want)
        share.settle(taken, taken)
        total += taken
    for share in shares:
        ledger.give_back(share)
    assert ledger.spent == total
    assert ledger.left == limit - total


@pytest.mark.parametrize("least", [0, 1])
def test_shares_are_whole_numbers_and_enough_of_them(least):
    assert check_shares(0, least, least=least) == (0, least) and check_shares(np.int64(7), np.int64(3)) == (7, 3)
    for reserve in (-1, 1.5, None, "1"):
        with pytest.raises(InvalidInput, match="reserve is a number of tokens, 0 or more, not "):
            check_shares(reserve, 1)
    for parts in (least - 1, 2.5, None, "2"):
        with pytest.raises(InvalidInput, match=f"the ledger is shared by {least} part or more, not "):
            check_shares(0, parts, least=least)


@given(limit=tokens, widths=st.lists(st.integers(1, 5), max_size=4))
def test_nested_shares_come_back_whole(limit, widths):
    ledger = Ledger(limit)

    def descend(scope, rest):
        if not rest:
            return
        shares = scope.split(rest[0])
        for share in shares:
            descend(share, rest[1:])
            scope.give_back(share)

    descend(ledger, widths)
    assert (ledger.left, ledger.spent) == (limit, 0)
