"""Tokens that are guessed and verified: fewer passes, and to the bit what comes without."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import plait
from plait import Completion, SamplingParams
from plait.runtime.engine import FinishReason
from plait.runtime.engines.native import opening
from plait.runtime.engines.native.drafting import ROWS, Drafter
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.store import KVStore
from plait.runtime.engines.native.view import View
from plait.runtime.errors import BranchClosed, InvalidInput, NonFiniteLogits
from plait.tests.runtime.engines.native.test_pressure import FOLDER, MODEL, TOKENIZER, _await, close

pytestmark = pytest.mark.skipif(MODEL.stack is None, reason="no compiled kernels here")


def engine(draft_rows: int = ROWS, **options: Any) -> NativeEngine:
    return NativeEngine(MODEL, TOKENIZER, NativeOptions(draft_rows=draft_rows, **{"kv_tokens": 8192, **options}))


def repeated(seed: int, period: int, length: int) -> list[int]:
    """A text that says the same again and again, but for a token here and there."""
    rng = random.Random(seed)
    unit = [rng.randrange(TOKENIZER.vocab_size) for _ in range(period)]
    text = unit * (length // period + 1)
    return [rng.randrange(TOKENIZER.vocab_size) if rng.random() < 0.05 else token for token in text[:length]]


def drafter(text: Sequence[int], own: Sequence[int]) -> Drafter:
    view = View(KVStore(64, 16, None))
    view.open_segment().tokens.extend(text)
    view.freeze()
    view.open_segment().tokens.extend(own)
    return Drafter(view)


# -- what is guessed -------------------------------------------------------------------------------------------


def test_a_guess_is_what_followed_the_latest_and_longest_match():
    text = [1, 2, 3, 40, 41, 42, 9, 1, 2, 3, 50, 51, 52, 9, 7, 2, 3, 60, 61, 62]
    assert drafter(text, [1, 2, 3]).guess(9) == [50, 51, 52]
    assert drafter(text, [8, 2, 3]).guess(9) == [60, 61, 62]
    assert drafter(text, [8, 2, 3]).guess(2) == [60, 61]
    assert drafter(text, [8, 8, 3]).guess(9) == drafter(text, [2, 3]).guess(0) == []
    assert drafter([], [5]).guess(9) == drafter([], [5, 5]).guess(9) == []


def test_what_repeats_itself_goes_on_repeating_itself():
    assert drafter([], [5, 5, 5]).guess(9) == [5, 5, 5]
    assert drafter([7], [4, 5, 4, 5]).guess(9) == [4, 5, 4]


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_a_guess_is_that_of_a_plain_search(text, own):
    whole = text + own
    expected: list[int] = []
    for length in (3, 2):
        ends = [end for end in range(length, len(whole)) if whole[end - length : end] == whole[-length:]]
        if ends and len(whole) > length:
            longer = list(whole)
            for _ in range(3):
                expected.append(longer[ends[-1] + len(expected)])
                longer.append(expected[-1])
            break
    assert drafter(text, own).guess(99) == expected


def test_ids_whose_bytes_lie_across_others_are_not_found():
    # In four bytes each, 1 and 1 << 24 hold, from the second byte on, what two other tokens are made of.
    assert drafter([0x01020304, 0x05060708, 0x090A0B0C], [0x04050607, 0x08090A0B]).guess(3) == []
    assert drafter([256, 0, 0, 9], [1, 0]).guess(3) == []


def test_drafts_grow_while_they_hold_and_end_when_they_cost_too_much():
    one = drafter([1, 2, 3] * 20, [1, 2, 3])
    assert [len(one.guess(99))] == [3]
    lengths = []
    for _ in range(4):
        one.note(len(one.guess(99)), len(one.guess(99)))
        lengths.append(len(one.guess(99)))
    assert lengths == [6, 12, 15, 15] and len(one.guess(4)) == 4
    one.note(15, 5)
    assert len(one.guess(99)) == 5
    one.note(5, 0)
    assert len(one.guess(99)) == 3
    bad, tries = drafter([1, 2, 3] * 20, [1, 2, 3]), 0
    while guess := bad.guess(99):
        bad.note(len(guess), 0)
        tries += 1
    assert tries == 4  # more than one pass has been lost


# -- nothing changes -------------------------------------------------------------------------------------------

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 60),
    temperature=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2]),
    logit_bias=st.sampled_from([{}, {3: 5.0}]),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([(), ("a",), ("ab", "ca")]),
    stop_token_ids=st.sampled_from([(), (5, 17)]),
    logprobs=st.sampled_from([None, 0, 2]),
    hidden_state=st.booleans(),
    certainty=st.booleans(),
    forced=st.builds(
        lambda seed, period, length: tuple(repeated(seed, period, length)),
        st.integers(0, 9), st.integers(2, 7), st.integers(0, 40),
    ),
)  # fmt: skip


async def run(native: NativeEngine, wanted: Sequence[SamplingParams], seed: int) -> list[Any]:
    """Of each branch: two generations one behind the other, what they streamed, and the text in the end."""
    await native.start()
    branches = [native.open(repeated(seed + i, 4, 30 + i), path=(i,), seed=seed) for i in range(len(wanted))]

    async def one(branch: Any, params: SamplingParams) -> Any:
        generation = branch.generate(params)
        streamed = [token async for token in generation]
        done = await generation
        branch.extend([1, 2])
        return streamed, done, await branch.generate(replace(params, max_tokens=9)), branch.tokens

    found = await asyncio.gather(*map(one, branches, wanted))
    for branch in branches:
        branch.close()
    await close(native)
    return found


def bare(completion: Completion) -> Completion:
    return replace(completion, drafted_tokens=0, accepted_tokens=0)


@settings(max_examples=40, deadline=None)
@given(wanted=st.lists(PARAMS, min_size=1, max_size=4), seed=st.integers(0, 99), kv_tokens=st.sampled_from([288, 8192]))
def test_completions_are_those_without_drafts(wanted, seed, kv_tokens):
    async def both() -> None:
        plain = await run(engine(0), wanted, seed)
        found = await run(engine(kv_tokens=kv_tokens), wanted, seed)
        for (streamed, done, then, text), (expected, first, second, whole) in zip(found, plain, strict=True):
            assert (streamed, text) == (expected, whole)
            for one, other in ((done, first), (then, second)):
                assert one.accepted_tokens <= one.drafted_tokens
                same = replace(bare(one), preemptions=0, prefilled_tokens=0, reused_tokens=0)
                assert same == replace(other, preemptions=0, prefilled_tokens=0, reused_tokens=0)

    asyncio.run(both())


async def test_what_repeats_itself_takes_a_fraction_of_the_passes():
    text = tuple(repeated(3, 5, 400))
    params = SamplingParams(max_tokens=len(text), forced=text, logprobs=0)
    steps = {}
    for rows in (0, 4, ROWS):
        native = engine(rows)
        await native.start()
        branch = native.open([1])
        done = await branch.generate(params)
        steps[rows] = native.scheduler.num_steps
        assert done.token_ids == list(text) and steps[rows] + done.accepted_tokens == len(text)
        branch.close()
        await close(native)
    assert steps[0] == 400 and steps[4] < 200 and steps[ROWS] < 150


async def test_what_was_accepted_of_each_draft_is_noted(monkeypatch):
    noted: list[tuple[int, int]] = []
    note = Drafter.note

    def seen(self: Drafter, drafted: int, accepted: int) -> None:
        noted.append((drafted, accepted))
        note(self, drafted, accepted)

    monkeypatch.setattr(Drafter, "note", seen)
    native = engine()
    await native.start()
    branch = native.open([1])
    done = await branch.generate(SamplingParams(max_tokens=90, forced=tuple(repeated(4, 7, 90)), logprobs=0))
    assert all(0 <= accepted <= drafted for drafted, accepted in noted)
    assert (done.drafted_tokens, done.accepted_tokens) == tuple(map(sum, zip(*noted, strict=True)))
    assert 0 < done.accepted_tokens < done.drafted_tokens
    branch.close()
    await close(native)


async def test_the_logits_that_are_kept_are_those_of_the_last_token():
    kept = []
    for rows in (0, ROWS):
        native = engine(rows, keep_logits=True)
        await native.start()
        branch = native.open([1, 2, 3])
        done = await branch.generate(SamplingParams(max_tokens=60, forced=tuple(repeated(1, 3, 60)), logprobs=0))
        assert (done.accepted_tokens > 0) == (rows > 0)
        kept.append(branch.logits)
        branch.close()
        await close(native)
    assert torch.equal(*kept)


async def test_text_that_does_not_repeat_itself_is_left_alone():
    rng = random.Random(0)
    text = tuple(rng.randrange(8) for _ in range(600))  # pairs and triples abound, and say nothing
    native = engine()
    await native.start()
    branch = native.open([1])
    done = await branch.generate(SamplingParams(max_tokens=len(text), forced=text, logprobs=0))
    assert 0 < done.drafted_tokens * 0.1 - done.accepted_tokens < 1 + 0.02 * len(text) + 1.5
    branch.close()
    await close(native)


async def test_a_job_tells_what_was_drafted():
    native = engine()
    async with plait.Runtime(engine=native) as runtime:
        result = await (await runtime.submit(plait.Sequential(prompt="a a a a a a", max_tokens=60, temperature=0)))
    assert 0 < result.usage.accepted_tokens <= result.usage.drafted_tokens
    assert result.usage.to_json()["accepted_tokens"] == result.usage.accepted_tokens
    assert result.usage.generated_tokens > result.usage.accepted_tokens


# -- who drafts ------------------------------------------------------------------------------------------------


async def drafted(native: NativeEngine, branch: Any) -> int:
    params = SamplingParams(max_tokens=60, forced=tuple(repeated(1, 3, 60)), logprobs=0)
    return (await branch.generate(params)).drafted_tokens


async def test_whoever_is_watched_or_watches_or_is_in_a_gang_decodes_token_by_token():
    native = engine()
    await native.start()
    alone, watched, member = (native.open([1, 2, 3], path=(i,)) for i in range(3))
    assert await drafted(native, alone) > 0
    watcher = native.open([4], path=(9,))
    watcher.watch(watched)
    member.lockstep("gang")
    assert await drafted(native, watched) == await drafted(native, member) == 0
    watcher.extend([1, 2, 3])
    assert await drafted(native, watcher) == 0
    for branch in (alone, watched, member, watcher):
        branch.close()
    await close(native)


async def test_many_branches_share_the_rows_and_beyond_them_nobody_drafts():
    native = engine()
    await native.start()
    rows: list[int] = []
    plan = native.scheduler.plan

    def noted() -> Any:
        step, deliveries = plan()
        if step.drafts:
            rows.append(step.num_rows)
        return step, deliveries

    native.scheduler.plan = noted
    for width in (1, 3, ROWS // 2, ROWS // 2 + 1):
        branches = [native.open([1, 2, 3], path=(width, i)) for i in range(width)]
        rows.clear()
        total = sum(await asyncio.gather(*(drafted(native, branch) for branch in branches)))
        assert (total > 0) == bool(rows) == (width <= ROWS // 2)
        assert max(rows, default=0) <= ROWS
        for branch in branches:
            branch.close()
    await close(native)


async def test_nobody_waits_for_blocks_that_guesses_would_take():
    native = engine(kv_tokens=128, swap_tokens=0)
    await native.start()
    text = tuple(repeated(2, 3, 58))
    params = SamplingParams(max_tokens=58, forced=text, logprobs=0)
    branches = [native.open([1, 2, 3], path=(i,)) for i in range(2)]  # 4 blocks each, all there are
    done = await asyncio.gather(*(_await(branch.generate(params)) for branch in branches))
    assert [one.finish_reason for one in done] == [FinishReason.LENGTH] * 2
    assert sum(one.accepted_tokens for one in done) > 0
    for branch in branches:
        branch.close()
    await close(native)


async def test_steps_are_no_wider_than_what_may_still_be_sampled_and_bursts_are_short():
    """Behind a burst the draft is looked for again."""
    native = engine()
    await native.start()
    branch, seen = native.open(repeated(1, 3, 30)), []
    plan = native.scheduler.plan

    def noted() -> Any:
        step, deliveries = plan()
        seen.extend((step.num_rows, g.limit - len(g.sampled), step.num_steps) for g, _ in step.sampling if g.sampled)
        return step, deliveries

    native.scheduler.plan = noted
    done = await branch.generate(SamplingParams(max_tokens=7, forced=tuple(repeated(1, 3, 7)), logprobs=0))
    assert done.drafted_tokens and all(rows <= left for rows, left, _ in seen)
    seen.clear()
    await branch.generate(SamplingParams(max_tokens=60, temperature=0, ignore_eos=True))
    assert 1 < max(steps for _, _, steps in seen) <= 4
    branch.close()
    await close(native)


# -- what may go wrong -----------------------------------------------------------------------------------------


async def test_a_draft_whose_logits_are_no_numbers_fails_where_its_turn_comes(monkeypatch):
    native, forward = engine(), MODEL.forward
    spoiled: list[int] = []

    def spoil(*args: Any, **kwargs: Any) -> Any:
        logits, hidden = forward(*args, **kwargs)
        if len(logits) > 3:
            logits = logits.clone()
            logits[2] = torch.nan
            spoiled.append(len(logits))
        return logits, hidden

    await native.start()
    branch, text = native.open([1, 2, 3]), tuple(repeated(4, 3, 60))
    monkeypatch.setattr(MODEL, "forward", spoil)
    with pytest.raises(NonFiniteLogits):
        await branch.generate(SamplingParams(max_tokens=60, forced=text, logprobs=0))
    assert spoiled and branch.tokens[3:] == list(text[: len(branch.tokens) - 3])
    monkeypatch.setattr(MODEL, "forward", forward)
    assert len((await branch.generate(SamplingParams(max_tokens=5, ignore_eos=True))).token_ids) == 5
    branch.close()
    await close(native)


async def test_a_branch_that_is_closed_while_its_draft_is_verified_leaves_nothing(monkeypatch):
    native, forward, closed = engine(), MODEL.forward, threading.Event()
    await native.start()
    branch, other = native.open([1, 2, 3]), native.open([4], path=(1,))

    def close_branch() -> None:
        branch.close()
        closed.set()

    def closing(*args: Any, **kwargs: Any) -> Any:
        if len(args[5]) > 3 and not closed.is_set():
            native.loop.call_soon_threadsafe(close_branch)
            assert closed.wait(30)
        return forward(*args, **kwargs)

    monkeypatch.setattr(MODEL, "forward", closing)
    with pytest.raises(BranchClosed):
        await drafted(native, branch)
    assert closed.is_set()
    assert await drafted(native, other) > 0
    other.close()
    await close(native)


def test_where_drafts_pay_and_where_they_cannot_be(monkeypatch):
    assert engine(7).scheduler._planner.draft_rows == 7
    assert NativeEngine(MODEL, TOKENIZER).scheduler._planner.draft_rows == 0  # a small one
    monkeypatch.setattr(opening, "_HEAVY", 1000)
    assert NativeEngine(MODEL, TOKENIZER).scheduler._planner.draft_rows == ROWS
    plain = load_model(FOLDER, impl="torch")
    assert NativeEngine(plain, TOKENIZER).scheduler._planner.draft_rows == 0
    with pytest.raises(InvalidInput, match="draft_rows"):
        NativeEngine(plain, TOKENIZER, NativeOptions(draft_rows=4))
    with pytest.raises(InvalidInput, match="draft_rows must not be negative"):
        NativeOptions(draft_rows=-1)
