"""Books of one part of a job: shares of both ledgers, and what is counted."""

from __future__ import annotations

from enum import IntEnum

import numpy
import pytest

from plait import ScriptedEngine
from plait.tests.runtime.tools import context


class Few(IntEnum):
    TWO = 2


@pytest.mark.parametrize("two", [numpy.int64(2), Few.TWO])
async def test_whole_numbers_of_any_type_share(two):
    async with context(ScriptedEngine(["x"]), total_tokens=10, critical_tokens=7) as ctx:
        assert (type(ctx.share(two, two)), ctx.share(two, two)) == (int, 4)
        lefts = await ctx.parallel(left, ["a", "b"], reserve=two)
        assert [(type(number), number) for number in (*lefts, ctx.ledger.left)] == [(int, 4), (int, 4), (int, 10)]


async def left(part, _):
    return part.ledger.left


@pytest.mark.parametrize(
    ("limits", "parts", "reserve", "share"),
    [
        ({}, 3, 0, None),
        ({}, 0, 0, None),
        ({"total_tokens": 10}, 3, 0, 3),
        ({"total_tokens": 10}, 3, 4, 2),
        ({"total_tokens": 10}, 1, 10, 0),
        ({"total_tokens": 10}, 1, 11, 0),
        ({"critical_tokens": 7}, 3, 0, 7),
        ({"critical_tokens": 7}, 3, 2, 5),
        ({"critical_tokens": 7}, 3, 8, 0),
        ({"total_tokens": 10, "critical_tokens": 7}, 1, 0, 7),
        ({"total_tokens": 10, "critical_tokens": 7}, 2, 0, 5),
    ],
)
async def test_a_share_is_that_of_the_tighter_ledger(limits, parts, reserve, share):
    async with context(ScriptedEngine(["x"]), **limits) as ctx:
        assert ctx.share(parts, reserve) == share


async def test_what_is_counted_is_in_the_usage_and_nothing_is_not():
    async with context(ScriptedEngine(["x"])) as ctx:
        ctx.count("seen")
        ctx.count("seen", 2)
        ctx.count("never", 0)
        ctx.count("seen", numpy.int64(2))
        ctx.count("so", True)
        assert [(name, type(n), n) for name, n in ctx.state.usage.counts.items()] == [("seen", int, 5), ("so", int, 1)]
