"""Traced branches: how much they take, what they are told of gangs, and what they leave to others to compute."""

from __future__ import annotations

import pytest

from plait import ScriptedEngine
from plait.runtime.engine import Capabilities
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.jobs.context import ParallelContexts
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.tools import context

MODEL = load_model(tiny()[1])


def native() -> NativeEngine:
    return NativeEngine(MODEL, IdTokenizer(MODEL.vocab_size), NativeOptions(kv_tokens=1024))


@pytest.mark.parametrize(
    ("limits", "room"),
    [({}, 17), ({"total_tokens": 9}, 9), ({"critical_tokens": 5}, 5), ({"total_tokens": 5, "critical_tokens": 9}, 5)],
)
async def test_room_is_what_window_and_ledgers_leave(limits, room):
    async with context(ScriptedEngine(["x"], context_limit=20), **limits) as ctx:
        branch = ctx.open([4, 4, 4])
        assert branch.room == room
        branch.extend([5] * 2)
        assert branch.room == room - 2
        branch.extend([5] * branch.room)
        assert branch.room == 0


async def test_text_behind_contexts_is_the_branchs_own():
    engine = ScriptedEngine(["x"], capabilities=Capabilities(parallel_contexts=True))
    async with context(engine) as ctx:
        around = ParallelContexts(at=2, texts=((7, 7, 7), (8,)), temperature=1.0, scale=1.0)
        branch = ctx.open([4, 5, 6, 9], contexts=around)
        assert branch.tokens == [4, 5, 6, 9] and branch.position == 4 + 3
        assert ctx.state.usage.prompt_tokens == 4 + 4


async def test_a_branch_knows_whether_it_is_in_a_gang():
    async with context(native()) as ctx:
        branch = ctx.open([1, 2])
        branch.lockstep("gang")
        assert branch.is_in_gang
        branch.lockstep(None)
        assert not branch.is_in_gang


@pytest.mark.parametrize("dropped", [0, 1, 3])
async def test_what_is_frozen_before_it_is_computed_is_waited_for_without_what_was_dropped(dropped):
    """Else nobody would ever have computed all of it."""
    async with context(native()) as ctx:
        seen, branch = ctx.open([1, 2]), ctx.open([3])
        branch.watch(seen)
        branch.extend([4, 5, 6, 7])
        branch.rewind(branch.length - dropped)
        branch.fork(1)
        ((_, length, block),) = ctx.state.late[-1:]
        assert length == 4 - dropped and block.computed == 0
