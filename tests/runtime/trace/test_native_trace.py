"""What a trace of the native engine says is what the model saw: one masked forward gives the recorded logprobs."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait import APR, Finish, InvalidBudget, InvalidInput, Runtime, SamplingParams, SelfConsistency
from plait.rl.masks import trace_mask
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.trace.sights import sights
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_views import Mirror, Row, Seen, dense_logits
from plait.tests.runtime.tools import context

HF_MODEL, FOLDER = tiny("llama")
TOLERANCE = 1e-4


def engine(**options):
    return NativeEngine(load_model(FOLDER), IdTokenizer(131, (130,)), NativeOptions(kv_tokens=8192, **options))


def recompute(hf_model, trace) -> tuple[list[float], list[float]]:
    """(found, recorded) log-probabilities of all sampled tokens: one dense forward over the whole trace, each token
    seeing what the views say."""
    mirror = Mirror()
    first = {}
    for segment in trace.segments:
        first[segment.id] = len(mirror.rows)
        mirror.rows += [Row(token, segment.position + i, [], [], []) for i, token in enumerate(segment.token_ids)]
    for segment in trace.segments:
        for i, seen in enumerate(sights(trace, segment)):
            row = mirror.rows[first[segment.id] + i]
            row.sees = [
                Seen(first[s.segment] + j, s.shift, s.group and (s.group.id, s.group.temperature, s.group.scale))
                for s in seen
                for j in range(s.end)
            ]
            row.sees += [Seen(first[segment.id] + j) for j in range(i)]
    with torch.no_grad():
        logprobs = dense_logits(hf_model, mirror).log_softmax(-1)
    found, recorded = [], []
    for segment in trace.segments:
        # What predicts a segment's first token is the last token of its view.
        before = [first[span.segment] + span.length - 1 for span in segment.view if span.is_text][-1:]
        for piece, offset in zip(segment.pieces, offsets(segment), strict=True):
            for i, token in enumerate(piece.token_ids):
                if piece.kind == "sampled":
                    at = first[segment.id] + offset + i - 1 if offset + i else before[0]
                    found.append(logprobs[at, token].item())
                    recorded.append(piece.logprobs[i])
    return found, recorded


def offsets(segment):
    sizes = [len(piece.token_ids) for piece in segment.pieces]
    return [sum(sizes[:i]) for i in range(len(sizes))]


def check(trace):
    found, recorded = recompute(HF_MODEL, trace)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=TOLERANCE)
    rows = trace.for_training()
    assert [p for row in rows for p, m in zip(row.logprobs, row.mask, strict=True) if m] == recorded
    return rows


operations = st.lists(
    st.tuples(
        st.sampled_from(["generate", "extend", "fork", "merge", "rewind", "seek"]), st.integers(0, 5), st.integers(1, 8)
    ),
    min_size=3,
    max_size=12,
)


@settings(deadline=None, max_examples=15)
@given(operations)
async def test_random_trees(script):
    native = engine()
    await native.start()
    async with context(native) as ctx:
        branches = [ctx.open([3, 1, 4, 1, 5])]
        merged = set()

        def params(tokens):
            return SamplingParams(max_tokens=tokens, temperature=1.0, logprobs=0, ignore_eos=True)

        for name, which, amount in script:
            branch = branches[which % len(branches)]
            if name == "generate":
                await branch.generate(params(amount))
            elif name == "extend":
                branch.extend([(amount * 7 + i) % 130 for i in range(amount)])
            elif name == "fork":
                branches += (forks := branch.fork(1 + amount % 2))
                merged |= set(forks) if branch in merged else set()
            elif name == "seek":
                branch.seek(branch.position + 10 * amount if amount % 2 else branch.position // 2)
                branch.extend([amount])
            elif name == "rewind":
                branch.rewind(max(1, branch.length * amount // 9))
                if branch in merged:  # its end may be what a child wrote behind another text
                    branch.extend([amount])
            else:
                children = [b for b in branches if b.record.parent == branch.id and b.length > branch.length]
                seen = {span.segment for span in branch._segments.view()}
                if children and not any(s.segment in seen for c in children for s in c._segments.written()):
                    branch.merge(children)
                    branch.extend([amount])
                    merged.add(branch)
        for branch in branches:
            await branch.generate(params(3))
            spans = branch._segments.view()
            trace = ctx.state.trace
            assert [t for s in spans for t in trace.segments[s.segment].token_ids[: s.length]] == branch.tokens
        check(trace)


arrangements = st.lists(
    st.tuples(
        st.sampled_from(
            ["extend", "generate", "fork", "merge", "attach", "contexts", "watch", "rewind", "block", "seal", "arrange"]
        ),
        st.integers(0, 5),
        st.integers(0, 8),
    ),
    min_size=3,
    max_size=14,
)


def can_see(before, spans):
    """Is no segment seen twice? No mask can hold that."""
    names = [span.segment for span in (*before, *spans)]
    return len(set(names)) == len(names)


@settings(deadline=None, max_examples=20)
@example([("fork", 0, 0), ("arrange", 0, 0)])
@example([("seal", 0, 0), ("arrange", 1, 1), ("fork", 1, 0), ("arrange", 1, 2)])
@example([("fork", 0, 0), ("extend", 2, 3), ("merge", 0, 0), ("arrange", 2, 0)])
@example([("fork", 0, 0), ("extend", 2, 3), ("attach", 0, 0), ("arrange", 2, 0)])
@example([("arrange", 1, 7), ("rewind", 1, 5), ("watch", 2, 3)])
@example([("extend", 1, 7), ("rewind", 1, 5), ("extend", 1, 3), ("watch", 0, 1), ("extend", 1, 2), ("extend", 0, 1)])
@example([("block", 0, 0), ("arrange", 1, 1), ("fork", 0, 0), ("extend", 0, 4), ("generate", 1, 3)])
@example([("seal", 0, 0), ("arrange", 0, 1), ("fork", 0, 0), ("extend", 2, 5), ("merge", 0, 0), ("watch", 1, 0)])
@example([("seal", 0, 0), ("arrange", 0, 1), ("fork", 0, 0), ("extend", 2, 5), ("attach", 0, 0), ("watch", 1, 0)])
@given(arrangements)
async def test_random_arrangements(script):
    """Views that are put together anew, of blocks that are sealed, still being written, or taken over meanwhile."""
    native = engine()
    await native.start()
    async with context(native) as ctx:
        branches = [ctx.open([3, 1, 4, 1, 5]), ctx.open([9, 2, 6])]
        blocks = []

        def params(tokens):
            return SamplingParams(max_tokens=tokens, temperature=1.0, logprobs=0, ignore_eos=True)

        for name, which, amount in script:
            branch = branches[which % len(branches)]
            with suppress(InvalidInput):  # of what a view does not allow nothing is done, here or in the trace
                if name == "extend":
                    branch.extend([(amount * 7 + i) % 130 for i in range(amount)])
                elif name == "fork":
                    branches += branch.fork(1 + amount % 2)
                elif name in ("merge", "attach"):
                    children = [b for b in branches if b.record.parent == branch.id][:2]
                    spans = [span for child in children for span in child._segments.written()]
                    if (
                        can_see(branch._segments.view(), spans)
                        and branch.position + sum(span.length for span in spans) < 200
                    ):
                        branch.merge(children) if name == "merge" else branch.attach(children, temperature=0.8)
                elif name == "contexts" and not branch.looks_on:  # what they saw live, no trace says
                    branch.attach_contexts([[amount, 3], [7, amount, 8]], scale=0.9)
                elif name == "watch":
                    other = branches[amount % len(branches)]
                    if can_see(branch._segments.view(), other._segments.block(other.position)[-1:]):
                        branch.watch(other)
                elif name == "rewind":
                    branch.rewind(max(branch.length - amount, 0))
                elif name == "block":
                    blocks.append(branch.block())
                elif name == "seal":
                    blocks.append(branch.seal())
                elif name == "arrange":
                    some = [blocks[(amount + i) % len(blocks)] for i in range(amount % 3 if blocks else 0)]
                    if can_see(branch._segments.block(branch.position), [s for one in some for s in one.spans]):
                        branch.arrange(some)
            if name not in ("block", "seal", "rewind"):
                branch.extend([amount])  # there must be a token to go on from
                await branch.generate(params(2))
            trace = ctx.state.trace
            spans = branch._segments.view()
            text = [t for s in spans if s.is_text for t in trace.segments[s.segment].token_ids[: s.length]]
            assert text == branch.tokens
        for block in blocks:
            told = [t for s in block.spans if s.group is None for t in trace.segments[s.segment].token_ids[: s.length]]
            # What was rewound is gone from a handle, and stays in the trace.
            assert block.tokens == told or any(name == "rewind" for name, *_ in script)
        found, recorded = recompute(HF_MODEL, trace)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(recorded), rtol=0, atol=TOLERANCE)


async def test_methods_on_a_real_model():
    async with Runtime(engine=engine()) as runtime:
        vote = SelfConsistency(prompt=[3, 1, 4], n=4, max_tokens=20, temperature=1.0)
        result = await (await runtime.submit(vote, seed=5))
        assert len(check(result.trace)) == 4
        assert result.usage.peak_kv_blocks > 0 and result.usage.prefilled_tokens >= 2
        again = await (await runtime.submit(vote, seed=5))
        assert [s.token_ids for s in again.trace.segments] == [s.token_ids for s in result.trace.segments]
        soup = APR(prompt=[3, 1, 4], max_tokens=30, temperature=1.0)
        assert check((await (await runtime.submit(soup))).trace)
        assert runtime.engine.block_usage().used == 0


async def test_the_same_context_behind_what_differs():
    """Its keys do, too. Behind the same, it is one segment."""
    native = engine()
    await native.start()
    async with context(native) as ctx:
        branches = ctx.open([3, 1, 4, 1, 5]).fork(3)
        for branch, first in zip(branches, ([7, 8], [9, 2], [7, 8]), strict=True):
            branch.attach_contexts([first])
            branch.attach_contexts([[11, 12, 13], [14]])
            branch.extend([6])
            await branch.generate(SamplingParams(max_tokens=5, temperature=1.0, logprobs=0, ignore_eos=True))
        check(ctx.state.trace)
        contexts = [segment.token_ids for segment in ctx.state.trace.segments[1:] if segment.pieces[0].kind == "prompt"]
        assert contexts == [[7, 8], [11, 12, 13], [14], [9, 2], [11, 12, 13], [14]]


async def test_contexts_behind_live_text_are_in_no_mask():
    """How much of it they saw is not noted."""
    native = engine()
    await native.start()
    async with context(native) as ctx:
        one, other = ctx.open([3, 1, 4, 1, 5]).fork(2)
        one.extend([7, 8])
        other.watch(one)
        for reader in other.fork(2):
            reader.attach_contexts([[11, 12, 13]])
            reader.extend([6])
            await reader.generate(SamplingParams(max_tokens=5, temperature=1.0, logprobs=0, ignore_eos=True))
        # What is live is never the same: each reader has a segment of its own.
        assert [segment.token_ids for segment in ctx.state.trace.segments].count([11, 12, 13]) == 2
        with pytest.raises(InvalidInput, match="a context behind live text: what that saw is not in the trace"):
            trace_mask(ctx.state.trace)


async def test_branches_that_read_each_other_in_lockstep_and_are_merged():
    native = engine()
    await native.start()
    async with context(native, total_tokens=90, width=2) as ctx:
        judge = ctx.open([3, 1, 4, 1, 5])
        sides = judge.fork(2)
        for side, other in zip(sides, reversed(sides), strict=True):
            side.watch(other)

        async def speak(part, turn):
            side, opener = turn
            side.extend(opener)
            finish = (await side.generate(params(20))).finish
            assert side.scope is part and part.ledger.spent == len(opener) + (side.length - 5 - len(opener))
            return finish

        def params(tokens):
            return SamplingParams(max_tokens=tokens, temperature=1.0, logprobs=0, ignore_eos=True)

        async with ctx.lockstep(sides):
            finishes = await ctx.parallel(speak, [(sides[0], [7]), (sides[1], [9])])
        assert set(finishes) <= {Finish.LENGTH, Finish.GANG}
        judge.merge(sides)
        judge.extend([11, 12])
        await judge.generate(params(8))
        trace = ctx.state.trace
        for side, other in zip(trace.segments[1:3], (trace.segments[2], trace.segments[1]), strict=True):
            seen = side.seen[other.id]
            # Tokens that were still pending at the merge were computed by the judge, and what they saw is known too.
            assert len(seen) == len(side) and seen[-1] == len(other)
        check(trace)


async def test_more_branches_than_the_width_cannot_step_together():
    async with context(engine(), width=1) as ctx:
        sides = ctx.open([3, 1, 4]).fork(2)
        with pytest.raises(InvalidBudget, match=r"2 branches are to step together: budget\.width is 1"):
            async with ctx.lockstep(sides):
                raise AssertionError("not reached")
