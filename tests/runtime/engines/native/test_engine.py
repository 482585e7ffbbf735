"""The native engine end to end on tiny random models: tokens equal transformers', batching changes nothing."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest
import torch

from plait.runtime.engine import FinishReason, SamplingParams
from plait.runtime.engines.native.branch import NativeBranch
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.errors import BranchBusy, BranchClosed, EngineClosed, InvalidInput, OutOfBlocks, PromptTooLong
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny


def _engine(folder, *, eos: tuple[int, ...] = (), **options) -> NativeEngine:
    options.setdefault("kv_tokens", 16384)
    return NativeEngine(load_model(folder), IdTokenizer(131, eos), NativeOptions(**options))


def _prompt(n: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(131) for _ in range(n)]


def _greedy(hf_model, prompt: list[int], n: int) -> list[int]:
    out = hf_model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


class running:
    """An engine that is started, and checked for leaks at the end."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine

    async def __aenter__(self) -> NativeEngine:
        await self.engine.start()
        return self.engine

    async def __aexit__(self, *_) -> None:
        await self.engine.close()
        self.engine.store.check_integrity()
        usage = self.engine.block_usage()
        assert usage.used == 0
        assert usage.free + usage.cached == usage.total
        self.engine.store.evict_all()
        assert self.engine.block_usage().free == usage.total


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
async def test_greedy_equals_transformers_alone_in_a_crowd_and_in_chunks(family):
    hf_model, folder = tiny(family)
    prompt = _prompt(37)
    expected = _greedy(hf_model, prompt, 200)
    params = SamplingParams(max_tokens=200)
    async with running(_engine(folder)) as engine:
        alone = engine.open(prompt)
        assert (await alone.generate(params)).token_ids == expected
        crowd = [engine.open(_prompt(20 + i, seed=i + 1), job=str(i % 3)) for i in range(30)]
        others = [b.generate(SamplingParams(max_tokens=100 + 3 * i)) for i, b in enumerate(crowd)]
        crowded = engine.open(prompt, job="late")
        assert (await crowded.generate(params)).token_ids == expected
        await asyncio.gather(*others)
    async with running(_engine(folder, prefill_chunk=7, max_rows=9)) as engine:
        branches = [engine.open(prompt), engine.open(_prompt(50, seed=9))]
        results = await asyncio.gather(*(b.generate(params) for b in branches))
        assert results[0].token_ids == expected


async def test_sampling_depends_on_seed_and_path_but_not_on_the_batch():
    _, folder = tiny()
    prompt = _prompt(20)
    params = SamplingParams(max_tokens=40, temperature=1.3, top_k=40, top_p=0.95, min_p=0.01, logprobs=2)
    async with running(_engine(folder)) as engine:
        first = await engine.open(prompt, path=(1,), seed=5).generate(params)
        crowd = [engine.open(_prompt(30, seed=i), path=(i,)) for i in range(10)]
        others = [b.generate(SamplingParams(max_tokens=60, temperature=1.0)) for b in crowd]
        again = await engine.open(prompt, path=(1,), seed=5).generate(params)
        other_path = await engine.open(prompt, path=(2,), seed=5).generate(params)
        other_seed = await engine.open(prompt, path=(1,), seed=6).generate(params)
        await asyncio.gather(*others)
    assert again.token_ids == first.token_ids
    assert again.logprobs == pytest.approx(first.logprobs, abs=1e-5)
    assert len({tuple(c.token_ids) for c in (first, other_path, other_seed)}) == 3
    assert first.top_logprobs is not None
    assert all(len(top) == 2 for top in first.top_logprobs)


async def test_forks_get_different_samples_and_share_the_prompt():
    _, folder = tiny()
    async with running(_engine(folder)) as engine:
        root = engine.open(_prompt(64))
        children = root.fork(4)
        results = await asyncio.gather(*(c.generate(SamplingParams(max_tokens=20, temperature=1.0)) for c in children))
        assert len({tuple(r.token_ids) for r in results}) == 4
        assert sum(r.prefilled_tokens for r in results) == 64
        assert [c.path for c in children] == [(0,), (1,), (2,), (3,)]
        assert [b.path for b in root.fork(1)] == [(4,)]


async def test_a_prompt_that_was_seen_before_is_not_computed_again():
    _, folder = tiny()
    async with running(_engine(folder)) as engine:
        prompt = _prompt(100)
        first = engine.open(prompt)
        expected = await first.generate(SamplingParams(max_tokens=30))
        first.close()
        assert engine.block_usage().cached > 0
        again = engine.open([*prompt[:70], *_prompt(30, seed=3)])
        assert (await again.generate(SamplingParams(max_tokens=1))).reused_tokens == 64
        second = engine.open(prompt)
        result = await second.generate(SamplingParams(max_tokens=30))
        assert (result.reused_tokens, result.prefilled_tokens) == (96, 4)
        assert result.token_ids == expected.token_ids


async def test_a_beginning_that_two_computed_is_used_again_and_again():
    """The later one lets go of its copy of it, and of nothing else: not of what has no memory, which the next would
    get, and whose answers were wrong."""
    hf_model, folder = tiny()
    short, long = _prompt(24), _prompt(56)
    async with running(_engine(folder)) as engine:
        both = [engine.open(tokens) for tokens in (short, long)]  # neither knows of the other
        await asyncio.gather(*(branch.generate(SamplingParams(max_tokens=1)) for branch in both))
        for branch in both:
            branch.close()
        for number in range(3):
            prompt = [*long, *_prompt(40, seed=number)]
            branch = engine.open(prompt)
            found = await branch.generate(SamplingParams(max_tokens=12))
            assert found.reused_tokens == 48 and found.token_ids == _greedy(hf_model, prompt, 12)
            branch.close()
            engine.store.check_integrity()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
async def test_what_is_found_in_the_store_changes_no_bit(dtype):
    """Of a text, of what was forked from it, and of what was written anew from somewhere in it."""
    _, folder = tiny(dtype=dtype, hidden_size=128)
    params = SamplingParams(max_tokens=12, temperature=1.0, logprobs=1)
    prompt = _prompt(340)

    async def answers(engine: NativeEngine) -> tuple[list[object], int]:
        branch = engine.open(prompt, seed=1)
        assert isinstance(branch, NativeBranch)
        reused = branch.reused_tokens
        children = branch.fork(2)
        found = [await child.generate(params) for child in children]
        branch.rewind(205)
        found.append(await branch.generate(params))
        again = engine.open(prompt, seed=2)
        again.rewind(70)  # inside of a block, which is in the store
        found.append(await again.generate(params))
        again.rewind(64)
        found.append(await again.generate(params))
        again.rewind(48)
        again.extend(prompt[48:300])  # which is in the store, too, behind what is
        found.append(await again.generate(params))
        again.rewind(48)
        with pytest.raises(InvalidInput, match="seal or rewind"):
            again.arrange([])
        children += again.fork(1)  # from here on both write behind a fork
        for one in (again, children[-1]):
            one.extend(prompt[99:120])
            found.append(await one.generate(params))
        for one in (again, branch, *children):
            one.close()
        return [(one.token_ids, one.logprobs) for one in found], reused

    async with running(_engine(folder)) as engine:
        engine.store.match = lambda lineage, tokens: []  # finds nothing
        expected, _ = await answers(engine)
    for beginnings in ([16], [300], [48, 160], [144, 16, 272]):
        async with running(_engine(folder)) as engine:
            others = [engine.open(prompt[:length]) for length in beginnings]
            for other in others:
                await other.generate(SamplingParams(max_tokens=1))
            assert await answers(engine) == (expected, max(beginnings) // 16 * 16)
            for other in others:
                other.close()


async def test_who_watches_sees_what_was_found_in_the_store():
    _, folder = tiny()
    params = SamplingParams(max_tokens=8, temperature=1.0, logprobs=1)
    prompt, more = _prompt(50), _prompt(40, seed=1)

    async def watched(engine: NativeEngine) -> list[object]:
        writer, empty, watcher = (engine.open(tokens, seed=1) for tokens in (prompt, [], _prompt(5, seed=2)))
        watcher.watch(writer)
        watcher.watch(empty)
        empty.extend(more)
        for branch in (writer, empty):
            await branch.generate(params)
        watcher.extend([1])
        found = await watcher.generate(params)
        for branch in (writer, empty, watcher):
            branch.close()
        return [found.token_ids, found.logprobs]

    async with running(_engine(folder)) as engine:
        expected = await watched(engine)
        assert engine.block_usage().cached
        assert await watched(engine) == expected


async def test_of_whom_another_job_found_the_text_rewinds_to_the_same_bits():
    _, folder = tiny()
    params = SamplingParams(max_tokens=8, temperature=1.0, logprobs=1)
    prompt = _prompt(50)

    async def rewound(engine: NativeEngine, others: int) -> list[object]:
        branch = engine.open(prompt, seed=1)
        out = [await branch.generate(params)]
        who_find = [engine.open(prompt) for _ in range(others)]
        assert all(isinstance(one, NativeBranch) and one.reused_tokens == 48 for one in who_find)
        for length in (52, 37, 18, 2):
            branch.rewind(length)
            out.append(await branch.generate(params))
        for one in (branch, *who_find):
            one.close()
        return [(one.token_ids, one.logprobs) for one in out]

    answers = []
    for others in range(3):
        async with running(_engine(folder)) as engine:
            answers.append(await rewound(engine, others))
    assert answers[1] == answers[2] == answers[0]


async def test_who_watches_sees_a_rewind_whoever_else_found_the_text():
    _, folder = tiny()
    params = SamplingParams(max_tokens=8, temperature=1.0, logprobs=1)
    prompt = _prompt(50)

    async def watched(engine: NativeEngine, third: str) -> list[object]:
        writer, watcher = engine.open(prompt, seed=1), engine.open(_prompt(5, seed=2), seed=1)
        await writer.generate(params)
        writer.rewind(54)
        await writer.generate(SamplingParams(max_tokens=4))
        others = [engine.open(prompt)] if third == "before" else []
        watcher.watch(writer)
        others += [engine.open(prompt)] if third == "after" else []
        assert writer.length == writer.position == 58
        writer.rewind(21)
        out = [await writer.generate(params)]
        watcher.extend([1])
        out.append(await watcher.generate(params))
        for branch in (writer, watcher, *others):
            branch.close()
        engine.store.check_integrity()
        return [(one.token_ids, one.logprobs) for one in out]

    answers = []
    for third in ("", "before", "after"):
        async with running(_engine(folder)) as engine:
            answers.append(await watched(engine, third))
    assert answers[1] == answers[2] == answers[0]


async def test_the_prefix_index_never_confuses_visibility():
    """The same tokens at the same positions, written with and without sight of something else."""
    hf_model, folder = tiny()
    tail = _prompt(40, seed=5)
    async with running(_engine(folder)) as engine:
        root = engine.open(_prompt(32))
        (path,) = root.fork(1)
        path.extend(_prompt(32, seed=7))
        await path.generate(SamplingParams(max_tokens=0))
        (plain,) = root.fork(1)
        (merged,) = root.fork(1)
        (inner,) = merged.fork(1)
        inner.extend(_prompt(32, seed=8))
        await inner.generate(SamplingParams(max_tokens=0))
        merged.merge([inner])
        plain.extend(_prompt(32, seed=7))
        for branch in (merged, plain):
            branch.extend(tail)
        results = await asyncio.gather(*(b.generate(SamplingParams(max_tokens=10)) for b in (merged, plain)))
        assert results[0].reused_tokens == 0
        expected = _greedy(hf_model, [*_prompt(32), *_prompt(32, seed=7), *tail], 10)
        assert results[1].token_ids == expected


async def test_stop_strings_span_tokens_and_roll_back():
    hf_model, folder = tiny()
    prompt = _prompt(10)
    expected = _greedy(hf_model, prompt, 30)
    text = "".join(f"{t}." for t in expected)
    stop = text[len("".join(f"{t}." for t in expected[:8])) + 1 :][:5]
    at = text.index(stop)
    async with running(_engine(folder)) as engine:
        branch = engine.open(prompt)
        generation = branch.generate(SamplingParams(max_tokens=30, stop=("never", stop), logprobs=0))
        streamed = [t async for t in generation]
        result = await generation
        assert result.finish_reason is FinishReason.STOP
        assert result.stop == stop
        assert result.text == text[:at]
        assert streamed == result.token_ids == expected[: len(result.token_ids)]
        assert result.logprobs is not None
        assert len(result.logprobs) == len(result.token_ids)
        assert branch.tokens == prompt + result.token_ids
        assert result.rolled_back >= 1
        # What follows is as if nothing had been generated past the stop string.
        rest = await branch.generate(SamplingParams(max_tokens=12))
        assert result.token_ids + rest.token_ids == expected[: len(result.token_ids) + 12]

        keeping = engine.open(prompt)
        kept = await keeping.generate(SamplingParams(max_tokens=30, stop=(stop,), include_stop=True))
        assert kept.text == text[: at + len(stop)]
        assert "".join(f"{t}." for t in kept.token_ids).startswith(kept.text)


async def test_eos_stop_tokens_and_limits():
    hf_model, folder = tiny()
    prompt = _prompt(10)
    expected = _greedy(hf_model, prompt, 30)
    eos = expected[5]
    first = expected.index(eos)
    async with running(_engine(folder, eos=(eos,))) as engine:
        ended = await engine.open(prompt).generate()
        assert (ended.finish_reason, ended.stop) == (FinishReason.EOS, eos)
        assert ended.token_ids == expected[: first + 1]
        on = await engine.open(prompt).generate(SamplingParams(max_tokens=20, ignore_eos=True))
        assert (on.finish_reason, on.token_ids) == (FinishReason.LENGTH, expected[:20])
        stopped = await engine.open(prompt).generate(
            SamplingParams(ignore_eos=True, stop_token_ids=(expected[3],), max_tokens=30)
        )
        assert stopped.token_ids == expected[: expected.index(expected[3]) + 1]
        short = engine.open(prompt, context_limit=14)
        full = await short.generate(SamplingParams(ignore_eos=True))
        assert (full.finish_reason, len(full.token_ids)) == (FinishReason.CONTEXT, 4)
        assert (await short.generate()).token_ids == []
        none = await engine.open(prompt).generate(SamplingParams(max_tokens=0))
        assert (none.token_ids, none.prefilled_tokens) == ([], 10)


async def test_forbidden_ids_bias_and_penalty():
    hf_model, folder = tiny()
    prompt = _prompt(10)
    expected = _greedy(hf_model, prompt, 5)
    async with running(_engine(folder)) as engine:
        other = await engine.open(prompt).generate(SamplingParams(max_tokens=1, forbidden_ids=(expected[0],)))
        assert other.token_ids != expected[:1]
        pushed = await engine.open(prompt).generate(SamplingParams(max_tokens=3, logit_bias={7: 1e4}))
        assert pushed.token_ids == [7, 7, 7]
        penalised = await engine.open(prompt).generate(
            SamplingParams(max_tokens=40, repetition_penalty=1e6, temperature=0.0)
        )
        assert len(set(penalised.token_ids)) == 40


async def test_logprobs_are_the_models_own():
    hf_model, folder = tiny()
    prompt = _prompt(10)
    async with running(_engine(folder)) as engine:
        result = await engine.open(prompt).generate(SamplingParams(max_tokens=10, temperature=2.0, logprobs=3))
    tokens = prompt + result.token_ids
    with torch.no_grad():
        logprobs = hf_model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    for i, (token, logprob) in enumerate(zip(result.token_ids, result.logprobs or [], strict=True)):
        assert logprob == pytest.approx(float(logprobs[len(prompt) + i - 1, token]), abs=1e-4)


async def test_forced_tokens_are_taken_one_per_step_and_scored():
    hf_model, folder = tiny("llama")
    given = _prompt(12, seed=5)
    async with running(_engine(folder, eos=(given[7],))) as engine:
        branch = engine.open([5, 6, 7])
        steps = engine.scheduler.num_steps
        done = await branch.generate(SamplingParams(max_tokens=15, forced=tuple(given), logprobs=0, ignore_eos=True))
        assert done.token_ids[:12] == given and engine.scheduler.num_steps - steps == 15
        assert done.token_ids[12:] == _greedy(hf_model, [5, 6, 7, *given], 3)
        with torch.no_grad():
            scores = hf_model(torch.tensor([branch.tokens])).logits[0].log_softmax(-1)
        expected = [scores[i + 2, t].item() for i, t in enumerate(done.token_ids)]
        torch.testing.assert_close(done.logprobs, expected, atol=1e-4, rtol=1e-4)
        ended = await engine.open([5]).generate(SamplingParams(forced=tuple(given)))
        assert (ended.token_ids, ended.finish_reason) == (given[:8], FinishReason.EOS)
        with pytest.raises(InvalidInput, match="vocabulary"):
            branch.generate(SamplingParams(forced=(131,)))


async def test_rewind_drops_and_recomputes():
    hf_model, folder = tiny()
    prompt = _prompt(40)
    async with running(_engine(folder)) as engine:
        branch = engine.open(prompt)
        first = await branch.generate(SamplingParams(max_tokens=20))
        branch.rewind(40)
        second = await branch.generate(SamplingParams(max_tokens=20))
        assert second.token_ids == first.token_ids
        assert second.prefilled_tokens == 0
        (child,) = branch.fork(1)
        for target in (branch, child):
            target.rewind(25)
            target.extend([1, 2, 3])
            result = await target.generate(SamplingParams(max_tokens=10))
            assert result.token_ids == _greedy(hf_model, [*prompt[:25], 1, 2, 3], 10)
            assert result.prefilled_tokens == 3
        branch.rewind(0)
        assert (branch.length, branch.position, branch.tokens) == (0, 0, [])
        branch.extend(prompt)
        assert (await branch.generate(SamplingParams(max_tokens=20))).token_ids == first.token_ids


async def test_errors_come_before_any_work():
    _, folder = tiny()
    engine = _engine(folder, kv_tokens=256)
    with pytest.raises(EngineClosed, match="not been started"):
        engine.open([1]).generate()
    async with running(engine):
        with pytest.raises(PromptTooLong, match="512"):
            engine.open([1] * 513)
        with pytest.raises(OutOfBlocks, match="kv_tokens"):
            engine.open([1] * 300)
        with pytest.raises(InvalidInput, match="vocabulary"):
            engine.open([131])
        with pytest.raises(InvalidInput, match="context_limit"):
            engine.open([1], context_limit=0)
        branch = engine.open([1, 2, 3])
        generation = branch.generate(SamplingParams(max_tokens=400))
        # What a step of several branches would trip over.
        for ids in ([3.0], [True], [None], ["a"], torch.tensor([3])):
            with pytest.raises(InvalidInput, match="token ids are integers"):
                engine.open(ids)
        for name, values in {
            "priority": ("x", None, 1.5, True),
            "deadline": ("x", math.nan, True),
            "seed": (None, "1", 0.5),
            "context_limit": ("x", 1.5),
        }.items():
            for value in values:
                with pytest.raises(InvalidInput, match=name):
                    engine.open([1], **{name: value})
        for asked in _WHATEVER:
            with pytest.raises(BranchBusy):
                asked(branch)
        await generation.aclose()
        with pytest.raises(BranchClosed, match="stopped"):
            await generation
        with pytest.raises(InvalidInput, match="rewind"):
            branch.rewind(10_000)
        stranger = engine.open([1])
        with pytest.raises(InvalidInput, match="forked"):
            branch.merge([stranger])
        with pytest.raises(InvalidInput, match="itself"):
            branch.watch(branch)
        empty = engine.open()
        with pytest.raises(InvalidInput, match="nothing to decode"):
            empty.generate()
        (child,) = branch.fork(1)
        branch.close()
        branch.close()
        for asked in _WHATEVER:
            with pytest.raises(BranchClosed):
                asked(branch)
        for use in (child.merge, child.attach):
            with pytest.raises(BranchClosed):
                use([branch])
        with pytest.raises(BranchClosed):
            child.watch(branch)
    with pytest.raises(EngineClosed):
        engine.open([1])
    for asked in _WHATEVER:
        with pytest.raises((EngineClosed, BranchClosed)):
            asked(child)


_WHATEVER: list[Any] = [
    lambda branch: branch.extend([1]),
    lambda branch: branch.generate(),
    lambda branch: branch.fork(1),
    lambda branch: branch.merge([]),
    lambda branch: branch.attach([]),
    lambda branch: branch.attach_contexts([[1]]),
    lambda branch: branch.watch(branch),
    lambda branch: branch.rewind(0),
    lambda branch: branch.seek(3),
    lambda branch: branch.block(),
    lambda branch: branch.seal(),
    lambda branch: branch.arrange([]),
    lambda branch: branch.lockstep("together"),
]
"""All that changes a branch, or looks at it while it may change."""


async def test_a_branch_that_is_closed_is_in_no_gang_and_keeps_nobody():
    engine = _engine(tiny()[1])
    async with running(engine):
        root = engine.open(_prompt(20))
        one, other = root.fork(2)
        for branch in (one, other):
            branch.lockstep("together")
        one.close()
        assert one.parent is None and len(engine.scheduler.gangs) == 1
        assert len((await other.generate(SamplingParams(max_tokens=3))).token_ids) == 3  # it waits for nobody
        other.close()
        assert len(engine.scheduler.gangs) == 0


async def test_what_is_reused_counts_for_the_generation_that_comes_next():
    async with running(_engine(tiny()[1])) as engine:
        engine.open(_prompt(48)).generate(SamplingParams(max_tokens=0))
        first = engine.open(_prompt(48))
        await first.generate(SamplingParams(max_tokens=1))
        again = engine.open(_prompt(48))
        again.note_reused(5)
        assert (await again.generate(SamplingParams(max_tokens=1))).reused_tokens == 32 + 5
        assert (await again.generate(SamplingParams(max_tokens=1))).reused_tokens == 0
        for contexts in ([[131]], [[1] * 600], [[1.5]]):
            with pytest.raises((InvalidInput, PromptTooLong)):
                again.attach_contexts(contexts)


async def test_memory_pressure_evicts_waits_and_at_last_gives_way():
    _, folder = tiny()
    async with running(_engine(folder, kv_tokens=160, swap_tokens=0)) as engine:
        for i in range(6):  # each leaves its prompt cached; later ones evict it
            branch = engine.open(_prompt(64, seed=i))
            await branch.generate(SamplingParams(max_tokens=8))
            branch.close()
            engine.store.check_integrity()
        held = [engine.open(_prompt(60, seed=10 + i), job=str(i)) for i in range(2)]
        old, young = [b.generate(SamplingParams(max_tokens=60)) for b in held]
        given_way = await young
        assert given_way.finish_reason is FinishReason.MEMORY
        held[1].close()
        assert (await old).finish_reason is FinishReason.LENGTH


async def test_cancelling_the_awaiting_task_stops_the_generation():
    _, folder = tiny()
    async with running(_engine(folder)) as engine:
        branch = engine.open(_prompt(10))
        slow = SamplingParams(max_tokens=400, temperature=1.0, ignore_eos=True)  # sampled, so token by token
        task = asyncio.create_task(_await(branch.generate(slow)))
        while branch.length == 10:  # noqa: ASYNC110 - tokens come from the thread of the engine
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = branch.length
        assert 10 < kept < 410
        assert (await branch.generate(SamplingParams(max_tokens=5))).token_ids
        waiting = asyncio.create_task(_await(branch.generate(SamplingParams(max_tokens=300, ignore_eos=True))))
        await asyncio.sleep(0)
        branch.close()
        with pytest.raises(BranchClosed):
            await waiting


async def _await(generation):
    return await generation
