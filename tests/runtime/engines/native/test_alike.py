"""Prompts that begin alike and come at the same time: each block of them is computed once, and nothing else changes."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import SamplingParams
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_pressure import close, engine, prompt


def computed(stepped: Stepped) -> int:
    """Rows of prompts."""
    return sum(count for step in stepped.steps for _, count in step.prefills)


@pytest.mark.parametrize("prefill_chunk", [40, 64, 512])
@pytest.mark.parametrize("num_jobs", [1, 2, 5])
async def test_what_prompts_have_in_common_is_computed_once(prefill_chunk, num_jobs):
    stepped = Stepped(kv_tokens=8192, prefill_chunk=prefill_chunk)
    common = prompt(200)
    everybody = [
        stepped.generate([*common, *prompt(9, i)], max_tokens=3, job=str(i % num_jobs), path=(i,)) for i in range(5)
    ]
    stepped.until(lambda: all(g.is_done for g in everybody))
    blocks = len(common) // 16 * 16
    ends = 5 * (len(common) + 9 - blocks)
    # Where two take turns, what is not a whole block yet is written by each.
    assert blocks + ends <= computed(stepped) <= blocks + ends + (16 * 200 // prefill_chunk if num_jobs > 1 else 0)
    for i, g in enumerate(everybody):
        assert g.num_prefilled + g.num_reused >= len(common) + 9
        alone = Stepped(kv_tokens=8192)
        lonely = alone.generate([*common, *prompt(9, i)], max_tokens=3, path=(i,))
        alone.until(lambda g=lonely: g.is_done)
        assert lonely.sampled == g.sampled
        lonely.branch.close()
        await alone.close()
    stepped.native.store.check_integrity()
    assert stepped.native.block_usage().used < 30  # one copy of what is common, and what each has of its own
    for g in everybody:
        g.branch.close()
    await stepped.close()


async def test_who_looks_on_computes_its_own():
    stepped = Stepped(kv_tokens=8192)
    seen = stepped.native.open(prompt(20), job="a")  # not computed, so there is nothing to see
    looking = [stepped.native.open([5], job="a", path=(i,)) for i in range(2)]
    for branch in looking:
        branch.watch(seen)
        branch.extend(prompt(100))
    both = [branch.generate(SamplingParams(max_tokens=2, ignore_eos=True)) for branch in looking]
    stepped.until(lambda: all(g.is_done for g in both))
    assert computed(stepped) == 2 * (1 + 100)
    for branch in (seen, *looking):
        branch.close()
    await stepped.close()


async def test_nobody_waits_for_little_or_for_who_is_not_computed():
    stepped = Stepped(kv_tokens=8192)
    everybody = [stepped.generate([*prompt(40), *prompt(40, i)], max_tokens=1, job=str(i)) for i in range(3)]
    assert stepped.step() == [{"0": 80, "1": 80, "2": 80}]
    for g in everybody:
        g.branch.close()
    first = stepped.generate(prompt(300, 7), max_tokens=1, job="a")
    second = stepped.generate(prompt(300, 7), max_tokens=1, job="b")
    first.branch.close()
    assert stepped.step() == [{"b": 300}]
    third = stepped.generate([*prompt(300, 7), 1], max_tokens=1, job="c")
    assert second.is_done and third.num_reused == 288
    for g in (second, third):
        g.branch.close()
    await stepped.close()


@pytest.mark.parametrize(
    ("common", "own", "steps"),
    [(64, 40, [104, 40]), (64, 0, [64, 16]), (63, 40, [206]), (80, 3, [83, 3]), (48, 0, [96])],
)
async def test_what_is_worth_waiting_for_is_four_blocks(common, own, steps):
    stepped = Stepped(kv_tokens=8192)
    pair = [stepped.generate([*prompt(common), *prompt(own, i)], max_tokens=1, path=(i,)) for i in range(2)]
    stepped.until(lambda: all(g.is_done for g in pair))
    assert [sum(count for _, count in step.prefills) for step in stepped.steps] == steps
    for g in pair:
        g.branch.close()
    await stepped.close()


async def test_who_has_found_what_another_wrote_is_waited_for_in_turn():
    stepped = Stepped(kv_tokens=8192)
    short = stepped.generate([*prompt(64), *prompt(6, 9)], max_tokens=1, path=(1,))
    pair = [stepped.generate([*prompt(192), *prompt(5, i)], max_tokens=1, path=(2, i)) for i in range(2)]
    stepped.until(lambda: all(g.is_done for g in pair))
    assert [sum(count for _, count in step.prefills) for step in stepped.steps] == [70, 192 - 64 + 5, 5]
    for g in (short, *pair):
        g.branch.close()
    await stepped.close()


async def test_prompts_that_stand_at_different_places_of_a_block_wait_too():
    stepped = Stepped(kv_tokens=8192, prefill_chunk=24)
    first = stepped.generate(prompt(300), max_tokens=1, path=(1,))
    stepped.step()
    second = stepped.generate(prompt(310), max_tokens=1, path=(2,))
    assert (first.num_prefilled, second.num_reused) == (24, 16)
    stepped.scheduler._planner.prefill_chunk = 512
    stepped.until(lambda: second.is_done)
    assert [sum(count for _, count in step.prefills) for step in stepped.steps] == [24, 276, 310 - 288]
    for g in (first, second):
        g.branch.close()
    await stepped.close()


async def test_who_goes_first_is_not_kept_waiting_for_who_comes_behind():
    """The second prompt is urgent: the first one goes on with what that computes."""
    stepped = Stepped(kv_tokens=8192, prefill_chunk=64)
    slow = stepped.generate(prompt(400), max_tokens=1, job="a")
    stepped.step()
    urgent = stepped.generate([*prompt(400), 3], max_tokens=1, job="b", priority=1)
    assert urgent.num_reused == 64
    stepped.step(-(-(401 - 64) // 64) + 1)
    assert urgent.is_done
    stepped.until(lambda: slow.is_done)
    assert computed(stepped) <= 400 + 2 * 16 and slow.num_prefilled < 100
    for g in (slow, urgent):
        g.branch.close()
    await stepped.close()


async def test_what_is_found_in_the_swap_space_is_brought_back_first():
    stepped = Stepped(kv_tokens=320)  # 20 blocks
    old = stepped.generate(prompt(119, 1), max_tokens=36, job="old")
    stepped.step(26)
    first = stepped.generate(prompt(192), max_tokens=0, job="a")  # then stands by, and is moved out
    second = stepped.generate([*prompt(192), *prompt(78, 5)], max_tokens=31, job="b")
    stepped.until(lambda: second in stepped.pressure.suspended)
    stepped.until(lambda: old.is_done)
    old.branch.close()
    stepped.until(lambda: second.is_done)
    assert (len(second.sampled), second.num_reused + second.num_prefilled) == (31, 192 + 78)
    sampled = second.sampled
    for g in (first, second):
        g.branch.close()
    alone = Stepped(kv_tokens=8192)
    same = alone.generate([*prompt(192), *prompt(78, 5)], max_tokens=31)
    alone.until(lambda: same.is_done)
    assert same.sampled == sampled
    await alone.close()
    await stepped.close()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.sampled_from([32, 96, 128, 176]), st.integers(1, 90)), min_size=2, max_size=5),
    chunk=st.sampled_from([16, 24, 512]),
    swap_tokens=st.sampled_from([0, 64, 512]),
    before=st.integers(0, 40),
)
async def test_each_token_of_a_prompt_is_counted_once_whatever_becomes_of_it(lengths, chunk, swap_tokens, before):
    stepped = Stepped(kv_tokens=320, prefill_chunk=chunk, swap_tokens=swap_tokens)
    old = stepped.generate(prompt(150, 1), max_tokens=100, job="old")
    stepped.step(before)
    given = [[*prompt(common), *prompt(own, i)] for i, (common, own) in enumerate(lengths)]
    everybody = [stepped.generate(text, max_tokens=5 + i, job=f"{i}") for i, text in enumerate(given)]
    for _ in range(3000):
        for g in [old, *everybody]:
            if g.is_done and not g.branch.is_closed:
                g.branch.close()
        if all(g.is_done for g in everybody):
            break
        stepped.step()
    for text, g in zip(given, everybody, strict=True):
        assert len(g.sampled) >= 5 and g.num_prefilled + g.num_reused == len(text)
    await stepped.close()


async def attempts(seed: int, *, kv_tokens: int, swap_tokens: int, at_once: bool) -> list[list[int]]:
    """Branches of some texts that begin alike, each in turns that others say too, some cancelled on the way."""
    rng = random.Random(seed)
    texts = [prompt(rng.choice([32, 64, 200, 300])) for _ in range(2)]
    native = engine(kv_tokens=kv_tokens, swap_tokens=swap_tokens, prefill_chunk=rng.choice([24, 64, 512]))
    await native.start()

    async def one(i: int) -> list[int]:
        rng = random.Random(seed * 100 + i)
        text = [*texts[i % 2], *prompt(rng.choice([1, 20, 70]), i % 3)]
        branch = native.open(text, path=(i,), seed=seed, job=str(i % 4), priority=i % 5 // 4)
        found: list[int] = []
        try:
            for turn in range(2):
                if i % 4 == 1:
                    branch.rewind(branch.length - rng.randrange(9))  # of what is not computed yet
                params = SamplingParams(max_tokens=rng.randrange(1, 20), temperature=float(i % 2), ignore_eos=True)
                generation = branch.generate(params)
                if i % 6 == 5 and at_once:
                    await asyncio.sleep(0)
                    return []
                found += (await generation).token_ids
                branch.extend(prompt(80, turn))
                if i % 3 == 0:
                    branch.rewind(branch.length - rng.randrange(60))
        finally:
            branch.close()  # which cancels what runs
        return found

    runs = [one(i) for i in range(12)]
    found = list(await asyncio.gather(*runs)) if at_once else [await run for run in runs]
    await close(native)
    return [tokens for i, tokens in enumerate(found) if i % 6 != 5]


@pytest.mark.parametrize("seed", range(6))
async def test_tokens_are_those_of_one_after_the_other(seed):
    expected = await attempts(seed, kv_tokens=16384, swap_tokens=0, at_once=False)
    for kv_tokens, swap_tokens in ((16384, 0), (1024, 1024), (1024, 0)):
        assert await attempts(seed, kv_tokens=kv_tokens, swap_tokens=swap_tokens, at_once=True) == expected


@pytest.mark.parametrize("prefill_chunk", [16, 512])
@pytest.mark.parametrize("rewound", [0, 5])
@pytest.mark.parametrize("is_closed", [False, True])
async def test_who_looks_on_sees_as_much_whether_it_was_found_or_computed(is_closed, rewound, prefill_chunk):
    results = []
    for finds in (True, False):
        stepped = Stepped(kv_tokens=8192, prefill_chunk=prefill_chunk)
        first = stepped.generate(prompt(70), max_tokens=0)
        stepped.until(lambda g=first: g.is_done)
        if not finds:
            stepped.native.store.match = lambda lineage, tokens: []
        shown = stepped.generate(prompt(70), max_tokens=3, path=(1,))
        stepped.until(lambda g=shown: g.is_done)
        shown.branch.rewind(shown.branch.length - rewound)
        shown.branch.extend([1, 2])  # what nobody has computed is not seen
        watcher = stepped.native.open(prompt(20, 1), path=(2,))
        watcher.watch(shown.branch)
        if is_closed:
            shown.branch.close()
        watcher.extend([3])
        looks = watcher.generate(SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0))
        stepped.until(lambda g=looks: g.is_done)
        results.append((shown.num_reused > 0, looks.sampled, looks.logprobs, watcher.view.own.seen))
        stepped.native.store.check_integrity()
        for branch in (first.branch, shown.branch, watcher):
            branch.close()
        await stepped.close()
    assert [found for found, *_ in results] == [True, False]
    assert results[0][1:] == results[1][1:]


async def test_nothing_is_computed_of_what_was_watched_and_is_gone():
    """Its blocks would be held for nobody."""
    native = engine(kv_tokens=8192)
    await native.start()
    first, shown, reader = (native.open(prompt(70), path=(i,)) for i in range(3))
    for branch in (first, shown, reader):
        await branch.generate(SamplingParams(max_tokens=1, ignore_eos=True))
    (watcher,) = reader.fork(1)
    watcher.watch(shown)  # what was found of it is to be computed for whoever looks on
    watcher.extend([1, 2, 3])
    reader.merge([watcher])
    for branch in (first, shown, watcher):
        branch.close()
    reader.extend([4])
    assert len((await reader.generate(SamplingParams(max_tokens=2, ignore_eos=True))).token_ids) == 2
    reader.close()
    await close(native)
