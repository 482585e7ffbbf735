"""Methods and helpers for the tests of runtime and jobs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Literal

from plait import (
    Budget,
    Context,
    Method,
    Outcome,
    Runtime,
    SamplingParams,
    ScriptedEngine,
    Sequential,
    TracedBranch,
    register,
)
from plait.runtime.budget import Ledger
from plait.runtime.event_queue import EventHub
from plait.runtime.jobs.state import JobState
from plait.runtime.trace.trace import Trace


@asynccontextmanager
async def context(engine, **limits):
    """A root context as a job makes it, and everything closed afterwards."""
    budget = Budget(**limits)
    state = JobState(engine, Trace(), EventHub(), job="test", budget=budget, seed=0, priority=0)
    try:
        yield Context(state, ledger=Ledger(budget.total_tokens), critical_limit=budget.critical_tokens)
    finally:
        state.finish()
        await engine.close()


async def run(method, script, *, engine=None, seed=0, priority=0, trace_file=None, **limits):
    """Run one job on a scripted engine; returns (result, engine)."""
    engine = engine or ScriptedEngine(script)
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(method, budget=Budget(**limits), seed=seed, priority=priority, trace_file=trace_file)
        result = await job
    assert not engine.branches
    return result, engine


@register
class Nested(Method):
    """Two methods one after the other, then one inside each of two parts."""

    method: Literal["test_nested"] = "test_nested"

    async def run(self, ctx: Context) -> Outcome:
        first = await ctx.run(Sequential(prompt="first"))
        second = await ctx.run(Sequential(prompt="second"))

        async def part(part: Context, prompt: str) -> Outcome:
            return await part.run(Sequential(prompt=prompt))

        inner = await ctx.parallel(part, ["third", "fourth"])
        texts = [first.text, second.text, *(outcome.text for outcome in inner if outcome)]
        return Outcome(text=" ".join(texts), answer=None, finish=first.finish)


@register
class Greedy(Method):
    """Injects more than any budget allows, without looking."""

    method: Literal["test_greedy"] = "test_greedy"

    async def run(self, ctx: Context) -> Outcome:
        branch = ctx.open(ctx.tokenizer.encode("p"))
        await branch.generate(SamplingParams(max_tokens=3))
        branch.extend([5] * 1000)
        raise AssertionError("not reached")


@register
class Busy(Method):
    """Forks, nests and waits, so that a cancellation can hit it anywhere."""

    method: Literal["test_busy"] = "test_busy"

    async def run(self, ctx: Context) -> Outcome:
        root = ctx.open(ctx.tokenizer.encode("p"))
        await root.generate(SamplingParams(max_tokens=4))
        forks = root.fork(3)

        async def leaf(part: Context, number: int) -> int:
            branch = part.open(part.tokenizer.encode(str(number)))
            return len((await branch.generate(SamplingParams(max_tokens=4))).token_ids)

        async def middle(part: Context, branch: TracedBranch) -> int:
            await branch.generate(SamplingParams(max_tokens=5))
            return sum(n or 0 for n in await part.parallel(leaf, [1, 2]))

        await ctx.parallel(middle, forks)
        root.merge(forks)
        root.extend([5])
        result = await root.generate(SamplingParams(max_tokens=4))
        await asyncio.sleep(0)
        return Outcome(text=result.text, answer=None, finish=result.finish)
