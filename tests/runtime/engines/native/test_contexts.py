"""Contexts on the native engine: encoded in parallel behind a shared prefix (APE), kept, and seen by every method."""

from __future__ import annotations

import asyncio
import json
import math
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import plait
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.context_scaling import read_scaling, write_scaling
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.methods.contexts import SEPARATOR
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny

MODEL = load_model(tiny("qwen3", vocab_size=61)[1])


class Numbers(IdTokenizer):
    """`IdTokenizer` with a beginning of sequence; what is not a number becomes one."""

    bos_id = 60  # type: ignore[assignment]
    prefix_ids = (60,)

    def encode(self, text: str) -> list[int]:
        return [60, *self.encode_continuation((), text)]

    def encode_continuation(self, before: object, text: str) -> list[int]:
        words = text.replace(SEPARATOR, "").split(".")
        return [int(word) if word.isdigit() else sum(map(ord, word)) % 50 for word in words if word]


def make_engine(**options) -> NativeEngine:
    return NativeEngine(MODEL, Numbers(61), NativeOptions(**{"kv_tokens": 4096, "keep_logits": True, **options}))


def text(seed: int, length: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(50), k=length))


def assert_all_blocks_came_back(engine: NativeEngine) -> None:
    engine.store.check_integrity()
    usage = engine.block_usage()
    assert (usage.used, usage.free + usage.cached) == (0, usage.total)


async def last_logits(engine: NativeEngine, *parts, contexts=(), **scaling) -> torch.Tensor:
    """Logits behind the parts, with contexts attached behind the first of them."""
    branch = engine.open(parts[0])
    if contexts:
        branch.attach_contexts(contexts, **scaling)
    for part in parts[1:]:
        branch.extend(part)
    await branch.generate(SamplingParams(max_tokens=1))
    logits: torch.Tensor = branch.logits.clone()  # type: ignore[attr-defined]
    branch.close()
    return logits


async def run(engine: NativeEngine, *methods: plait.Method, **options) -> list[plait.Result]:
    async with plait.Runtime(engine=engine) as runtime:
        results = [await (await runtime.submit(method, **options)) for method in methods]
        assert_all_blocks_came_back(engine)
    return results


@pytest.mark.parametrize("length", [1, 16, 33])
async def test_one_context_is_sequential_encoding(length):
    engine = make_engine()
    await engine.start()
    context, query = text(1, length), text(2, 9)
    expected = await last_logits(engine, [60, 3], context, query)
    engine.store.evict_all()
    logits = await last_logits(engine, [60, 3], query, contexts=[context])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    scaled = await last_logits(engine, [60, 3], query, contexts=[context], temperature=0.5, scale=0.8)
    assert (scaled - expected).abs().max() > 1e-2
    await engine.close()


async def test_a_bias_makes_contexts_heavier():
    """With T = S = 1 a context that stands there twice weighs twice as much: its log-weight is log 2 larger."""
    engine = make_engine()
    await engine.start()
    one, other, query = text(1, 20), text(2, 20), text(3, 9)
    plain = await last_logits(engine, [60, 3], query, contexts=[one, other])
    twice = await last_logits(engine, [60, 3], query, contexts=[one, one, other, other])
    heavier = await last_logits(engine, [60, 3], query, contexts=[one, other], bias=math.log(2))
    torch.testing.assert_close(heavier, twice, atol=1e-4, rtol=0)
    assert (plain - twice).abs().max() > 1e-2
    # Behind S it is of the log-weight that S leaves.
    scaled = {"temperature": 0.8, "scale": 0.5}
    low = await last_logits(engine, [60, 3], query, contexts=[one, other], **scaled, bias=-50.0)
    high = await last_logits(engine, [60, 3], query, contexts=[one, other], **scaled, bias=50.0)
    without = await last_logits(engine, [60, 3], query, contexts=[one, other], temperature=0.8, scale=0.0, bias=-50.0)
    torch.testing.assert_close(low, without, atol=1e-4, rtol=0)
    assert (high - low).abs().max() > 1e-2
    branch = engine.open([60])
    with pytest.raises(plait.InvalidInput, match="bias nan"):
        branch.attach_contexts([one], bias=float("nan"))
    branch.close()
    await engine.close()


async def test_a_bias_is_in_the_trace(tmp_path):
    contexts = [text(seed, 20) for seed in range(3)]
    plain, lighter = await run(make_engine(), ask(contexts), ask(contexts, context_bias=math.log(0.7)))
    assert (
        lighter.details["contexts"]["bias"] == pytest.approx(math.log(0.7)) and "bias" not in plain.details["contexts"]
    )
    assert logprobs(lighter) != logprobs(plain)
    lighter.trace.save(tmp_path / "trace.jsonl")
    loaded = plait.Trace.load(tmp_path / "trace.jsonl")
    groups = {span.group for segment in loaded.segments for span in segment.view if span.group is not None}
    assert {group.bias for group in groups} == {math.log(0.7)}


@pytest.mark.parametrize("scale", [2.0**31, 1e300, math.nan])
def test_a_scaling_beyond_what_a_branch_takes_is_refused_as_it_is_read(tmp_path, scale):
    (tmp_path / "ape.json").write_text(json.dumps({"temperature": 0.5, "scale": scale}))
    with pytest.raises(plait.InvalidInput, match="at most 1e6"):
        read_scaling(tmp_path)


@settings(max_examples=40)
@given(length=st.integers(1, 120), lengths=st.lists(st.integers(1, 60), max_size=3))
@example(length=63, lengths=[])  # with the beginning of sequence: the whole store
@example(length=64, lengths=[])
@example(length=16, lengths=[16, 16])
@example(length=16, lengths=[16, 17])
def test_what_the_whole_store_cannot_hold_is_refused_at_submit(length, lengths):
    async def main():
        prompt = ".".join(["1"] * length)
        contexts = [text(seed, length) for seed, length in enumerate(lengths)]
        method = plait.Sequential(prompt=prompt, contexts=contexts, max_tokens=1, instruction="2" if contexts else "")
        async with plait.Runtime(engine=make_engine(kv_tokens=64)) as runtime:
            try:
                job = await runtime.submit(method)
            except plait.OutOfBlocks as error:
                is_refused = True
                assert "kv_tokens" in str(error) and not runtime.jobs
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(plait.Sequential, "check", lambda self, engine: None)
                    job = await runtime.submit(method)
            else:
                is_refused = False
            try:
                finish = (await job).finish_reason
            except plait.OutOfBlocks:
                finish = plait.Finish.MEMORY
            assert (finish is plait.Finish.MEMORY) == is_refused
            assert_all_blocks_came_back(runtime.engine)

    asyncio.run(main())


def test_models_bring_their_own_or_their_familys_scaling():
    for family, expected in (("mistral", (0.9, 1.0)), ("gemma2", (0.6, 1.0)), ("llama", (0.9, 0.9))):
        _, folder = tiny(family)
        can = plait.Capabilities(**read_scaling(folder))
        assert (can.context_temperature, can.context_scale) == expected
    write_scaling(folder, 0.5, 0.7)
    assert read_scaling(folder) == {"context_temperature": 0.5, "context_scale": 0.7}


async def test_no_context_is_the_plain_prompt():
    plain, none, empty, asked = await run(
        make_engine(),
        plait.Sequential(prompt="5.7.9.", max_tokens=5),
        plait.Sequential(prompt="5.7.9.", max_tokens=5, contexts=[], encoding="parallel"),
        plait.Sequential(prompt="5.7.9.", max_tokens=5, contexts=["", (), " \n"], encoding="parallel"),
        plait.Sequential(prompt="7.9.", instruction="5.", max_tokens=5, contexts=[""]),
    )
    for result in (none, empty, asked):
        assert logprobs(result) == logprobs(plain)
    assert empty.details["contexts"] == {"count": 0, "empty": 3, "encoding": "none"}
    assert "contexts" not in none.details


def logprobs(result: plait.Result) -> list[float]:
    pieces = [piece for segment in result.trace.segments for piece in segment.pieces if piece.kind == "sampled"]
    return [value for piece in pieces for value in piece.logprobs or []]


def ask(contexts, **fields) -> plait.Sequential:
    return plait.Sequential(prompt=[60, 11, 12, 13], contexts=contexts, encoding="parallel", max_tokens=6, **fields)


async def test_order_and_repetition_mean_nothing_in_parallel():
    contexts = [text(seed, 3 + 5 * seed) for seed in range(6)]
    first, *others = await run(
        make_engine(), ask(contexts), ask(contexts[::-1]), ask([*contexts[3:], *contexts[:4], contexts[0]])
    )
    for other in others:
        assert (other.text, logprobs(other)) == (first.text, logprobs(first))
    assert first.details["contexts"]["duplicates"] == 0
    assert others[1].details["contexts"]["duplicates"] == 2
    # Sequential encoding of the same is something else.
    (sequential,) = await run(make_engine(), ask(contexts).model_copy(update={"encoding": "sequential"}))
    assert logprobs(sequential) != logprobs(first)


async def test_contexts_are_encoded_once():
    contexts = [text(seed, 20 + seed) for seed in range(5)]
    total = sum(map(len, contexts))
    cold, warm, part, moved = await run(
        make_engine(), ask(contexts), ask(contexts), ask([contexts[2], (7, 7, 7)]), ask(contexts, instruction="4.")
    )
    assert (cold.usage.prefilled_tokens, cold.usage.reused_tokens) == (4 + total, 0)
    assert (warm.usage.prefilled_tokens, warm.usage.reused_tokens) == (4, total)
    assert logprobs(warm) == logprobs(cold)
    assert part.usage.reused_tokens == len(contexts[2])
    # Behind another prefix they are other contexts.
    assert moved.usage.reused_tokens == 0


async def test_contexts_give_way_to_others_and_are_encoded_again():
    engine = make_engine(kv_tokens=512)
    one, other = [text(1, 200)] * 1 + [text(3, 40)], [text(2, 220), text(4, 130)]
    first, _, again = await run(engine, ask(one), ask(other), ask(one))
    assert again.usage.reused_tokens < 240
    assert logprobs(again) == pytest.approx(logprobs(first), abs=1e-5)
    with pytest.raises(plait.PlaitError, match="kv_tokens"):
        await run(make_engine(kv_tokens=256), ask([text(seed, 150) for seed in range(3)]))


async def test_hundreds_of_contexts_of_unequal_lengths_share_passes():
    engine = make_engine(kv_tokens=8192)
    contexts = [text(seed, 1 + seed % 37 if seed else 300) for seed in range(250)]
    (result,) = await run(engine, ask(contexts, context_temperature=0.9, context_scale=0.9))
    rows = result.usage.prefilled_tokens
    assert rows == 4 + sum(map(len, set(contexts)))
    assert engine.scheduler.num_steps <= rows / engine.options.prefill_chunk + 2 + 6
    details = result.details["contexts"]
    assert (details["shortest"], details["longest"]) == (1, 300)
    assert (details["temperature"], details["scale"]) == (0.9, 0.9)


METHODS = {
    "sequential": plait.Sequential(prompt=[60, 11, 12, 13], max_tokens=8),
    "self_consistency": plait.SelfConsistency(prompt=[60, 11, 12, 13], n=3, max_tokens=8),
    "apr": plait.APR(prompt=[60, 11, 12, 13], max_tokens=8),
    "multiverse": plait.Multiverse(prompt=[60, 11, 12, 13], max_tokens=8),
    "guided": plait.Multiverse(prompt=[60, 11, 12, 13], mode="guided", max_tokens=40),
    "hogwild": plait.Hogwild(prompt=[60, 11, 12, 13], max_tokens=8, openers=("1.2.", "3."), headers=False),
}


@pytest.mark.parametrize("name", METHODS)
async def test_every_method_reads_contexts(name):
    """One context in parallel is the sequential prompt, for all that a method does with it."""
    method = METHODS[name].model_copy(update={"contexts": (text(1, 21),), "instruction": "9.8."})
    parallel, sequential, without = await run(
        make_engine(),
        method.model_copy(update={"encoding": "parallel"}),
        method.model_copy(update={"encoding": "sequential"}),
        METHODS[name],
    )
    assert parallel.text == sequential.text
    assert logprobs(parallel) == pytest.approx(logprobs(sequential), abs=1e-4)
    assert logprobs(without)[:4] != pytest.approx(logprobs(parallel)[:4], abs=1e-3)
    assert parallel.details["contexts"]["encoding"] == "parallel"


async def test_arranged_views_keep_contexts_side_by_side():
    """Hogwild! reads its prompt as a block: contexts in it stand where they stand in an ordinary branch."""
    engine = make_engine()
    await engine.start()
    contexts = [text(seed, 4 + 9 * seed) for seed in range(3)]
    scaling = {"temperature": 0.8, "scale": 0.9}
    expected = await last_logits(engine, [60, 5], [6, 7], [8, 9, 10], contexts=contexts, **scaling)
    prompt = engine.open([60, 5])
    prompt.attach_contexts(contexts, **scaling)
    prompt.extend([6, 7])
    await prompt.generate(SamplingParams(max_tokens=0))
    block = prompt.seal()
    assert block.tokens == [60, 5, 6, 7]
    worker = engine.open()
    worker.arrange([block])
    worker.extend([8, 9, 10])
    assert worker.position == 2 + 22 + 2 + 3
    await worker.generate(SamplingParams(max_tokens=1))
    torch.testing.assert_close(worker.logits, expected, atol=1e-4, rtol=0)
    for held in (block, prompt, worker):
        held.close()
    assert_all_blocks_came_back(engine)
    await engine.close()


async def test_children_of_a_thread_see_the_contexts_without_encoding_them_again():
    """Three levels of nested methods on one engine: whoever opens a branch on the prompt finds the contexts there."""
    contexts = [text(seed, 30) for seed in range(4)]
    method = plait.SelfConsistency(prompt=[60, 11, 12], contexts=contexts, encoding="parallel", n=5, max_tokens=3)
    engine = make_engine()
    one, other = await run(engine, method, plait.APR(prompt=[60, 2, 3], contexts=contexts, max_tokens=4))
    assert one.usage.prefilled_tokens == 3 + 120
    assert other.usage.reused_tokens == 120
    assert len([s for s in one.trace.segments if s.branch == "0" and s.pieces]) == 4 + 2


async def test_the_trace_says_what_was_seen(tmp_path):
    contexts = [text(0, 4), text(1, 7)]
    (result,) = await run(make_engine(), ask(contexts))
    result.trace.save(tmp_path / "t.jsonl")
    trace = plait.Trace.load(tmp_path / "t.jsonl")
    prefix, *attached, own = trace.segments
    assert prefix.token_ids == [60]
    assert sorted(tuple(segment.token_ids) for segment in attached) == sorted(contexts)
    assert {segment.position for segment in attached} == {1}
    assert own.position == 1 + 7
    assert [span.group for span in own.view] == [None, (0, 0.9, 0.9, 0.0), (0, 0.9, 0.9, 0.0)]
    assert result.usage.prompt_tokens == 4 + 11
