"""One call of `generate`: what it costs is counted, and its text is announced while it comes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields, replace

import pytest

from plait import BranchClosed, Costs, Finish, SamplingParams, ScriptedEngine
from plait.runtime.engine import Completion
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.events import Stopped, Text
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.tools import context
from plait.tests.search.tools import pass_time

MODEL = load_model(tiny()[1])

COSTS = ["prefilled_tokens", "reused_tokens", "preemptions", "drafted_tokens", "accepted_tokens"]


class Dear(ScriptedEngine):
    """Every call has the same costs, all of them different."""

    async def complete(self, generation):
        costs = {name: number for number, name in enumerate(COSTS, start=1)}
        return replace(await super().complete(generation), **costs, rolled_back=9)


async def test_all_that_calls_cost_is_added_up():
    assert {field.name for field in fields(Completion)} >= {*COSTS, "rolled_back"}
    async with context(Dear(lambda _: "abc")) as ctx:
        branch = ctx.open([4])
        for calls in (1, 2, 3):
            await branch.generate(SamplingParams(ignore_eos=True, max_tokens=2))
            used = asdict(ctx.state.usage)
            assert [used[name] for name in COSTS] == [calls * number for number in range(1, 6)]
            assert (used["rolled_back_tokens"], used["generated_tokens"]) == (9 * calls, 2 * calls)


@pytest.mark.parametrize("tells", [True, False])
async def test_what_a_call_cost_that_was_cut_is_added_up_where_the_engine_tells(tells):
    costs = Costs(**{name: number for number, name in enumerate(COSTS, start=1)}, rolled_back=6)

    class Endless(ScriptedEngine):
        async def complete(self, generation):
            if tells:
                generation.costs = costs
            else:
                del generation.costs
            pass_time(2000)
            return await super().complete(generation)

    async with context(Endless(lambda _: "abc", ends=False), seconds=1000) as ctx:
        assert (await ctx.open([4]).generate(SamplingParams())).finish is Finish.DEADLINE
        used = asdict(ctx.state.usage)
        assert [used[name] for name in [*COSTS, "rolled_back_tokens"]] == [number * tells for number in range(1, 7)]


def cancel(call, branch, stepped):
    call.cancel()


def close_branch(call, branch, stepped):
    branch.close()


def break_engine(call, branch, stepped):
    stepped.native.mailbox.put(stepped.scheduler.fail(RuntimeError("lost")))


@pytest.mark.parametrize("passes", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("cut", [cancel, close_branch, break_engine])
async def test_what_a_generation_computed_before_it_was_cut_is_counted_once(cut, passes):
    stepped = Stepped(prefill_chunk=16)
    async with context(stepped.native) as ctx:
        prompt = [3 + i % 90 for i in range(50)]
        usage = ctx.state.usage

        async def run(branch, count):
            call = asyncio.create_task(branch.generate(SamplingParams(max_tokens=5, ignore_eos=True)))
            await asyncio.sleep(0)
            stepped.step(count)
            return call

        first, second = ctx.open(prompt).fork(2)
        call = await run(first, passes)
        cut(call, first, stepped)
        await asyncio.gather(call, return_exceptions=True)
        assert usage.prefilled_tokens == min(16 * passes, 50) and usage.reused_tokens == 0
        await (await run(second, 12))  # goes on with the same prompt
        assert (usage.prefilled_tokens, usage.reused_tokens) == (50, 0)
        await (await run(ctx.open(prompt), 12))  # finds it
        assert usage.prefilled_tokens + usage.reused_tokens == 100 and usage.reused_tokens >= 48


@pytest.mark.parametrize(
    ("limits", "window", "finish"),
    [
        ({"total_tokens": 5}, 4096, Finish.TOTAL_TOKENS),
        ({"critical_tokens": 5}, 4096, Finish.CRITICAL_TOKENS),
        ({}, 6, Finish.CONTEXT),
    ],
)
async def test_without_room_for_a_token_the_engine_is_not_asked(limits, window, finish):
    engine = Dear(lambda _: "abc", ends=False, context_limit=window)
    async with context(engine, **limits) as ctx:
        branch = ctx.open([4])
        done = [await branch.generate(SamplingParams(max_tokens=limit)) for limit in (5, 3, None)]
        assert [one.finish for one in done] == [Finish.LENGTH, finish, finish]
        assert [len(one.token_ids) for one in done] == [5, 0, 0]
        assert ctx.state.usage.prefilled_tokens == 1
        assert (await branch.generate(SamplingParams(max_tokens=0))).finish is Finish.LENGTH
        assert ctx.state.usage.prefilled_tokens == 2  # which is a way to compute the context


@pytest.mark.parametrize("name", ["total_tokens", "critical_tokens"])
@pytest.mark.parametrize(("first", "second"), [(20, 0), (14, 6), (4, 16)])
async def test_generations_under_way_at_once_keep_within_the_budget(name, first, second):
    async with context(Dear(lambda _: "abc", ends=False), **{name: 20}) as ctx:
        one, two, three = ctx.open([4]).fork(3)
        both = asyncio.gather(*(b.generate(SamplingParams(max_tokens=n)) for b, n in ((one, first), (two, 20))))
        await asyncio.sleep(0)
        assert three.room == 0
        # Parts run beside it, not behind it; tokens in total are spent once.
        beside = 20 if name == "critical_tokens" else 0
        assert ctx.share(1) == beside and await ctx.parallel(_room, [three]) == [beside]
        with ctx.on(ctx.engine) as part:
            assert await _room(part, part.open([4])) == beside
        done = await both
        assert [len(one.token_ids) for one in done] == [first, second] and done[1].finish == name
        assert getattr(ctx.state.usage, name) == 20 and three.room == 0


async def test_parts_spend_what_a_generation_beside_them_may():
    async with context(Dear(lambda _: "abc", ends=False), critical_tokens=20) as ctx:
        one, two = ctx.open([4]).fork(2)
        background = asyncio.create_task(one.generate(SamplingParams()))
        await asyncio.sleep(0)
        (part,) = await ctx.parallel(lambda _, branch: branch.generate(SamplingParams(max_tokens=6)), [two])
        assert [len((await background).token_ids), len(part.token_ids)] == [20, 6]


async def test_generations_of_few_tokens_run_at_once_where_there_is_room():
    async with context(Dear(lambda _: "abc", ends=False), critical_tokens=20) as ctx:
        branches = ctx.open([4]).fork(2)
        done = await asyncio.gather(*(branch.generate(SamplingParams(max_tokens=4)) for branch in branches))
        assert [(one.finish, len(one.token_ids)) for one in done] == [(Finish.LENGTH, 4)] * 2


async def test_what_a_generation_did_not_spend_is_there_again():
    async with context(ScriptedEngine(lambda _: "abc"), critical_tokens=20) as ctx:
        branch = ctx.open([4])
        await branch.generate(SamplingParams(max_tokens=18))
        assert ctx.critical_left == branch.room == 20 - len("abc.")


async def _room(part, branch):
    return branch.room


async def test_text_is_announced_token_by_token_and_the_end_behind_it():
    async with context(ScriptedEngine(["abcd"], seconds_per_token=1e-4)) as ctx:
        reader = ctx.state.hub.subscribe()
        branch = ctx.open([4])
        call = asyncio.create_task(branch.generate(SamplingParams()))
        texts = []
        async for event in reader:
            if isinstance(event, Text):
                texts.append((event.text, event.tokens))
            elif isinstance(event, Stopped):
                break
        assert texts == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
        assert (event.reason, event.tokens) == ("eos", 5)
        await call


def close(branch):
    branch.close()


def prune(branch):
    branch.prune("enough")


def prune_and_close(branch):
    branch.prune("enough")
    branch.close()


def endless(is_native):
    if is_native:
        return NativeEngine(MODEL, IdTokenizer(MODEL.vocab_size), NativeOptions(kv_tokens=4096))
    return ScriptedEngine(lambda _: "abc", ends=False, seconds_per_token=1e-3)


def sampled(ctx):
    pieces = [piece for segment in ctx.state.trace.segments for piece in segment.pieces]
    return [len(piece.token_ids) for piece in pieces if piece.kind == "sampled"]


@pytest.mark.parametrize("end", [close, prune, prune_and_close])
@pytest.mark.parametrize("is_native", [True, False])
async def test_what_was_sampled_before_the_branch_was_closed_is_spent_and_recorded(is_native, end):
    engine = endless(is_native)
    await engine.start()
    async with context(engine, total_tokens=1000) as ctx:
        reader = ctx.state.hub.subscribe()
        branch = ctx.open([4])
        call = asyncio.create_task(branch.generate(SamplingParams(ignore_eos=True)))
        announced = 0
        async for event in reader:
            announced += event.tokens if isinstance(event, Text) else 0
            if announced >= 3:
                break
        end(branch)
        with pytest.raises(BranchClosed):
            await call
        announced += sum(event.tokens for event in iter(reader.get_nowait, None) if isinstance(event, Text))
        used = ctx.state.usage.generated_tokens
        assert used == ctx.ledger.spent == 1000 - ctx.ledger.left == ctx.now >= announced >= 3
        assert sampled(ctx) == [used]


@pytest.mark.parametrize("is_native", [True, False])
async def test_what_was_sampled_before_a_part_pruned_its_branch_is_spent_and_recorded(is_native):
    engine = endless(is_native)
    await engine.start()
    async with context(engine, total_tokens=1000) as ctx:
        reader = ctx.state.hub.subscribe()

        async def work(part, _):
            branch = part.open([4])
            call = asyncio.create_task(branch.generate(SamplingParams(ignore_eos=True)))
            while not isinstance(await anext(reader), Text):
                pass
            branch.prune("enough")
            return call  # the part closes the branch once more before it ends

        (call,) = await ctx.parallel(work, [0])
        with pytest.raises(BranchClosed):
            await call
        assert sampled(ctx) == [ctx.state.usage.generated_tokens]
