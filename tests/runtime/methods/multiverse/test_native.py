"""`Multiverse` on real KV: what fork and merge cost, eviction, scheduling, cancelling, and jobs that share a text."""

from __future__ import annotations

import asyncio

import pytest

from plait import Finish, Multiverse, Runtime, Sequential
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.loader import load_model
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.multiverse.tools import Par, Play, PlayedEngine, TagTokenizer, loose, render

MODEL = load_model(tiny("qwen3", max_position_embeddings=4096)[1])
ITEMS = [
    "<Think>\nlet us see\n",
    Par({"1": [" a" * 20], "2": [" b\n", Par({"2.1": [" x" * 9], "2.2": [" yyyy"]}, "in"), "then"], "3": [" c"]}),
    "more\n",
    Par({"1": [" second"], "2": [" block" * 5]}, "end"),
    "</Think>\n\nAnswer: 7",
]
PROMPT = "Q" * 40


def encode(text):
    return TagTokenizer().encode(text)


def played(items=ITEMS, **options):
    return PlayedEngine(MODEL, Play(items, PROMPT), **options)


async def play(engine, method=None, **submit):
    """One job; nothing stays behind in the engine."""
    async with Runtime(engine=engine) as runtime:
        result = await (await runtime.submit(method or Multiverse(prompt=PROMPT), **submit))
        usage = runtime.engine.block_usage()
        assert usage.used == 0 and usage.free + usage.cached == usage.total
    engine.store.check_integrity()
    return result


def logprobs(result):
    """By branch and text, whatever the order in which branches came to write."""
    pieces = [(s.branch, p.text, p.logprobs) for s in result.trace.segments for p in s.pieces if p.kind == "sampled"]
    return sorted(pieces)


async def test_only_what_the_runtime_writes_is_prefilled():
    """Tokens that are computed as prefill: the prompt, forced tokens, and per call the last token sampled before it."""
    engine = played()
    result = await play(engine)
    assert result.text == render(ITEMS) and not result.usage.counts
    sampled = [p for s in result.trace.segments for p in s.pieces if p.kind == "sampled"]
    usage = result.usage
    pending = len(sampled) - 1  # every call but the last leaves its last token to whoever goes on from it
    assert usage.prefilled_tokens == usage.prompt_tokens + usage.injected_tokens + pending
    assert usage.reused_tokens == 0
    joined = await play(played(), Multiverse(prompt=PROMPT, positions="engine"))
    assert joined.usage.prefilled_tokens == usage.prefilled_tokens


async def test_merged_paths_take_no_new_memory():
    result = await play(played())
    tokens = result.usage.prompt_tokens + result.usage.total_tokens
    segments = len(result.trace.segments)
    assert result.usage.peak_kv_blocks <= tokens // 16 + segments


@pytest.mark.parametrize("fields", [{"width": 1}, {"width": 2}, {}])
async def test_scheduling_changes_nothing(fields):
    plain = await play(played())
    other = await play(played(prefill_chunk=5, max_rows=3), Multiverse(prompt=PROMPT, **fields))
    assert other.text == plain.text
    for (branch, text, a), (same, words, b) in zip(logprobs(plain), logprobs(other), strict=True):
        assert (branch, text) == (same, words) and a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize(("width", "crowd"), [(1, 0), (2, 4)])
async def test_free_running_greedy_does_not_depend_on_scheduling(width, crowd):
    """The goal is forced, the rest is the model's own: the same tokens alone, in turns and in a crowd."""
    goal = Par({"1": [], "2": [], "3": []}).goal

    async def free(width, crowd):
        engine = PlayedEngine(MODEL, lambda context: goal if context == PROMPT else "")
        engine.tokenizer.eos_ids = ()
        async with Runtime(engine=engine) as runtime:
            noise = [engine.open([7 + i] * 30).branch for i in range(crowd)]
            running = [branch.generate(SamplingParams(max_tokens=60)) for branch in noise]
            method = Multiverse(prompt=PROMPT, width=width, max_tokens=140, reserve=20, depth=1)
            result = await (await runtime.submit(method))
            for generation, branch in zip(running, noise, strict=True):
                await generation
                branch.close()
        assert result.details["blocks"] == 1 and result.usage.counts["truncated_paths"] == 3
        return result

    alone, other = await free(None, 0), await free(width, crowd)
    assert other.text == alone.text and len(alone.text) > 200


async def test_memory_pressure_changes_nothing():
    """A store with room for one job and little more: what earlier jobs left is evicted. Of two at a time one may run
    out of memory, and then says so; what is not cut short is right."""
    plain = await play(played())
    small = PlayedEngine(MODEL, loose(Play(ITEMS, PROMPT)), kv_tokens=16 * (plain.usage.peak_kv_blocks + 6))
    async with Runtime(engine=small) as runtime:
        results = [await (await runtime.submit(Multiverse(prompt=PROMPT))) for _ in range(2)]
        branch = small.open([5, 6]).branch
        await branch.generate(SamplingParams(max_tokens=400, ignore_eos=True))
        branch.close()
        results.append(await (await runtime.submit(Multiverse(prompt=PROMPT))))
        side_by_side = [await job for job in [await runtime.submit(Multiverse(prompt=PROMPT)) for _ in range(2)]]
    small.store.check_integrity()
    whole = [result for result in side_by_side if not result.usage.counts and result.finish_reason is Finish.EOS]
    results += whole
    for result in results:
        assert result.text == plain.text
        for (_, _, a), (_, _, b) in zip(logprobs(plain), logprobs(result), strict=True):
            assert a == pytest.approx(b, abs=1e-4)


async def test_a_text_that_another_job_saw_differently_is_not_reused():
    """The merged text as a plain prompt has other keys and values than the merged paths: causal, other positions."""
    text = render(ITEMS)
    prompt = PROMPT + text[: text.rindex("more\n") + 5]

    async def after(engine):
        async with Runtime(engine=engine) as runtime:
            await (await runtime.submit(Multiverse(prompt=PROMPT)))
            branch = engine.open(encode(prompt)).branch
            done = await branch.generate(SamplingParams(max_tokens=8, logprobs=0))
            branch.close()
            return done

    alone = await after(played(["x"]))
    behind = await after(played())
    assert behind.token_ids == alone.token_ids
    assert behind.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert 0 < behind.reused_tokens <= len(encode(PROMPT + render(ITEMS[:1]) + ITEMS[1].goal + "\n"))


async def test_the_same_job_again_reuses_its_paths():
    engine = played()
    async with Runtime(engine=engine) as runtime:
        first = await (await runtime.submit(Multiverse(prompt=PROMPT)))
        second = await (await runtime.submit(Multiverse(prompt=PROMPT)))
    assert second.usage.reused_tokens > 0 and second.text == first.text
    for (_, _, a), (_, _, b) in zip(logprobs(first), logprobs(second), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("after", range(0, 60, 7))
async def test_cancelling_at_any_moment_frees_every_block(after):
    engine = played()
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Multiverse(prompt=PROMPT))
        steps = engine.scheduler.num_steps + after
        async for _ in job:
            if engine.scheduler.num_steps >= steps:
                break
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert engine.block_usage().used == 0
        plain = await (await runtime.submit(Sequential(prompt=PROMPT, max_tokens=3)))
        assert plain.text
    engine.store.check_integrity()


async def test_an_error_of_the_engine_in_a_path():
    play_all, left = Play(ITEMS, PROMPT), [1]

    def script(context):
        if context.endswith("<Path>\n3:") and left[0]:
            left[0] -= 1
            raise OSError("lost")
        return play_all(context)

    result = await play(PlayedEngine(MODEL, script))
    assert result.text == render(ITEMS) and result.usage.counts == {"path_errors": 1}
