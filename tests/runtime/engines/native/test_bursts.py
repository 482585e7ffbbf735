"""Bursts of steps: the same tokens, scores, ends and blocks as one step at a time."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plait.runtime.engine import Completion, FinishReason, SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.generation import NativeGeneration
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.scheduler import Scheduler
from plait.runtime.errors import BranchClosed
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny

EOS = 7


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny("qwen3", tie_word_embeddings=True)[1]


def _engine(folder: Path, *, is_bursting: bool = True, **options: Any) -> NativeEngine:
    options.setdefault("kv_tokens", 8192)
    engine = NativeEngine(load_model(folder), IdTokenizer(131, (EOS,)), NativeOptions(**options))
    assert engine.scheduler.max_steps > 1
    if not is_bursting:
        engine.scheduler.max_steps = 1
    return engine


def _sampling(rng: random.Random) -> dict[str, Any]:
    """Greedy or drawn; with log-probabilities, likeliest others and certainty, or without."""
    shape: dict[str, Any] = {
        "temperature": rng.choice([0.0, 0.7, 1.5]), "top_k": rng.choice([0, 5]), "top_p": rng.choice([1.0, 0.8]),
        "min_p": rng.choice([0.0, 0.02]),
    }  # fmt: skip
    shape["logprobs"] = rng.choice([None, None, 0, 0, 2])
    return {**shape, "certainty": rng.random() < 0.3}


def _prompt(n: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(131) for _ in range(n)]


async def _close(engine: NativeEngine) -> None:
    await engine.close()
    engine.store.check_integrity()
    assert engine.block_usage().used == 0


async def _scenario(engine: NativeEngine, seed: int) -> list[Completion]:
    """Forks of one prompt and branches of their own, at all offsets in their blocks, that come late, end by EOS, stop
    ids and strings and limits, and go on after their end; one is closed on the way. Last, one alone. What of their
    prompts others had computed before is a matter of time, and left out."""
    rng = random.Random(seed)
    await engine.start()
    root = engine.open(_prompt(rng.randrange(1, 40), seed))
    branches = [*root.fork(4), *(engine.open(_prompt(rng.randrange(1, 40), i), job=str(i % 2)) for i in range(4))]

    async def one(i: int) -> list[Completion]:
        own = random.Random(f"{seed}:{i}")
        branch = branches[i]
        done = []
        for turn in range(2):
            for _ in range(own.randrange(4)):
                await asyncio.sleep(0)
            params = SamplingParams(
                max_tokens=own.randrange(1, 60),
                ignore_eos=own.random() < 0.5,
                stop_token_ids=tuple(own.sample(range(131), own.choice([0, 2]))),
                stop=(f"{own.randrange(131)}.",) if own.random() < 0.3 else (),
                **_sampling(own),
            )
            generation = branch.generate(params)
            if own.random() < 0.2:
                async for _ in generation:
                    pass
            done.append(await generation)
            branch.extend(_prompt(own.randrange(1, 5), turn))
        return done

    doomed = root.fork(1)[0]
    generation = doomed.generate(SamplingParams(max_tokens=300, ignore_eos=True))
    results = await asyncio.gather(*(one(i) for i in range(len(branches))))
    assert isinstance(generation, NativeGeneration)
    if generation.is_done:  # before the others, on a busy machine
        doomed.close()
        doomed = root.fork(1)[0]
        generation = doomed.generate(SamplingParams(max_tokens=300, ignore_eos=True))
    doomed.close()
    with pytest.raises(BranchClosed):
        await generation
    last = await branches[0].generate(SamplingParams(max_tokens=40, ignore_eos=True))
    for branch in (root, *branches):
        branch.close()
    await _close(engine)
    everything = [*(completion for done in results for completion in done), last]
    return [replace(completion, prefilled_tokens=0, reused_tokens=0) for completion in everything]


@pytest.mark.parametrize("seed", range(6))
async def test_same_as_one_step_at_a_time(folder: Path, bursts: list[int], seed: int) -> None:
    expected = await _scenario(_engine(folder, is_bursting=False), seed)
    assert not bursts
    assert await _scenario(_engine(folder), seed) == expected
    assert max(bursts) > 1
    reasons = {completion.finish_reason for completion in expected}
    assert FinishReason.LENGTH in reasons and len(reasons) > 1


async def test_whole_numbers_shape_a_burst_as_others_do(folder: Path, bursts: list[int]) -> None:
    found = []
    for temperature, shape in ((1.0, {"top_p": 1.0, "min_p": 0.0}), (1, {"top_p": 1, "min_p": 0}), (1, {})):
        engine = _engine(folder)
        await engine.start()
        branch = engine.open(_prompt(9, 0), seed=3)
        params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=temperature, **shape)
        found.append((await branch.generate(params)).token_ids)
        branch.close()
        await _close(engine)
    assert bursts and found[0] == found[1] == found[2]


async def test_bursts_up_to_where_a_window_cuts(bursts: list[int]) -> None:
    """Bursts while every key is inside the window, single steps from there on."""
    folder = tiny("mistral", sliding_window=50)[1]
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    tokens = []
    for is_bursting in (False, True):
        engine = _engine(folder, is_bursting=is_bursting)
        await engine.start()
        branches = [engine.open(_prompt(n, n)) for n in (9, 20)]
        tokens.append([(await branch.generate(params)).token_ids for branch in branches])
        tokens[-1] += [c.token_ids for c in await asyncio.gather(*(branch.generate(params) for branch in branches))]
        for branch in branches:
            branch.close()
        await _close(engine)
    assert tokens[0] == tokens[1]
    assert max(bursts) > 1 and bursts.count(1) >= 60 + 20 + 9


@pytest.mark.parametrize("logprobs", [None, 0])
async def test_sampled_bursts_up_to_where_a_window_cuts(bursts: list[int], logprobs: int | None) -> None:
    folder = tiny("mistral", sliding_window=50)[1]
    params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.0, top_k=20, logprobs=logprobs)
    done = []
    for is_bursting in (False, True):
        engine = _engine(folder, is_bursting=is_bursting)
        await engine.start()
        branch = engine.open(_prompt(9, 9))
        done.append(await branch.generate(params))
        branch.close()
        await _close(engine)
    assert done[0] == done[1]
    assert max(bursts) > 1 and bursts.count(1) >= 9


async def test_a_burst_ends_with_a_stop(folder: Path, bursts: list[int]) -> None:
    """Nothing is decoded behind a stop id, so the blocks hold what one step at a time leaves."""
    engine = _engine(folder)
    await engine.start()
    branch = engine.open(_prompt(20, 0))
    free = (await branch.generate(SamplingParams(max_tokens=60, ignore_eos=True))).token_ids
    at = next(i for i in range(20, 60) if free[i] not in free[:i])
    bursts.clear()
    again = engine.open(_prompt(20, 0))
    got = await again.generate(SamplingParams(max_tokens=60, ignore_eos=True, stop_token_ids=(free[at],)))
    assert got.token_ids == free[: at + 1] and got.stop == free[at]
    assert sum(bursts) <= at + 1
    await _close(engine)


async def test_what_each_step_takes_is_noted(folder: Path, bursts: list[int]) -> None:
    engine = _engine(folder, draft_rows=0)
    noted: list[tuple[int, float]] = []
    engine.scheduler.model_pace.note = lambda rows, seconds: noted.append((rows, seconds))  # type: ignore[method-assign]
    commit = engine.scheduler.commit

    def counted(*arguments: Any, **options: Any) -> Any:
        bursts.append(1)  # a step apart
        return commit(*arguments, **options)

    engine.scheduler.commit = counted  # type: ignore[method-assign]
    await engine.start()
    began = time.perf_counter()
    await engine.open(_prompt(20, 0)).generate(SamplingParams(max_tokens=200, ignore_eos=True))
    took = time.perf_counter() - began
    await _close(engine)
    assert [rows for rows, _ in noted] == [20, *[1] * (len(bursts) - 1)]
    assert sum(bursts) == 200 and max(bursts) > 4
    # Of a burst what one of its steps took: many times as much as there was, if it were of all.
    assert sum(n * seconds for n, (_, seconds) in zip(bursts, noted, strict=True)) <= took


async def test_a_single_step_tells_how_long_the_next_ones_take(folder: Path) -> None:
    """Else who streams would stay at single steps behind a long one."""
    engine = _engine(folder)
    await engine.start()
    engine.scheduler.step_seconds = 60.0
    await engine.open(_prompt(20, 0)).generate(SamplingParams(max_tokens=1))
    await _close(engine)  # what a step took is noted behind its result
    assert 0 < engine.scheduler.step_seconds < 60


async def test_who_comes_waits_for_one_step(folder: Path, bursts: list[int]) -> None:
    """A generation that is submitted ends the burst under way; those that ask for more than a token and how likely it
    is take one step at a time."""
    engine = _engine(folder)
    await engine.start()
    # Before the first step is planned, and so before any burst begins.
    engine.scheduler.interrupt.value = 1
    plan = engine.scheduler.plan

    def interrupted() -> Any:
        planned = plan()
        engine.scheduler.interrupt.value = 1
        return planned

    engine.scheduler.plan = interrupted  # type: ignore[method-assign]
    await engine.open(_prompt(20, 0)).generate(SamplingParams(max_tokens=40, ignore_eos=True))
    assert set(bursts) == {1}
    engine.scheduler.plan = plan  # type: ignore[method-assign]
    bursts.clear()
    for asked in ({"logprobs": 2}, {"hidden_state": True}, {"forced": (5,)}, {"logit_bias": {3: 1.0}}):
        params: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, **asked}
        await engine.open(_prompt(20, 1)).generate(SamplingParams(**params))
    assert not bursts
    await _close(engine)


@pytest.mark.parametrize(("seconds", "longest"), [(0.0, 4), (0.009, 2), (0.5, 1)])
async def test_who_reads_each_token_does_not_wait_for_many(
    folder: Path, bursts: list[int], seconds: float, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seconds`: what a step takes."""
    monkeypatch.setattr(Scheduler, "step_seconds", property(lambda _: seconds, lambda *_: None), raising=False)
    engine = _engine(folder)
    await engine.start()
    async for _ in engine.open(_prompt(20, 2)).generate(SamplingParams(max_tokens=40, ignore_eos=True)):
        pass
    # The first ones may begin before anybody iterates; single steps are no bursts.
    assert max(bursts[4:], default=1) == longest
    await _close(engine)


async def test_no_blocks_ahead_when_memory_is_short(folder: Path) -> None:
    """Two branches fill the store to its last slot, which blocks kept ahead would not let them."""
    expected = {}
    for kv_tokens in (8192, 128):
        engine = _engine(folder, kv_tokens=kv_tokens)
        await engine.start()
        branches = [engine.open(_prompt(16, i)) for i in range(2)]
        params = SamplingParams(max_tokens=49, ignore_eos=True)
        got = await asyncio.gather(*(b.generate(params) for b in branches))
        assert [c.finish_reason for c in got] == [FinishReason.LENGTH] * 2
        expected[kv_tokens] = [c.token_ids for c in got]
        for b in branches:
            b.close()
        await _close(engine)
    assert expected[8192] == expected[128]
