"""Branches that step together: whoever cannot go on keeps nobody waiting."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from plait import BranchBusy, Finish, InvalidInput, SamplingParams
from plait.runtime.engines.native.branch import NativeBranch
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.tools import context

MODEL = load_model(tiny()[1])


def tokens(count):
    return SamplingParams(max_tokens=count, ignore_eos=True)


@asynccontextmanager
async def pair(**limits):
    """A root context and two branches in it."""
    engine = NativeEngine(MODEL, IdTokenizer(MODEL.vocab_size), NativeOptions(kv_tokens=1024))
    await engine.start()
    async with asyncio.timeout(60), context(engine, **limits) as ctx:
        root = ctx.open([3, 1, 4])
        await root.generate(tokens(0))
        yield ctx, root.fork(2)


async def beside(ctx):
    """The engine has decoded for another branch, and planned for all."""
    other = ctx.open([2, 7])
    await other.generate(tokens(3))
    other.close()


@pytest.mark.parametrize("poor", [0, 1])
@pytest.mark.parametrize(
    ("limits", "finish"),
    [({"total_tokens": 8}, Finish.TOTAL_TOKENS), ({"critical_tokens": 4}, Finish.CRITICAL_TOKENS)],
)
async def test_who_has_no_budget_left_keeps_nobody_waiting(limits, finish, poor):
    async with pair(**limits, width=2) as (ctx, sides):

        async def speak(part, side):
            if side is sides[poor]:
                side.extend([5, 6, 7, 8])
            return await side.generate(tokens(20))

        async with ctx.lockstep(sides):
            results = await ctx.parallel(speak, sides)
        assert (results[poor].finish, results[poor].token_ids) == (finish, [])
        other = results[1 - poor]
        assert (other.finish, len(other.token_ids)) == (finish, 4)


async def test_who_is_asked_for_no_tokens_and_has_none_pending_waits_for_nobody():
    async with pair() as (ctx, sides), ctx.lockstep(sides):
        assert [(await side.generate(tokens(0))).finish for side in sides] == [Finish.LENGTH] * 2


async def test_who_had_no_room_is_in_step_again_once_there_is():
    async with pair() as (ctx, sides), ctx.lockstep(sides):
        poor, other = sides
        poor.context_limit = poor.length
        assert (await poor.generate(tokens(5))).finish is Finish.CONTEXT
        assert (await other.generate(tokens(3))).finish is Finish.LENGTH  # alone
        poor.context_limit += 4
        results = await asyncio.gather(other.generate(tokens(9)), poor.generate(tokens(9)))
        assert [(result.finish, len(result.token_ids)) for result in results] == [(Finish.GANG, 4), (Finish.CONTEXT, 4)]


@pytest.mark.parametrize("how", ["silent", "refused", "cancelled"])
async def test_members_of_a_part_that_is_over_sit_out_until_all_are(how):
    async with pair(width=2) as (ctx, sides):

        async def speak(part, side):
            if side is sides[1]:
                return (await side.generate(tokens(9))).finish
            if how == "refused":
                with pytest.raises(InvalidInput):
                    await side.generate(SamplingParams(max_tokens=5, stop_token_ids=(10**6,)))
            elif how == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(side.generate(tokens(5)), 0)
            return None

        async with ctx.lockstep(sides):
            assert await ctx.parallel(speak, sides) == [None, Finish.LENGTH]
            assert all(side.engine_branch.gang is not None for side in sides)
            results = await asyncio.gather(sides[1].generate(tokens(5)), sides[0].generate(tokens(7)))
            assert [result.finish for result in results] == [Finish.LENGTH, Finish.GANG]
            assert [len(result.token_ids) for result in results] == [5, 5]


async def test_a_part_that_lends_its_branch_on_stays_in_step():
    async with pair() as (ctx, sides):

        async def leaf(part, side):
            return await beside(ctx) if side is None else len((await side.generate(tokens(2))).token_ids)

        async def speak(part, side):
            if side is sides[0]:
                return [(await part.parallel(leaf, [side, None]))[0] for _ in range(4)]
            return [len((await side.generate(tokens(20))).token_ids) for _ in range(4)]

        async with ctx.lockstep(sides):
            assert await ctx.parallel(speak, sides) == [[2] * 4] * 2


async def test_a_branch_alone_in_parallel_stays_in_step():
    async with pair() as (ctx, sides):

        async def leaf(part, side):
            return len((await side.generate(tokens(2 if side is sides[0] else 20))).token_ids)

        async def speak(side):
            lengths = []
            for _ in range(4):
                lengths += await ctx.parallel(leaf, [side])
                if side is sides[0]:
                    await beside(ctx)
            return lengths

        async with ctx.lockstep(sides):
            assert await asyncio.gather(*map(speak, sides)) == [[2] * 4] * 2


async def test_who_waited_goes_on_beside_a_generation_under_way():
    async with pair() as (ctx, sides), ctx.lockstep(sides):
        waiting = asyncio.create_task(sides[1].generate(tokens(5)))
        await asyncio.sleep(0)
        other = ctx.open([2, 7]).engine_branch.generate(tokens(600))
        stream = aiter(other)
        for _ in range(3):
            await anext(stream)
        sides[0].lockstep(None)
        await waiting
        assert not other.is_done
        await other.aclose()


async def test_a_branch_alone_in_parallel_never_sits_out(monkeypatch):
    groups = []
    put = NativeBranch.lockstep
    async with pair() as (ctx, sides), ctx.lockstep(sides):
        monkeypatch.setattr(NativeBranch, "lockstep", lambda side, gang: (groups.append(gang), put(side, gang)))
        await ctx.parallel(lambda part, side: asyncio.sleep(0), sides[:1])
        assert groups and None not in groups


@pytest.mark.parametrize("name", ["total_tokens", "critical_tokens"])
async def test_members_without_budget_that_are_asked_one_after_another_end_at_once(name):
    async with pair(**{name: 4}) as (ctx, sides), ctx.lockstep(sides):
        await asyncio.gather(*(side.generate(tokens(2)) for side in sides))
        assert [(await side.generate(tokens(5))).finish for side in sides] == [name, name]


@pytest.mark.parametrize("cause", [ValueError("the cause"), None])
async def test_who_decodes_when_a_gang_is_left_hides_no_cause_and_keeps_nobody_in_it(cause):
    async with pair() as (ctx, sides):
        with pytest.raises(BranchBusy if cause is None else ValueError, match="is generating|the cause"):
            async with ctx.lockstep(sides):
                left = [asyncio.create_task(side.generate(tokens(20 * i))) for i, side in enumerate(sides, 5)]
                await asyncio.sleep(0)
                assert all(side.engine_branch.generation is not None for side in sides)
                if cause is not None:
                    raise cause
        left[0].cancel()
        await asyncio.wait(left[:1])
        assert sides[0].engine_branch.gang is None
        assert len((await left[1]).token_ids) == 120
        assert [len((await side.generate(tokens(3))).token_ids) for side in sides] == [3, 3]


async def test_who_is_idle_when_a_gang_is_left_leaves_it_behind_one_that_decodes():
    async with pair() as (ctx, sides):
        with pytest.raises(ValueError, match="the cause"):
            async with ctx.lockstep(sides):
                left = asyncio.create_task(sides[0].generate(tokens(4)))
                await asyncio.sleep(0)
                raise ValueError("the cause")
        assert (await left).finish is Finish.LENGTH
        assert all(side.engine_branch.gang is None for side in sides)


async def test_a_branch_that_cannot_come_into_a_gang_stays_where_it_is():
    async with pair() as (ctx, sides), ctx.lockstep(sides[:1]):
        left = asyncio.create_task(sides[0].generate(tokens(100)))
        await asyncio.sleep(0)
        gang = sides[0].engine_branch.gang
        with pytest.raises(BranchBusy):
            async with ctx.lockstep(sides[::-1]):
                pytest.fail("entered")
        assert (await left).finish is Finish.LENGTH
        assert [side.engine_branch.gang for side in sides] == [gang, None]
