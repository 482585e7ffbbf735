"""`Hogwild` on the native engine, against rotate-and-concatenate (oracle.py)."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
import torch

from plait import (
    Budget,
    Context,
    Finish,
    FinishReason,
    Hogwild,
    InvalidInput,
    Method,
    Outcome,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    Trace,
    TracedBranch,
    register,
)
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.methods.hogwild import conclusion, finishers
from plait.runtime.methods.hogwild.finishers import Finisher
from plait.runtime.methods.hogwild.method import sampled_tokens
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.hogwild.oracle import Naive, ToyTokenizer, hogwild
from plait.tests.runtime.tools import context
from plait.tests.runtime.trace.test_native_trace import recompute

TOKENIZER = ToyTokenizer()
NAMES = ("A", "B", "H", "W")
OPENERS = ("**A [1]:** plan: ", "**B [1]:** I am", "**H [1]:** wait, ", "**W [1]:** why? ")
PROMPT = TOKENIZER.encode("solve this: 12 apples, 3 boys. ")
SEEDS = {"llama": 8, "qwen3": 4}
"""Of models whose workers finish many steps, but not one at every other token."""
MODELS = {
    family: tiny(family, vocab_size=TOKENIZER.vocab_size, max_position_embeddings=4096, seed=seed)
    for family, seed in SEEDS.items()
}
MODELS |= {
    "mistral-window": tiny("mistral", vocab_size=TOKENIZER.vocab_size, sliding_window=24, max_position_embeddings=4096),
    "gemma3": tiny("gemma3", vocab_size=TOKENIZER.vocab_size, max_position_embeddings=4096),
}
LOADED = {family: load_model(folder) for family, (_, folder) in MODELS.items()}


def engine(family: str = "llama", **options) -> NativeEngine:
    return NativeEngine(LOADED[family], TOKENIZER, NativeOptions(**{"kv_tokens": 8192, **options}))


@register
class TwoGroups(Method):
    """Two teams side by side."""

    method: Literal["test_two_groups"] = "test_two_groups"
    first: dict[str, Any]
    second: dict[str, Any]

    async def run(self, ctx: Context) -> Outcome:
        async def part(part: Context, fields: dict[str, Any]) -> Outcome:
            return await part.run(Hogwild(**fields))

        done = await ctx.parallel(part, [self.first, self.second])
        return Outcome(text="".join(o.text for o in done if o), answer=None, finish=Finish.STOP)


def job(workers: int = 2, passes: int = 100, **fields) -> Hogwild:
    names = NAMES[:workers]
    values = {
        "prompt": PROMPT,
        "workers": names,
        "openers": OPENERS[:workers],
        "max_tokens": passes,
        "max_step": None,
        "conclusion": None,
        "answer": "regex:never",
        "check_repeats": False,
        "ban_impersonation": False,
        "self_check": "same as others? ",
        **fields,
    }
    return Hogwild(**values)


async def run(method: Hogwild, *, family: str = "llama", options=None, budget=None, seed=0):
    native = engine(family, **(options or {}))
    async with Runtime(engine=native) as runtime:
        result = await (await runtime.submit(method, budget=budget or Budget(), seed=seed))
        native.store.check_integrity()
        assert native.block_usage().used == 0 and not native.scheduler.gangs and native.num_branches == 0
        rows = native.scheduler.num_rows
    return result, rows


CASES = [
    ("llama", 2, 300, "combined", True),
    ("qwen3", 4, 300, "combined", True),
    ("llama", 3, 80, "combined", False),
    ("qwen3", 1, 80, "combined", True),
    ("llama", 1, 80, "combined", False),
    ("qwen3", 2, 120, "interleaved", True),
    ("llama", 4, 80, "interleaved", True),
    ("llama", 2, 100, "contiguous", True),
    ("qwen3", 4, 60, "contiguous", False),
]


@pytest.mark.parametrize(("family", "workers", "passes", "layout", "headers"), CASES)
async def test_greedy_tokens_equal_rotate_and_concatenate(family, workers, passes, layout, headers):
    method = job(workers, passes, layout=layout, headers=headers, self_check_every=150)
    told = hogwild(
        Naive(MODELS[family][0]),
        TOKENIZER,
        PROMPT,
        method.workers,
        passes,
        layout=layout,
        headers=headers,
        check_every=150,
        openers=method.openers,
        self_check=method.self_check,
    )
    result, _ = await run(method, family=family)
    sampled = sampled_tokens(result.trace)
    for name in method.workers:
        assert sampled[name] == told.sampled[name]
    assert (result.details["passes"], result.details["steps"]) == (passes, len(told.history))
    assert result.usage.counts["self_checks"] == len(told.checks)
    if layout != "contiguous" and passes == 300:
        assert len(told.history) >= 2 * workers and told.checks


def expected_rows(result, workers: int) -> int:
    """Every token's keys are computed once: but for the last of each worker, and those that wait for the next block."""
    usage = result.usage
    return usage.prompt_tokens + usage.injected_tokens + usage.generated_tokens - result.details["steps"] - workers


TRACED = [
    ("llama", {"workers": 2, "passes": 60}),
    ("qwen3", {"workers": 3, "passes": 50, "join_at": {"B": 7, "H": 20}, "leave_at": {"A": 30}}),
    ("llama", {"workers": 3, "passes": 40, "layout": "contiguous", "leave_at": {"B": 9}}),
    ("llama", {"workers": 2, "passes": 40, "layout": "interleaved"}),
    ("qwen3", {"workers": 2, "passes": 40, "max_step": 6, "headers": False}),
    ("mistral-window", {"workers": 3, "passes": 40}),
    ("gemma3", {"workers": 2, "passes": 40, "layout": "interleaved"}),
]


@pytest.mark.parametrize(("family", "fields"), TRACED)
async def test_one_masked_forward_over_the_trace_gives_the_logits_of_decoding(family, fields, tmp_path):
    result, rows = await run(job(**fields, temperature=1.0), family=family, seed=4)
    result.trace.save(tmp_path / "trace.jsonl")
    trace = Trace.load(tmp_path / "trace.jsonl")
    found, recorded = recompute(MODELS[family][0], trace)
    assert len(recorded) == result.usage.generated_tokens > 50
    torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)
    if "leave_at" not in fields:
        assert rows == expected_rows(result, fields["workers"])


async def test_a_group_is_stopped_and_resumed_exactly(tmp_path):
    fields = {"workers": 3, "temperature": 0.9, "join_at": {"H": 25}}
    whole, _ = await run(job(passes=70, **fields), seed=2)
    part, _ = await run(job(passes=33, **fields), seed=2)
    part.trace.save(tmp_path / "part.jsonl")
    resumed = sampled_tokens(Trace.load(tmp_path / "part.jsonl"))
    assert {name: len(tokens) for name, tokens in resumed.items()} == {"A": 33, "B": 33, "H": 8}
    again, _ = await run(job(passes=70, resume=resumed, **fields), seed=2)
    assert sampled_tokens(again.trace) == sampled_tokens(whole.trace)
    for a, b in zip(again.trace.segments, whole.trace.segments, strict=True):
        assert [p.token_ids for p in a.pieces if p.kind != "sampled"] == [
            p.token_ids for p in b.pieces if p.kind != "sampled"
        ]
    assert again.text == whole.text


async def test_one_worker_without_headings_is_ordinary_decoding():
    method = job(1, 60, layout="contiguous", headers=False)
    result, rows = await run(method)
    plain, _ = await run(Sequential(prompt=[*PROMPT, *TOKENIZER.encode(OPENERS[0])], max_tokens=60))
    assert sampled_tokens(result.trace)["A"] == [
        t for s in plain.trace.segments for p in s.pieces if p.kind == "sampled" for t in p.token_ids
    ]
    assert rows == expected_rows(result, 1)


async def test_groups_and_other_jobs_in_one_batch_do_not_change_each_other():
    methods = [
        job(2, 60),
        job(3, 40, temperature=1.0),
        Sequential(prompt=PROMPT * 4, max_tokens=80),
        SelfConsistency(prompt=PROMPT, n=3, max_tokens=40, temperature=1.0),
    ]
    alone = [(await run(method, seed=5))[0].text for method in methods]
    for options in ({}, {"max_rows": 24, "prefill_chunk": 16}, {"max_rows": 4, "prefill_chunk": 4}):
        native = engine(**options)
        async with Runtime(engine=native) as runtime:
            jobs = [await runtime.submit(method, seed=5) for method in methods]
            assert [(await j).text for j in jobs] == alone
            assert native.block_usage().used == 0
            native.store.check_integrity()


async def test_two_groups_inside_one_job_share_a_width_without_waiting_for_each_other_for_ever():
    pair = TwoGroups(first=job(2, 30).model_dump(), second=job(2, 40).model_dump())
    for width in (1, 2, 3, None):
        result, _ = await run(pair, budget=Budget(width=width))
        assert result.usage.counts["workers_over_width"] == (2 if width == 1 else 0)


@pytest.mark.parametrize("kv_tokens", [160, 256, 400])
async def test_a_store_that_is_too_small_ends_the_group_and_nothing_leaks(kv_tokens):
    result, _ = await run(job(3, 400), options={"kv_tokens": kv_tokens})
    assert result.finish_reason is Finish.MEMORY
    assert result.usage.generated_tokens > 3


async def test_memory_that_comes_back_lets_a_waiting_group_go_on():
    expected = (await run(job(2, 60)))[0].text
    native = engine(kv_tokens=640)
    async with Runtime(engine=native) as runtime:
        other = await runtime.submit(Sequential(prompt=PROMPT, max_tokens=150))
        group = await runtime.submit(job(2, 60))
        assert (await group).text == expected
        await other
        assert native.block_usage().used == 0


@pytest.mark.parametrize("limit", [30, 64, 65, 150, 333])
@pytest.mark.parametrize("ledger", ["total_tokens", "critical_tokens"])
async def test_budgets_hold_and_leave_room_for_the_conclusion(ledger, limit):
    method = job(2, None, conclusion="so: ", conclusion_tokens=12)
    result, _ = await run(method, budget=Budget(**{ledger: limit}))
    assert result.finish_reason == Finish(ledger)
    assert getattr(result.usage, ledger) <= limit
    assert result.usage.counts["concluded"] == 1
    if limit > 60:
        assert getattr(result.usage, ledger) > limit - 12 - 30


async def test_a_deadline_ends_the_group():
    result, _ = await run(job(2, None), budget=Budget(seconds=0.3))
    assert result.finish_reason in (Finish.DEADLINE, Finish.CONTEXT)


async def test_cancelling_frees_everything():
    native = engine()
    async with Runtime(engine=native) as runtime:
        for passes in (2, 9, 40):
            group = await runtime.submit(job(3, 3000))
            await asyncio.sleep(passes * 0.004)
            group.cancel()
            with pytest.raises(asyncio.CancelledError):
                await group
            assert native.block_usage().used == 0 and not native.scheduler.gangs
            native.store.check_integrity()


async def test_a_full_context_stops_or_drops_the_oldest_steps():
    fields = {"max_step": 8, "context_limit": 220}
    stopped, _ = await run(job(2, 400, **fields))
    assert stopped.finish_reason is Finish.CONTEXT and 40 < stopped.usage.total_tokens < 220
    dropped, _ = await run(job(2, 200, overflow="drop", **fields))
    assert dropped.finish_reason is Finish.LENGTH and dropped.details["passes"] == 200
    assert dropped.usage.counts["dropped_steps"] > 3
    found, recorded = recompute(MODELS["llama"][0], dropped.trace)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)


async def test_a_worker_whose_branch_fails_leaves_and_the_others_go_on(monkeypatch):
    calls = 0
    original = TracedBranch.generate

    async def generate(self, params):
        nonlocal calls
        calls += self.record.label == "B"
        if self.record.label == "B" and calls == 2:
            raise RuntimeError("lost")
        return await original(self, params)

    monkeypatch.setattr(TracedBranch, "generate", generate)
    result, _ = await run(job(3, 60, max_step=10))
    sampled = sampled_tokens(result.trace)
    assert result.usage.counts["worker_errors"] == 1 and result.finish_reason is Finish.LENGTH
    assert [len(sampled[name]) for name in ("A", "H")] == [60, 60] and len(sampled["B"]) <= 10
    monkeypatch.setattr(TracedBranch, "generate", failing)
    with pytest.raises(RuntimeError, match="lost"):
        await run(job(2, 20))


async def failing(self, params):
    if self.record.label in NAMES:
        raise RuntimeError("lost")
    self.engine_branch.rewind(0)


async def test_a_gang_waits_for_its_members_and_ends_together():
    native = engine()
    await native.start()
    branches = [native.open(PROMPT[i:], job="j") for i in range(3)]
    other = native.open(PROMPT, job="other")
    for branch in branches:
        branch.lockstep("g")
    other.lockstep("g")  # a gang of another job
    first = [branches[i].generate(SamplingParams(max_tokens=m)) for i, m in ((0, 50), (1, 7))]
    alone = await other.generate(SamplingParams(max_tokens=5))
    assert len(alone.token_ids) == 5
    await asyncio.sleep(0.02)
    assert [len(b.tokens) for b in branches] == [len(PROMPT) - i for i in range(3)]
    done = await asyncio.gather(*first, branches[2].generate(SamplingParams(max_tokens=9)))
    assert [d.finish_reason for d in done] == [FinishReason.GANG, FinishReason.LENGTH, FinishReason.GANG]
    assert [len(d.token_ids) for d in done] == [7, 7, 7]
    # Who closes or leaves does not keep the others waiting.
    pair = [branches[i].generate(SamplingParams(max_tokens=4)) for i in (0, 1)]
    await asyncio.sleep(0.01)
    branches[2].close()
    assert [len((await g).token_ids) for g in pair] == [4, 4]
    running = branches[0].generate(SamplingParams(max_tokens=3))
    branches[1].lockstep(None)
    assert len((await running).token_ids) == 3
    await native.close()
    assert not native.scheduler.gangs and native.block_usage().used == 0


async def test_long_injections_into_a_gang_are_one_pass():
    native = engine(max_rows=16, prefill_chunk=8)
    await native.start()
    common = native.open(PROMPT * 3)
    block = common.seal()
    branches = [native.open() for _ in range(2)]
    live = [branch.block() for branch in branches]
    for i, branch in enumerate(branches):
        branch.arrange([block, live[1 - i]])
        branch.extend(PROMPT[i:])
        branch.lockstep("g")
    busy = native.open(PROMPT).generate(SamplingParams(max_tokens=200))
    await asyncio.gather(*(b.generate(SamplingParams(max_tokens=5)) for b in branches))
    for i, handle in enumerate(live):
        assert handle.seen[0] == (0, (len(PROMPT) - (1 - i),))
        assert [begin for begin, _ in handle.seen] == [0, *range(len(PROMPT) - i, len(PROMPT) - i + 4)]
    await busy.aclose()
    await native.close()


async def test_blocks_of_other_branches_only_and_only_in_arranged_views():
    native = engine()
    await native.start()
    one, two = native.open(PROMPT), native.open()
    with pytest.raises(InvalidInput, match="seal"):
        one.arrange([])
    sealed, own = one.seal(), two.block()
    with pytest.raises(InvalidInput, match="own"):
        two.arrange([sealed, own])
    stranger = engine()
    await stranger.start()
    with pytest.raises(InvalidInput, match="another engine"):
        stranger.open().arrange([sealed])
    two.arrange([sealed])
    two.extend([1, 2, 3])
    assert (two.position, two.length, own.tokens) == (len(PROMPT) + 3, len(PROMPT) + 3, [1, 2, 3])
    with pytest.raises(InvalidInput, match="own segment"):
        two.rewind(len(PROMPT) - 1)
    no_positions = (
        lambda: two.attach_contexts([[7, 8], [9]]),
        lambda: two.seek(two.position + 3),
        lambda: two.watch(one, 3),
    )
    for operation in no_positions:
        with pytest.raises(InvalidInput, match="in an arranged view"):
            operation()
    assert (two.position, two.tokens) == (len(PROMPT) + 3, [*PROMPT, 1, 2, 3])
    two.rewind(len(PROMPT) + 1)
    two.extend([5])
    assert two.seal().tokens == [1, 5]
    await native.close()
    await stranger.close()


@pytest.mark.parametrize("is_late", [False, True])
async def test_traces_of_arranged_views_that_are_forked_rewound_and_arranged_again(is_late):
    """`is_late`: what was sampled last is left to be computed by whoever reads it first."""
    native = engine()
    await native.start()
    params = SamplingParams(max_tokens=6, temperature=1.0, logprobs=0)
    async with context(native) as ctx:
        common = ctx.open(PROMPT * 2).seal()
        one, two = ctx.open(), ctx.open()
        live = {one: one.block(), two: two.block()}
        for me, other in ((one, two), (two, one)):
            me.arrange([common, live[other]])
            me.extend([5, 6])
            me.lockstep("g")
        await asyncio.gather(one.generate(params), two.generate(params))
        one.arrange([live[two], common])  # what it is writing stays
        await asyncio.gather(one.generate(params), two.generate(params))
        for branch in (one, two):
            branch.lockstep(None)
        if not is_late:
            one.rewind(one.length - 1)
        fork, other_fork = one.fork(2)
        fork.extend([7])
        await fork.generate(params)
        other_fork.arrange([common])
        other_fork.extend([9, 9])
        await other_fork.generate(params)
        two.rewind(two.length - 3)
        two.extend([3, 4])
        await two.generate(params)
        if is_late:
            two.extend([5, 6])
        else:
            two.rewind(two.length - 1)
        sealed = two.seal()
        assert len(sealed.tokens) == 2 + 12 - 3 + 2 + 6 + (2 if is_late else -1)
        three = ctx.open()
        three.arrange([sealed, common])
        three.extend([1])
        await three.generate(params)
        trace = ctx.state.trace
        assert not ctx.state.late
        found, recorded = recompute(MODELS["llama"][0], trace)
        assert len(recorded) == 6 * 8
        torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)
        for block in (common, sealed, *live.values()):
            block.close()


@pytest.mark.parametrize("dropped", [1, 4, 8])
async def test_traces_of_branches_that_watch_each_other_and_are_rewound(dropped):
    """Rewound tokens stay in the trace as they were seen; who watched sees nothing of what comes then."""
    native = engine()
    await native.start()
    params = SamplingParams(max_tokens=6, temperature=1.0, logprobs=0)
    async with context(native) as ctx:
        root = ctx.open(PROMPT)
        one, two = root.fork(2)
        one.watch(two)
        two.watch(one)
        for branch in (one, two):
            branch.extend([5, 6])
        await asyncio.gather(one.generate(params), two.generate(params))
        one.rewind(one.length - dropped)
        one.extend([7])
        await asyncio.gather(one.generate(params), two.generate(params))
        await one.generate(params)
        trace = ctx.state.trace
        found, recorded = recompute(MODELS["llama"][0], trace)
        assert len(recorded) == 5 * 6
        torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)
    await native.close()
    assert native.block_usage().used == 0


async def test_traces_of_branches_that_look_on_and_stop_at_strings():
    """The end that is rolled back was seen by nobody: what comes then takes its place, in engine and trace alike."""
    native = engine()
    await native.start()
    params = SamplingParams(max_tokens=12, temperature=1.0, logprobs=0, stop=tuple("aeiou. "))
    async with context(native) as ctx:
        one, two = ctx.open(PROMPT).fork(2)
        one.watch(two)
        await two.generate(SamplingParams(max_tokens=5, logprobs=0))
        for _ in range(6):
            one.extend([5, 6])
            await one.generate(params)
        trace, usage = ctx.state.trace, ctx.state.usage
        assert usage.rolled_back_tokens > 2
        assert len([s for s in trace.segments_of(one.id) if len(s)]) == 1
        found, recorded = recompute(MODELS["llama"][0], trace)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=1e-4)
    await native.close()
    assert native.block_usage().used == 0


async def test_without_max_tokens_the_methods_own_bound_holds(monkeypatch):
    assert Hogwild.bound == 8192
    monkeypatch.setattr(Hogwild, "bound", 20)
    result, _ = await run(job(2, None))
    assert (result.finish_reason, result.details["passes"], result.details["bound"]) == (Finish.LENGTH, 20, 20)
    result, _ = await run(job(2, 21))
    assert (result.finish_reason, result.details["passes"]) == (Finish.LENGTH, 21)
    assert "bound" not in result.details


async def test_answers_of_smaller_budgets_are_those_of_their_own_runs():
    fields = {"answer": "regex:(?s)so: (.*)", "conclusion": "so: ", "conclusion_tokens": 6, "temperature": 0.7}
    fields |= {"join_at": {"B": 5}, "leave_at": {"A": 33}}
    whole, _ = await run(job(3, 60, answer_at=(3, 25, 33, 60), **fields), seed=3)
    plain, _ = await run(job(3, 60, **fields), seed=3)
    assert whole.text == plain.text and sampled_tokens(whole.trace) == sampled_tokens(plain.trace)
    given = whole.details["answers"]
    assert [one["passes"] for one in given] == [3, 25, 33, 60] and len({one["answer"] for one in given}) == 4
    for one in given:
        alone, _ = await run(job(3, one["passes"], **fields), seed=3)
        expected = (alone.answer, alone.finish_reason, alone.usage.total_tokens, alone.usage.critical_tokens)
        assert (one["answer"], one["finish"], one["total_tokens"], one["critical_tokens"]) == expected


async def test_who_is_done_early_has_the_same_answer_at_every_later_budget():
    result, _ = await run(job(2, 80, answer="regex:([a-z])", answer_at=(1, 70, 80), max_step=6))
    first, *later = result.details["answers"]
    assert result.finish_reason is Finish.STOP and result.details["passes"] < 70
    assert [one["answer"] for one in later] == [result.answer] * 2
    assert {one["finish"] for one in later} == {"stop"} and first["finish"] == "length"
    assert {one["total_tokens"] for one in later} == {result.usage.total_tokens}


@pytest.mark.parametrize("limit", [80, 150])
async def test_budget_is_kept_back_for_every_answer(limit):
    method = job(2, None, conclusion="so: ", conclusion_tokens=12, answer_at=(1, 2, 9))
    result, _ = await run(method, budget=Budget(total_tokens=limit))
    assert result.finish_reason == Finish.TOTAL_TOKENS and result.usage.total_tokens <= limit
    early = [one for one in result.details["answers"] if one["finish"] == "length"]
    assert early and result.usage.counts["concluded"] == 1 + len(early)


async def test_a_conclusion_ends_with_its_answer(monkeypatch):
    fields = {"conclusion": "so: ", "conclusion_tokens": 12}
    whole, _ = await run(job(2, 20, **fields))
    written = whole.text.partition("so: ")[2]
    place = next(i for i in range(5, len(written)) if written[i] not in written[:i])
    end = written[place]

    def found(text, accepts):
        answer = text.partition("so: ")[2]
        return answer if end in answer else None

    finisher = Finisher(find=found, conclusion="so: ", tokens=12, ends=end)
    monkeypatch.setattr(finishers, "FINISHERS", {"boxed": finisher})
    monkeypatch.setattr(conclusion, "FINISHERS", {"boxed": finisher})
    result, _ = await run(job(2, 20, **{**fields, "answer": "boxed"}))
    assert result.answer == written[: place + 1] and result.text.endswith(f"so: {result.answer}")
    assert result.usage.total_tokens < whole.usage.total_tokens


async def test_a_conclusion_has_all_of_its_tokens_but_no_stop_string(monkeypatch):
    fields = {"conclusion": "so: ", "conclusion_tokens": 12}
    whole, _ = await run(job(2, 20, **fields))
    before, _, written = whole.text.partition("so: ")
    piece = next(p for p in written.split("\n\n")[:-1] if len(p) > 1) + "\n\n"  # one token
    finisher = Finisher(find=lambda text, accepts: None, conclusion="so: ", tokens=12, ends=piece[0])
    monkeypatch.setattr(finishers, "FINISHERS", {"boxed": finisher})
    monkeypatch.setattr(conclusion, "FINISHERS", {"boxed": finisher})
    result, _ = await run(job(2, 20, **fields | {"answer": "boxed"}))
    assert result.text == whole.text
    stop = next(written[i : i + 2] for i in range(8, len(written)) if written[i : i + 2] not in before + written[:i])
    result, _ = await run(job(2, 20, **fields | {"answer": "boxed"}, stop=(stop,)))
    assert result.text == f"{before}so: {written[: written.index(stop)]}"
