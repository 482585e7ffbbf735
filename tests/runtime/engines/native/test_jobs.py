"""Many jobs at once on the native engine: nothing is lost, nothing leaks, whatever is cancelled when."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref

import pytest

import plait
from plait.evals.benchmarks.countdown.problems import validation
from plait.runtime.methods.apr.compact import CompactDialect


def _method(rng: random.Random, problem) -> plait.Method:
    def prompt(mode: str) -> str:
        return CompactDialect().root_prompt(problem.nums, problem.target, mode)

    kind = rng.choice(["sequential", "self_consistency", "apr", "apr"])
    context = rng.choice([None, 40, 128, 512])
    if kind == "sequential":
        return plait.Sequential(prompt=prompt("seq"), answer="countdown", context_limit=context, max_tokens=200)
    if kind == "self_consistency":
        return plait.SelfConsistency(
            prompt=prompt("seq"), n=rng.randint(1, 5), answer="countdown", context_limit=context, max_tokens=100
        )
    return plait.APR(
        prompt=prompt("apr"),
        dialect="compact",
        depth=rng.choice([0, 1, 2]),
        context_limit=context,
        max_children=rng.choice([None, 3]),
        verify_join=rng.random() < 0.5,
        cancel_siblings=rng.random() < 0.5,
        temperature=rng.choice([0.0, 1.0]),
    )


def _budget(rng: random.Random) -> plait.Budget:
    return plait.Budget(
        total_tokens=rng.choice([None, 50, 1000]),
        critical_tokens=rng.choice([None, 60, 400]),
        seconds=rng.choice([None, 0.05, 2.0]),
        width=rng.choice([None, 2, 8]),
    )


@pytest.mark.timeout(240)
async def test_two_hundred_random_jobs_leave_nothing_behind():
    rng = random.Random(0)
    problems = validation(4, 150) + validation(3, 50)
    threads = threading.active_count()
    tasks = asyncio.all_tasks()
    # A store so small that eviction, waiting and giving way all happen.
    async with plait.Runtime("countdown", kv_tokens=4096) as runtime:
        engine = runtime.engine

        async def one(problem) -> str:
            job = await runtime.submit(_method(rng, problem), budget=_budget(rng), seed=rng.randrange(100))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.1)
                job.cancel("the test says so")
            try:
                return (await job).finish_reason.value
            except asyncio.CancelledError:
                return "cancelled"

        reasons = await asyncio.gather(*(one(problem) for problem in problems))
        assert len(reasons) == 200
        assert len(set(reasons)) >= 4
        engine.store.check_integrity()
        usage = engine.block_usage()
        assert (usage.used, usage.free + usage.cached) == (0, usage.total)
        assert engine.num_branches == 0
        assert not runtime.jobs
        still_works = await runtime.submit(plait.Sequential(prompt="seq 24 : 8 3 1 ;", answer="countdown"))
        assert (await still_works).usage.generated_tokens > 0
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() == threads


async def test_the_same_job_gives_the_same_tokens_whatever_else_runs():
    problem = validation(4, 1)[0]
    prompt = CompactDialect().root_prompt(problem.nums, problem.target, "apr")
    # Hot enough for the seed to matter: the model is all but certain of every token.
    method = plait.APR(prompt=prompt, dialect="compact", temperature=3.0, max_tokens=120)

    def tokens(result: plait.Result) -> list[list[int]]:
        return sorted(segment.token_ids for segment in result.trace.segments)

    async with plait.Runtime("countdown") as runtime:
        alone = await (await runtime.submit(method, seed=7))
        jobs = [await runtime.submit(method, seed=seed) for seed in (1, 7, 3)]
        crowded = [await job for job in jobs]
    assert tokens(crowded[1]) == tokens(alone)
    assert tokens(crowded[0]) != tokens(alone)


async def test_memory_goes_with_the_engine():
    """Not when garbage is looked for next: the next model needs it, and a process with so much cannot be forked."""
    gc.collect()
    gc.disable()
    try:
        async with plait.Runtime("countdown", kv_tokens=4096) as runtime:
            pool = weakref.ref(runtime.engine.pool)
            problem = validation(4, 1)[0]
            prompt = CompactDialect().root_prompt(problem.nums, problem.target, "apr")
            await (await runtime.submit(plait.APR(prompt=prompt, dialect="compact")))
        del runtime
        await asyncio.sleep(0)
        assert pool() is None
    finally:
        gc.enable()
