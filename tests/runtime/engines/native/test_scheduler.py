"""What steps are filled with, and what becomes of their results, pass by pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plait import BranchClosed, FinishReason, SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_pressure import engine, prompt


def decoding(stepped: Stepped, jobs: str, **options: Any) -> list[Any]:
    """Generations that have begun, one for each letter."""
    found = [stepped.generate(prompt(9, i), job=job, **options) for i, job in enumerate(jobs)]
    stepped.until(lambda: all(g.sampled for g in found))
    return found


# -- who is in a step --------------------------------------------------------------------------------------------------


def rows(stepped: Stepped, count: int) -> Counter[str]:
    return sum(map(Counter, stepped.step(count)), Counter())


async def test_jobs_get_equal_parts_however_many_branches_they_have():
    stepped = Stepped(kv_tokens=2048, max_rows=2)
    decoding(stepped, "aaaabc")
    assert max(rows(stepped, 30).values()) <= min(rows(stepped, 30).values()) + 2
    await stepped.close()


async def test_a_higher_priority_is_in_every_step_and_comes_into_full_ones():
    stepped = Stepped(kv_tokens=2048, max_rows=2)
    decoding(stepped, "ab")
    urgent = stepped.generate(prompt(9, 5), job="c", priority=1)
    assert stepped.step(5) == [{"c": 2}] * 4 + [{"c": 1, "a": 1}] or urgent.sampled
    assert rows(stepped, 20) == {"a": 10, "b": 10, "c": 20}
    await stepped.close()


async def test_whoever_comes_gets_into_full_steps_without_any_priority():
    stepped = Stepped(kv_tokens=2048, max_rows=4)
    decoding(stepped, "abcd")
    new = stepped.generate(prompt(20, 5), job="e")
    stepped.step(30)  # 20 rows in its fifth part of 4 a step
    assert new.sampled and len(stepped.scheduler.running) == 5
    await stepped.close()


async def test_the_nearest_deadline_goes_first_behind_priority():
    stepped = Stepped(kv_tokens=2048, max_rows=1)
    late, early, none = (
        stepped.generate(prompt(9, i), job=job, deadline=deadline, max_tokens=10)
        for i, (job, deadline) in enumerate([("a", 50.0), ("b", 40.0), ("c", None)])
    )
    forked = early.branch  # its forks are as urgent
    ended: list[Any] = []
    while len(ended) < 3:
        stepped.step()
        ended += [g for g in (none, late, early) if g.is_done and g not in ended]
    assert ended == [early, late, none]
    (fork,) = forked.fork(1)
    fork.extend([5])
    other = stepped.generate(prompt(9, 7), job="a", deadline=45.0)
    urgent = stepped.generate(prompt(9, 8), job="d", priority=1)
    again = fork.generate(SamplingParams(max_tokens=5, ignore_eos=True))
    assert sorted([other, again, urgent], key=stepped.pressure.age) == [urgent, again, other]
    order = stepped.scheduler.running.in_order(Counter())
    assert [g for peers in order for g in peers.fresh()] == [urgent, again, other]
    await stepped.close()


async def test_a_job_that_comes_back_does_not_catch_up():
    stepped = Stepped(kv_tokens=4096, max_rows=1)
    decoding(stepped, "a")
    stepped.step(30)
    late = stepped.generate(prompt(2, 5), job="b")
    stepped.until(lambda: bool(late.sampled))
    assert 9 <= rows(stepped, 20)["b"] <= 11
    await stepped.close()


async def test_decoding_goes_before_prefills_which_take_the_rest_in_chunks():
    stepped = Stepped(kv_tokens=4096, max_rows=20, prefill_chunk=8)
    decoding(stepped, "aa")
    new = stepped.generate(prompt(30, 7), job="b")
    assert stepped.step(4) == [{"a": 2, "b": 8}] * 3 + [{"a": 2, "b": 6}]
    assert new.num_prefilled == 30 and len(new.sampled) == 1
    await stepped.close()


async def test_prompts_share_the_chunk_of_a_step():
    stepped = Stepped(kv_tokens=4096, max_rows=100, prefill_chunk=8)
    new = [stepped.generate(prompt(20, i), job=job, max_tokens=3) for i, job in enumerate("ab")]
    for step in stepped.step(5):
        assert sum(step.values()) == 8
    stepped.until(lambda: all(g.is_done for g in new))
    assert stepped.scheduler.num_steps == len(stepped.steps)
    assert stepped.scheduler.num_rows == sum(step.num_rows for step in stepped.steps) == 2 * (20 + 2)
    await stepped.close()


async def test_what_several_wait_for_is_computed_once_and_counted_for_one():
    stepped = Stepped(kv_tokens=4096, prefill_chunk=512)
    root = stepped.native.open(prompt(50), job="a")
    found = [b.generate(SamplingParams(max_tokens=3, ignore_eos=True)) for b in root.fork(3)]
    stepped.until(lambda: all(g.is_done for g in found))
    assert sorted(g.num_prefilled for g in found) == [0, 0, 50]
    assert sum(step["a"] for step in (dict(s.jobs) for s in stepped.steps)) == 50 + 2 * 3
    await stepped.close()


async def test_a_new_prompt_leaves_a_block_to_each_that_decodes():
    stepped = Stepped(kv_tokens=160)  # 10 blocks, of which two decoding branches have one each
    decoding(stepped, "ab")
    for length, is_begun in ((16 * 7, False), (16 * 6, True)):
        new = stepped.generate(prompt(length, length), job="c")
        (rows_of,) = stepped.step()
        assert ("c" in rows_of) is is_begun and rows_of["a"] == rows_of["b"] == 1
        new.branch.close()
    await stepped.close()


# -- what becomes of a burst -------------------------------------------------------------------------------------------

_BURSTS = tiny("qwen3", tie_word_embeddings=True)[1]


def bursting(folder: Path = _BURSTS, steps: int | None = None, **options: Any) -> NativeEngine:
    native = NativeEngine(load_model(folder), IdTokenizer(131, (7,)), NativeOptions(**{"kv_tokens": 4096, **options}))
    assert native.scheduler.max_steps > 1
    native.scheduler.max_steps = steps or native.scheduler.max_steps
    return native


@pytest.mark.parametrize("include_stop", [False, True])
@pytest.mark.parametrize("at", range(21, 25))
async def test_a_branch_goes_on_behind_a_stop_string_that_cut_a_burst_short(at, include_stop, bursts):
    """What was decoded behind the stop is neither in the branch nor taken for computed."""
    tokens = []
    for steps in (1, None):
        native = bursting(steps=steps)
        await native.start()
        free = await native.open(prompt(20)).generate(SamplingParams(max_tokens=40, ignore_eos=True))
        branch = native.open(prompt(20))
        stop = "".join(f"{token}." for token in free.token_ids[at - 1 : at + 1])
        params = SamplingParams(max_tokens=40, ignore_eos=True, stop=(stop,), include_stop=include_stop)
        first = await branch.generate(params)
        assert first.finish_reason is FinishReason.STOP and len(first.token_ids) <= at + include_stop
        own = branch.view.own
        assert own.computed <= len(own.tokens)
        branch.extend(prompt(3, at))
        second = await branch.generate(SamplingParams(max_tokens=30, ignore_eos=True))
        again = native.open(branch.tokens[: -len(second.token_ids)])
        native.store.evict_all()
        assert (await again.generate(SamplingParams(max_tokens=30, ignore_eos=True))).token_ids == second.token_ids
        tokens.append((first.token_ids, second.token_ids))
        await native.close()
    assert tokens[0] == tokens[1] and max(bursts) > 1


@pytest.mark.parametrize("what", ["stop", "close", "rewind"])
async def test_a_generation_that_is_stopped_while_its_burst_runs(what, bursts):
    """The branch keeps what it had before, and goes on from that; its neighbour does not notice."""
    native = bursting()
    stepped = Stepped(native)
    alone = stepped.generate(prompt(20, 1), max_tokens=60)
    stepped.until(lambda: alone.is_done)
    expected = alone.sampled
    doomed, other = stepped.generate(prompt(20, 0)), stepped.generate(prompt(20, 1), max_tokens=60)
    stepped.until(lambda: len(doomed.sampled) > 20)
    had, decode = list(doomed.sampled), native.model.decode

    def interrupted(*args: Any, **options: Any) -> Any:
        sampled = decode(*args, **options)
        assert len(sampled.tokens) > 1
        doomed.stop()
        if what == "close":
            doomed.branch.close()
        if what == "rewind":
            doomed.branch.rewind(24)
        native.model.decode = decode
        return sampled

    native.model.decode = interrupted
    stepped.until(lambda: native.model.decode is decode)
    with pytest.raises(BranchClosed):
        await doomed
    assert doomed.sampled == had and max(bursts) > 1
    if what != "close":
        branch = doomed.branch
        kept = [*prompt(20, 0), *had][: 24 if what == "rewind" else None]
        assert branch.tokens == kept and branch.view.own.computed <= len(branch.view.own.tokens)
        branch.extend([5, 6])
        again = branch.generate(SamplingParams(max_tokens=20, ignore_eos=True))
        stepped.until(lambda: again.is_done)
        branch.close()
    stepped.until(lambda: other.is_done)
    assert other.sampled == expected
    if what != "close":
        native.store.evict_all()
        fresh = stepped.generate([*kept, 5, 6], max_tokens=20)
        stepped.until(lambda: fresh.is_done)
        assert fresh.sampled == again.sampled
    await stepped.close()


async def test_a_burst_is_never_longer_than_anybody_has_left(bursts):
    native = bursting()
    stepped = Stepped(native)
    short, long = stepped.generate(prompt(9, 0), max_tokens=6), stepped.generate(prompt(9, 1), max_tokens=40)
    stepped.until(lambda: short.is_done)
    assert len(short.sampled) == len(long.sampled) == 6 and sum(bursts) <= 6
    assert long.branch.view.own.pending == 1  # all but the last is computed, and is not again
    stepped.until(lambda: long.is_done)
    assert len(long.sampled) == 40 and max(bursts) == native.scheduler.max_steps
    await stepped.close()


async def test_where_blocks_are_short_one_step_is_taken_in_place_of_a_burst(bursts):
    def decode(kv_tokens: int, seeds: list[int]) -> list[list[int]]:
        native = bursting(kv_tokens=kv_tokens, swap_tokens=0)
        stepped = Stepped(native)
        both = [stepped.generate(prompt(9 + 3 * seed, seed), max_tokens=20, path=(seed,)) for seed in seeds]
        for _ in both:
            stepped.until(lambda: any(g.is_done and not g.branch.is_closed for g in both))
            for g in both:
                if g.is_done:
                    g.branch.close()
        native.store.check_integrity()
        return [g.sampled for g in both]

    expected = [decode(4096, [seed])[0] for seed in range(2)]
    bursts.clear()
    # Several steps would need two blocks where one is left, which the longer one needs at once.
    assert decode(48, [0, 1]) == expected and max(bursts) > 1


async def test_who_waits_for_each_token_or_a_stop_string_gets_short_bursts(bursts):
    native = bursting()
    await native.start()
    branch = native.open(prompt(9))
    await branch.generate(SamplingParams(max_tokens=40, ignore_eos=True, stop=("never",)))
    assert max(bursts) == 4
    await native.close()


async def test_a_step_that_is_taken_again_sees_that_another_branch_has_given_blocks_back():
    """As many as its own branches have taken since, so that there are no more and no fewer."""
    found = []
    for closes_at in (None, *range(13, 18)):
        stepped = Stepped(kv_tokens=1024)
        other = stepped.generate(prompt(33), max_tokens=0)
        stepped.until(lambda g=other: g.is_done)
        (branch,) = other.branch.fork(1)
        branch.rewind(20)
        branch.extend([6])
        g = branch.generate(SamplingParams(max_tokens=40, ignore_eos=True))
        stepped.until(lambda g=g, at=closes_at: len(g.sampled) == at or g.is_done)
        other.branch.close()
        assert closes_at is None or stepped.native.block_usage().used == 2 + -(-closes_at // 16)
        stepped.until(lambda g=g: g.is_done)
        found.append(g.sampled)
        branch.close()
        await stepped.close()
    assert all(one == found[0] for one in found)


async def test_cousins_sample_different_texts():
    """The whole path is in the seed: not only its end, and not its numbers run together."""
    native = engine(kv_tokens=4096)
    await native.start()
    params = SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True)
    paths = [(0, 0), (1, 0), (0, 1), (1, 1), (0,), (1,), (0, 0, 0), (11,), (1, 11), (11, 1), (1, 1, 1)]
    done = [await native.open(prompt(9), path=path, seed=3).generate(params) for path in paths]
    assert len({tuple(one.token_ids) for one in done}) == len(paths)
    root = native.open(prompt(9), path=(4,), seed=3)
    cousins = [one for child in root.fork(2) for one in child.fork(2)]
    done = [await one.generate(params) for one in cousins]
    assert len({tuple(one.token_ids) for one in done}) == 4
    await native.close()
