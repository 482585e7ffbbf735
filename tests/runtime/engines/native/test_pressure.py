"""Too little memory for all that runs: nobody's tokens change, everybody ends, nothing leaks."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

import plait
from plait import FinishReason, SamplingParams
from plait.benchmarks.pressure import COUNTDOWN, methods, run
from plait.runtime.engines.native import pressure
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.hogwild.oracle import ToyTokenizer

TOKENIZER = ToyTokenizer()
_, FOLDER = tiny("llama", vocab_size=TOKENIZER.vocab_size, max_position_embeddings=1024, seed=8)
MODEL = load_model(FOLDER)


def engine(**options) -> NativeEngine:
    return NativeEngine(MODEL, TOKENIZER, NativeOptions(**options))


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(TOKENIZER.vocab_size) for _ in range(length)]


async def close(native: NativeEngine) -> None:
    """Nothing is left anywhere."""
    usage = native.block_usage()
    assert usage.used == 0 and usage.free + usage.cached == usage.total
    assert native.store.num_swapped == 0 and native.store.swap is not None and native.store.swap.used == 0
    assert not native.scheduler.pressure.suspended
    native.store.check_integrity()
    await native.close()


async def generate(native: NativeEngine, params: list[SamplingParams]) -> list[list[int]]:
    branches = [native.open(prompt(20 + 7 * i, i), path=(i,), seed=i, job=str(i % 3)) for i in range(len(params))]
    done = await asyncio.gather(*(_await(b.generate(p)) for b, p in zip(branches, params, strict=True)))
    assert {c.finish_reason for c in done} <= {FinishReason.LENGTH}
    for branch in branches:
        branch.close()
    return [c.token_ids for c in done]


async def _await(generation):
    return await generation


@pytest.mark.parametrize(("at_once", "most"), [(128, 11), (3, 3)])
async def test_branches_that_only_stand_by_are_not_looked_at_for_every_block(monkeypatch, at_once, most):
    """Thousands of samples that have ended and are still open: each look at all of them makes room for several, but not
    for so many that the event loop waits."""
    native, moved = engine(kv_tokens=320 * 16, block_size=16, swap_tokens=1 << 15), []
    holders = type(native.store).holders

    def counted(store):
        moved.append(store.num_swapped)
        return holders(store)

    monkeypatch.setattr(type(native.store), "holders", counted)
    monkeypatch.setattr(pressure, "_AT_ONCE", at_once)
    await native.start()
    branches = [native.open(prompt(12, seed)) for seed in range(800)]
    for branch in branches:
        await branch.generate(SamplingParams(max_tokens=2, ignore_eos=True))
    assert native.store.num_swapped > 400 and max(b - a for a, b in pairwise(moved)) == most
    for branch in branches:
        branch.close()
    await close(native)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_generations_that_do_not_fit_together_wait_and_go_on(temperature):
    params = [SamplingParams(max_tokens=60 + 9 * i, temperature=temperature, ignore_eos=True) for i in range(12)]
    large = engine(kv_tokens=8192)
    await large.start()
    expected = await generate(large, params)
    assert large.scheduler.pressure.num_preemptions == 0
    await close(large)
    for kv_tokens in (272, 400, 640):  # the largest takes 256
        small = engine(kv_tokens=kv_tokens)
        await small.start()
        assert await generate(small, params) == expected
        assert small.scheduler.pressure.num_preemptions > 0
        assert small.store.swap is not None and 0 < small.store.swap.moved_in <= small.store.swap.moved_out
        await close(small)


async def test_what_only_idle_branches_hold_is_moved_out_before_anybody_waits():
    native = engine(kv_tokens=320)
    await native.start()
    idle = [native.open(prompt(60, i)) for i in range(4)]
    for branch in idle:
        await branch.generate(SamplingParams(max_tokens=0))
    big = native.open(prompt(200, 9))
    done = await big.generate(SamplingParams(max_tokens=40, ignore_eos=True))
    assert (done.finish_reason, done.preemptions) == (FinishReason.LENGTH, 0)
    assert native.block_usage().used < 20 and native.store.num_swapped > 0
    native.store.check_integrity()
    # Edited while they are away: cut, forked, merged, extended, closed.
    idle[0].rewind(37)
    idle[1].rewind(0)
    idle[1].extend(prompt(30, 77))
    parent, other = idle[2], native.open(prompt(60, 3))
    left, right = parent.fork(2)
    left.extend(prompt(5, 5))
    right.extend(prompt(6, 6))
    await asyncio.gather(*(_await(b.generate(SamplingParams(max_tokens=5))) for b in (left, right)))
    parent.merge([left, right])
    parent.extend(prompt(3, 3))
    idle[3].close()
    found = []
    for branch in (idle[0], idle[1], parent, other):
        found.append((await branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))).token_ids)
        native.store.check_integrity()
    for branch in (*idle, big, left, right, other):
        branch.close()
    await close(native)

    free = engine(kv_tokens=8192)
    await free.start()
    one, two, parent = free.open(prompt(60, 0)[:37]), free.open(prompt(30, 77)), free.open(prompt(60, 2))
    left, right = parent.fork(2)
    left.extend(prompt(5, 5))
    right.extend(prompt(6, 6))
    await asyncio.gather(*(_await(b.generate(SamplingParams(max_tokens=5))) for b in (left, right)))
    parent.merge([left, right])
    parent.extend(prompt(3, 3))
    branches = (one, two, parent, free.open(prompt(60, 3)))
    for branch, tokens in zip(branches, found, strict=True):
        assert (await branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))).token_ids == tokens
    for branch in (*branches, left, right):
        branch.close()
    await close(free)


async def test_what_was_cached_and_is_used_again_is_moved_like_anything_else():
    found = []
    for kv_tokens in (8192, 320):
        native = engine(kv_tokens=kv_tokens)
        await native.start()
        first = native.open(prompt(100))
        await first.generate(SamplingParams(max_tokens=20, ignore_eos=True))
        first.close()  # its full blocks are cached, the others are gone
        again = native.open(prompt(100))
        early = native.open([*prompt(100)[:40], 5])
        assert again.reused_tokens == 96 and early.reused_tokens == 32
        big = native.open(prompt(200, 9))
        assert (await big.generate(SamplingParams(max_tokens=60, ignore_eos=True))).finish_reason is FinishReason.LENGTH
        assert (native.store.num_swapped > 0) == (kv_tokens == 320)
        found.append([(await b.generate(SamplingParams(max_tokens=20))).token_ids for b in (again, early)])
        native.store.check_integrity()
        for branch in (again, early, big):
            branch.close()
        await close(native)
    assert found[0] == found[1]


async def test_nothing_of_earlier_texts_is_in_the_way_of_one_that_begins_alike():
    params = SamplingParams(max_tokens=200, temperature=1.0, ignore_eos=True)
    native = engine(kv_tokens=512)
    await native.start()
    reused = []
    for seed in range(4):
        branch = native.open(prompt(256), seed=seed)
        reused.append(branch.reused_tokens)
        assert (await branch.generate(params)).finish_reason is FinishReason.LENGTH
        assert native.block_usage().used == 29
        branch.close()
    assert reused == [0, 240, 240, 240]
    await close(native)


async def test_what_a_branch_wrote_that_is_closed_serves_those_who_go_on_with_its_beginning():
    native = engine(kv_tokens=512)
    await native.start()
    writer = native.open(prompt(64), job="a")
    await writer.generate(SamplingParams(max_tokens=200, ignore_eos=True))
    reader = native.open([*prompt(40), 5], job="b")
    assert (native.block_usage("a").used, native.block_usage("b").used) == (17, 2)
    writer.close()
    assert native.block_usage().used == 2
    done = await reader.generate(SamplingParams(max_tokens=440, ignore_eos=True))
    assert done.finish_reason is FinishReason.LENGTH
    reader.close()
    await close(native)


async def turns(native: NativeEngine, seed: int, priority: int) -> list[tuple[list[int], list[float] | None]]:
    """What one says in two turns, with a fork that does not see the second. What it begins with others say, too."""
    rng = random.Random(seed)
    params = [
        SamplingParams(max_tokens=rng.randrange(1, 70), temperature=float(seed % 2), ignore_eos=True, logprobs=logprobs)
        for logprobs in (0, None, 0)
    ]
    text = [*prompt(rng.choice([0, 20, 48, 64])), *prompt(rng.randrange(1, 40), seed)]
    branch = native.open(text, path=(seed,), seed=seed, job=str(seed), priority=priority)
    first = await branch.generate(params[0])
    (fork,) = branch.fork(1) if seed % 3 == 0 else (None,)
    branch.extend(prompt(9, seed))
    found = [first, await branch.generate(params[1])]
    branch.close()
    if fork is not None:
        fork.extend([1])
        found.append(await fork.generate(params[2]))
        fork.close()
    assert {one.finish_reason for one in found} == {FinishReason.LENGTH}
    return [(one.token_ids, one.logprobs) for one in found]


@pytest.mark.parametrize("swap_tokens", [0, 64, 256])
@pytest.mark.parametrize("first", [0, 100])
async def test_where_the_swap_space_is_full_what_was_written_is_computed_again(swap_tokens, first):
    async def everybody(**options: int) -> tuple[list[object], int]:
        native = engine(draft_rows=16, **options)
        await native.start()
        found = await asyncio.gather(*(turns(native, first + i, i % 5 // 4) for i in range(12)))
        assert native.store.swap is not None and native.store.swap.moved_out * 16 >= min(swap_tokens, 1)
        num_preemptions = native.scheduler.pressure.num_preemptions
        await close(native)
        return list(found), num_preemptions

    native = engine(kv_tokens=8192, draft_rows=16)
    await native.start()
    expected = [await turns(native, first + i, 0) for i in range(12)]
    await close(native)
    for kv_tokens in (288, 480):
        found, num_preemptions = await everybody(kv_tokens=kv_tokens, swap_tokens=swap_tokens)
        assert found == expected and num_preemptions > 0


async def test_only_who_is_alone_and_larger_than_the_store_ends_for_lack_of_memory():
    native = engine(kv_tokens=160)
    await native.start()
    big, small = native.open(prompt(40, 1), job="a"), native.open(prompt(40, 2), job="b")
    generations = (
        big.generate(SamplingParams(max_tokens=400, ignore_eos=True)),
        small.generate(SamplingParams(max_tokens=60, ignore_eos=True)),
    )
    first, second = await asyncio.gather(*map(_await, generations))
    assert first.finish_reason is FinishReason.MEMORY and len(first.token_ids) > 100
    assert second.finish_reason is FinishReason.LENGTH
    big.close()
    small.close()
    await close(native)


async def test_priority_goes_first():
    native = engine(kv_tokens=256)
    await native.start()
    low = [native.open(prompt(40, i), job=f"low{i}") for i in range(3)]
    waiting = [asyncio.ensure_future(_await(b.generate(SamplingParams(max_tokens=90, ignore_eos=True)))) for b in low]
    high = native.open(prompt(100, 9), job="high", priority=1)
    done = await high.generate(SamplingParams(max_tokens=120, ignore_eos=True))
    assert done.preemptions == 0 and not all(w.done() for w in waiting)
    assert all(c.finish_reason is FinishReason.LENGTH for c in await asyncio.gather(*waiting))
    for branch in (*low, high):
        branch.close()
    await close(native)


async def test_many_samples_in_a_store_for_some_of_them():
    method = plait.SelfConsistency(prompt="seq 24 : 8 3 1 ;", n=64, max_tokens=100, temperature=1.0, answer="countdown")
    texts = []
    for kv_tokens in (65536, 1024):
        async with plait.Runtime("countdown", kv_tokens=kv_tokens) as runtime:
            result = await (await runtime.submit(method, seed=3))
            # In the order of branches: that of segments is the one in which they were written.
            texts.append(sorted((segment.branch, segment.token_ids) for segment in result.trace.segments))
            assert (result.usage.preemptions > 0) == (kv_tokens == 1024)
            assert result.finish_reason is not plait.Finish.MEMORY
            runtime.engine.store.check_integrity()
    assert texts[0] == texts[1]


@pytest.mark.timeout(300)
async def test_jobs_of_all_methods_say_the_same_in_a_store_for_few_of_them():
    jobs = methods(COUNTDOWN, 30)
    alone = await run(COUNTDOWN, "auto", jobs, 262144, 1)
    assert alone.preemptions == 0
    for kv_tokens in (1536, 3072):
        crowded = await run(COUNTDOWN, "auto", jobs, kv_tokens, len(jobs))
        assert crowded.preemptions > 10 and crowded.moved > 10
        different = [(type(job).__name__, i) for i, job in enumerate(jobs) if alone.said[i] != crowded.said[i]]
        assert not different
