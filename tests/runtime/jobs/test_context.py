"""Contexts: paths, both ledgers, shares, width, deadline, and who closes what."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest

from plait import Finish, InvalidBudget, InvalidInput, SamplingParams, ScriptedEngine
from plait.runtime.errors import BranchClosed, OutOfBudget
from plait.runtime.jobs.branch import AT_A_TIME
from plait.tests.runtime.tools import Greedy, Nested, context, run


def engine(text="x" * 40, **options):
    return ScriptedEngine(lambda _: text, **options)


def start(ctx, text="p"):
    return ctx.open(ctx.tokenizer.encode(text))


def tokens(n):
    return SamplingParams(max_tokens=n)


async def test_paths_follow_program_order_and_never_collide():
    async with context(engine()) as ctx:
        first = start(ctx)
        forks = first.fork(2)

        async def part(inner, item):
            return start(inner).path, start(inner).path

        parts = await ctx.parallel(part, ["a", "b"])
        second = start(ctx)
        paths = [first.path, *(fork.path for fork in forks), *parts[0], *parts[1], second.path]
        assert paths == [(0,), (0, 0), (0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2,)]


@pytest.mark.parametrize("n", [1, AT_A_TIME, 3 * AT_A_TIME + 1])
async def test_forking_many_is_forking_with_turns_for_others_in_between(n):
    async with context(engine()) as ctx, context(engine()) as other:
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await asyncio.sleep(0)
        turns = 0
        emitted = []
        ctx.emit = lambda cls, **values: emitted.append((cls, values))
        other.emit = lambda cls, **values: expected.append((cls, values))
        expected = []
        many, plain = await start(ctx).fork_many(n), start(other).fork(n)
        counting.cancel()
        assert turns == (n - 1) // AT_A_TIME
        assert [branch.path for branch in many] == [branch.path for branch in plain]
        assert emitted == expected


async def test_critical_path_adds_along_and_takes_the_longest_across():
    async with context(engine()) as ctx:
        root = start(ctx)
        await root.generate(tokens(5))

        async def part(inner, n):
            branch = start(inner, "child")
            branch.extend([7])
            await branch.generate(tokens(n))

        await ctx.parallel(part, [3, 9, 1])
        root.join([8, 8], {})
        await root.generate(tokens(4))
        usage = ctx.state.usage
        assert (usage.critical_tokens, ctx.now) == (5 + (1 + 9) + 2 + 4,) * 2
        assert (usage.generated_tokens, usage.injected_tokens) == (5 + 13 + 4, 3 + 2)
        assert usage.total_tokens == ctx.ledger.spent == 27
        assert usage.prompt_tokens == 2 + 3 * 6


async def test_total_budget_is_never_exceeded_and_shares_are_equal():
    async with context(engine(), total_tokens=50) as ctx:
        root = start(ctx)
        await root.generate(tokens(10))

        async def part(inner, item):
            result = await start(inner).generate(tokens(100))
            return len(result.token_ids), result.finish

        assert ctx.share(3, 10) == 10
        results = await ctx.parallel(part, [1, 2, 3], reserve=10)
        assert results == [(10, Finish.TOTAL_TOKENS)] * 3
        assert (await root.generate(tokens(100))).finish is Finish.TOTAL_TOKENS
        assert (await root.generate(tokens(100))).token_ids == []
        assert ctx.state.usage.total_tokens == 50


async def test_shares_do_not_depend_on_who_is_first():
    async with context(engine(), total_tokens=30) as ctx:

        async def part(inner, delay):
            await asyncio.sleep(delay)
            first = await start(inner).generate(tokens(4))
            second = await start(inner).generate(tokens(100))
            return len(first.token_ids), len(second.token_ids)

        assert await ctx.parallel(part, [0.01, 0.0, 0.005]) == [(4, 6)] * 3


async def test_what_a_part_leaves_comes_back():
    async with context(engine("abc"), total_tokens=40) as ctx:

        async def part(inner, item):
            await start(inner).generate(tokens(100))

        await ctx.parallel(part, [1, 2])
        assert ctx.ledger.left == 40 - 2 * len("abc.")


async def test_concurrent_generations_of_one_context_cannot_overdraw():
    async with context(engine(), total_tokens=20) as ctx:
        one, two = start(ctx), start(ctx)
        await asyncio.gather(one.generate(tokens(15)), two.generate(tokens(15)))
        assert ctx.state.usage.total_tokens == 20


async def test_critical_budget_limits_chains_not_parts():
    async with context(engine(), critical_tokens=20) as ctx:

        async def part(inner, item):
            return (await start(inner).generate(tokens(100))).finish

        assert await ctx.parallel(part, range(5), reserve=8) == [Finish.CRITICAL_TOKENS] * 5
        assert ctx.critical_left == 8
        result = await start(ctx).generate(tokens(100))
        assert (len(result.token_ids), result.finish) == (8, Finish.CRITICAL_TOKENS)
        assert ctx.state.usage.total_tokens == 5 * 12 + 8


async def test_injecting_past_the_budget_raises_before_anything_changes():
    async with context(engine(), total_tokens=5) as ctx:
        branch = start(ctx)
        assert branch.room == 5
        with pytest.raises(OutOfBudget):
            branch.extend([7] * 6)
        assert branch.length == 2 and ctx.ledger.left == 5
        branch.extend([])


async def test_a_method_that_overspends_ends_with_a_reason():
    result, _ = await run(Greedy(), ["x" * 9], total_tokens=10)
    assert (result.finish_reason, result.answer, result.usage.total_tokens) == (Finish.TOTAL_TOKENS, None, 3)
    result, _ = await run(Greedy(), ["x" * 9], critical_tokens=3)
    assert result.finish_reason is Finish.CRITICAL_TOKENS


async def test_width_limits_decoding_branches_and_changes_no_result():
    results = {}
    for width in (1, 2, None):
        scripted = engine()
        async with context(scripted, **({"width": width} if width else {})) as ctx:

            async def part(inner, n):
                return (await start(inner).generate(tokens(n))).text

            results[width] = await ctx.parallel(part, [3, 4, 5, 6])
        assert scripted.peak_running == (width or 4)
    assert results[1] == results[2] == results[None]


async def test_deadline_stops_what_runs_and_keeps_it():
    async with context(engine("x" * 4000, seconds_per_token=0.001), seconds=0.03) as ctx:
        branch = start(ctx)
        result = await branch.generate(tokens(4000))
        assert result.finish is Finish.DEADLINE and 0 < len(result.token_ids) < 100
        assert branch.length == 2 + len(result.token_ids) and ctx.ledger.spent == len(result.token_ids)
        again = await branch.generate(tokens(10))
        assert (again.finish, again.token_ids) == (Finish.DEADLINE, [])


async def test_waiting_for_width_ends_at_the_deadline_too():
    async with context(engine("x" * 4000, seconds_per_token=0.001), seconds=0.03, width=1) as ctx:

        async def part(inner, item):
            return (await start(inner).generate(tokens(4000))).finish

        assert await ctx.parallel(part, [1, 2, 3]) == [Finish.DEADLINE] * 3


async def test_parts_close_their_own_branches_and_leave_lent_ones():
    scripted = engine()
    async with context(scripted, total_tokens=100) as ctx:
        root = start(ctx)
        forks = root.fork(2)

        async def part(inner, branch):
            start(inner)
            assert branch.scope is inner
            await branch.generate(tokens(5))
            return branch

        assert await ctx.parallel(part, forks) == forks
        assert len(scripted.branches) == 3 and all(fork.scope is ctx for fork in forks)
        root.merge(forks)
        assert root.length == 12


async def test_a_failing_part_stops_the_others_and_raises_its_own_error():
    scripted = engine("x" * 1000)
    async with context(scripted, total_tokens=3000) as ctx:

        async def part(inner, item):
            branch = start(inner)
            if item == 1:
                await asyncio.sleep(0.001)
                raise ValueError("broken")
            await branch.generate(tokens(1000))

        with pytest.raises(ValueError, match="broken"):
            await ctx.parallel(part, [0, 1, 2])
        assert not scripted.branches
        assert ctx.ledger.left == 3000 - ctx.state.usage.total_tokens


async def test_until_cancels_the_rest():
    scripted = engine("x" * 1000)
    async with context(scripted) as ctx:

        async def part(inner, n):
            return len((await start(inner).generate(tokens(n))).token_ids)

        assert await ctx.parallel(part, [900, 3, 900], until=lambda n: n == 3) == [None, 3, None]
        finishes = [record.finish for record in ctx.state.trace.branches.values()]
        assert finishes == ["cancelled", "length", "cancelled"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(InvalidInput("mine"), InvalidInput), (KeyError("mine"), KeyError), (SystemExit("mine"), InvalidInput)],
)
async def test_what_until_raises_is_the_parts_error(error, kind):
    scripted = engine("x" * 1000)
    async with context(scripted, total_tokens=3000) as ctx:

        async def part(inner, n):
            return len((await start(inner).generate(tokens(n))).token_ids)

        def until(n):
            raise error

        with pytest.raises(kind, match="mine"):
            await ctx.parallel(part, [900, 3, 900], until=until)
        finishes = [record.finish for record in ctx.state.trace.branches.values()]
        assert finishes == ["cancelled", "length", "cancelled"] and not scripted.branches
        assert ctx.ledger.left == 3000 - ctx.state.usage.total_tokens


async def test_many_parts_keep_their_order_and_share_the_loop():
    """Begun at most 32 in a turn of the loop, so that others have a turn in between."""
    async with context(engine("ab"), total_tokens=100 * 50) as ctx:
        began: list[int] = []
        turns = [0]

        async def tick():
            while True:
                turns.append(len(began))
                await asyncio.sleep(0)

        async def part(inner, item):
            began.append(item)
            await start(inner).generate(tokens(2))
            return item, inner.path

        ticking = asyncio.create_task(tick())
        results = await ctx.parallel(part, range(100))
        ticking.cancel()
        assert results == [(i, (0, i)) for i in range(100)] and began == list(range(100))
        steps = [after - before for before, after in zip(turns, turns[1:], strict=False)]
        assert max(steps) == 32 and [step for step in steps if step] == [32, 32, 32, 4]
        assert ctx.ledger.left == 100 * (50 - 2)


async def test_parts_that_come_too_late_are_not_begun():
    async with context(engine(), total_tokens=1000) as ctx:
        began = []

        async def part(inner, item):
            began.append(item)
            if item:
                await asyncio.sleep(60)
            return item

        results = await ctx.parallel(part, range(100), until=lambda item: item == 0)
        assert results == [0] + [None] * 99 and began == [0]
        assert ctx.ledger.left == 1000


async def test_no_more_step_together_than_may_decode():
    gangs: list[str | None] = []
    async with context(engine(), width=2) as ctx:
        branches = [start(ctx) for _ in range(3)]
        for branch in branches:
            branch.lockstep = gangs.append
        with pytest.raises(InvalidBudget, match="3 branches .* budget.width is 2"):
            async with ctx.lockstep(branches):
                pytest.fail("entered")
        assert not gangs
        async with ctx.lockstep(branches[:2]):
            assert gangs == ["3", "3"]
        assert gangs == ["3", "3", None, None]
    async with context(engine()) as ctx:  # no width, no bound
        branches = [start(ctx) for _ in range(3)]
        for branch in branches:
            branch.lockstep = gangs.append
        async with ctx.lockstep(branches):
            assert gangs[4:] == ["3", "3", "3"]


@pytest.mark.parametrize("how", ["itself", "part", "part of a part"])
async def test_what_has_no_place_beside_the_gangs_around_is_refused(how):
    async with asyncio.timeout(60), context(engine(), width=3) as ctx:
        one, two, three, four = (start(ctx) for _ in range(4))
        for branch in (one, two, three, four):
            branch.lockstep = lambda gang: None

        async def use(part, depth):
            if depth:
                return await part.parallel(use, [depth - 1])
            with pytest.raises(InvalidBudget, match="2 branches .* beside the 2 .* budget.width is 3"):
                async with part.lockstep([three, four]):
                    pytest.fail("entered")
            assert (await three.generate(tokens(1))).finish is Finish.LENGTH
            async with part.lockstep([three]):
                with pytest.raises(InvalidBudget, match="a branch is to generate beside the 3 .* budget.width is 3"):
                    await four.generate(tokens(1))
            return None

        async with ctx.lockstep([one, two]):
            await use(ctx, ["itself", "part", "part of a part"].index(how))
        async with ctx.lockstep([three, four]):
            pass


async def test_gangs_are_left_in_any_order():
    async with asyncio.timeout(60), context(engine(), width=2) as ctx:
        branches = [start(ctx) for _ in range(2)]
        for branch in branches:
            branch.lockstep = lambda gang: None
        gangs = [ctx.lockstep([branch]) for branch in branches]
        for gang in gangs:
            await gang.__aenter__()
        for gang in gangs:
            await gang.__aexit__(None, None, None)
        async with ctx.lockstep(branches):
            pass


async def test_a_task_that_was_begun_inside_a_gang_waits_for_its_end():
    async with asyncio.timeout(60), context(engine(), width=1) as ctx:
        one, two = start(ctx), start(ctx)
        one.lockstep = lambda gang: None
        async with ctx.lockstep([one]):
            beside = asyncio.create_task(two.generate(tokens(1)))
            await asyncio.sleep(0)
        assert (await beside).finish is Finish.LENGTH


async def test_companions_are_the_jobs_or_there_are_none():
    async with context(engine()) as ctx:
        with pytest.raises(InvalidInput, match="no other model .'countdown'"):
            await ctx.companion("countdown")

        class Companions:
            async def get(self, model, **options):
                return model, options

        ctx.state.companions = Companions()
        assert await ctx.companion("countdown", kv_tokens=5) == ("countdown", {"kv_tokens": 5})


async def test_nothing_is_begun_once_the_job_has_ended():
    async with context(engine()) as ctx:
        branch = start(ctx)
        left = asyncio.create_task(start(ctx).generate(tokens(3)))
        await asyncio.sleep(0)
        ctx.state.finish()
        used = asdict(ctx.state.usage)

        async def part(inner, item):
            pytest.fail("begun")

        begin = [
            lambda: ctx.parallel(part, [1]),
            lambda: ctx.run(Nested()),
            lambda: ctx.companion("countdown"),
            lambda: asyncio.to_thread(start, ctx),
        ]
        for call in begin:
            with pytest.raises(BranchClosed, match="job test has ended"):
                await call()
        for call in (lambda: branch.fork(1), lambda: branch.extend([5]), lambda: branch.merge([])):
            with pytest.raises(BranchClosed):
                call()
        for task in (left, branch.generate(tokens(3))):
            with pytest.raises(BranchClosed):
                await task
        assert not ctx.engine.branches and asdict(ctx.state.usage) == used


async def test_methods_run_inside_methods():
    result, scripted = await run(Nested(), ["one", "two", "three", "four"])
    assert result.text == "one two three four"
    assert list(result.trace.branches) == ["0.0", "1.0", "2.0.0.0", "2.1.0.0"]
    assert result.usage.critical_tokens == len("one.two.three.")
    assert result.usage.total_tokens == len("one.two.three.four.")


async def test_engine_errors_are_noted_and_raised():
    def fail(_):
        raise OSError("engine gone")

    async with context(ScriptedEngine(fail)) as ctx:
        with pytest.raises(OSError, match="engine gone"):
            await start(ctx).generate(tokens(5))
        assert ctx.state.trace.branches["0"].error == "OSError: engine gone"
        assert ctx.state.trace.branches["0"].finish == "failed"


async def test_phases_count_overlapping_time_once():
    async with context(engine()) as ctx:

        async def part(inner, item):
            with inner.phase("wait"):
                await asyncio.sleep(0.02)

        await ctx.parallel(part, range(10))
        assert 0.015 < ctx.state.usage.phases["wait"] < 0.15


async def test_depth():
    async with context(engine(), depth=1) as ctx:
        assert ctx.may_go_deeper

        async def part(inner, item):
            return inner.may_go_deeper

        assert await ctx.parallel(part, [0]) == [True]
        assert await ctx.parallel(part, [0], nested=True) == [False]


async def test_memory_is_sampled():
    async with context(engine()) as ctx:
        await start(ctx).generate(tokens(40))
        assert ctx.state.usage.peak_kv_blocks == 3  # 42 tokens in blocks of 16


@pytest.mark.parametrize("reserve", [-1, 2.0, "2", None, True])
async def test_what_is_kept_back_is_a_number_of_tokens(reserve):
    async with context(engine(), total_tokens=20, critical_tokens=9) as ctx:
        with pytest.raises(InvalidInput, match="reserve is a number of tokens, 0 or more"):
            await ctx.parallel(start, ["a", "b"], reserve=reserve)
        with pytest.raises(InvalidInput, match="reserve is a number of tokens, 0 or more"):
            ctx.share(2, reserve)
        assert ctx.ledger.left == 20 and ctx.share(2, 2) == 7


@pytest.mark.parametrize("parts", [0, -1, 1.5])
async def test_shares_are_those_of_one_part_or_more(parts):
    async with context(engine(), total_tokens=20) as ctx:
        with pytest.raises(InvalidInput, match="1 part or more"):
            ctx.share(parts)
