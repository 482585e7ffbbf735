"""What a trace of the native engine says is what the model saw: one masked forward gives the recorded logprobs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import APR, Finish, InvalidBudget, Runtime, SamplingParams, SelfConsistency
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.trace.sights import sights
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.tools import context

HF_MODEL, FOLDER = tiny("llama")
TOLERANCE = 1e-4


def engine(**options):
    return NativeEngine(load_model(FOLDER), IdTokenizer(131, (130,)), NativeOptions(kv_tokens=8192, **options))


def masked_logprobs(trace):
    """Log-probabilities of all sampled tokens by one dense forward over the whole trace, mask from the views alone."""
    places = [(segment.id, i) for segment in trace.segments for i in range(len(segment))]
    starts = dict(zip(places, range(len(places)), strict=True))
    looked = [[{s.segment: s.end for s in seen} for seen in sights(trace, segment)] for segment in trace.segments]

    def visible(query, key):
        segment, index = query
        if segment == key[0]:
            return key[1] <= index
        return key[1] < looked[segment][index].get(key[0], 0) if index < len(looked[segment]) else False

    mask = torch.tensor([[visible(query, key) for key in places] for query in places])
    tokens = [token for segment in trace.segments for token in segment.token_ids]
    positions = [trace.segments[segment].position + i for segment, i in places]
    with torch.no_grad():
        logits = HF_MODEL(
            torch.tensor([tokens]), attention_mask=mask[None, None], position_ids=torch.tensor([positions])
        ).logits[0]
    logprobs = logits.log_softmax(-1)
    found, recorded = [], []
    for segment in trace.segments:
        # What predicts a segment's first token is the last token of its view.
        before = [starts[span.segment, span.length - 1] for span in segment.view if span.is_text][-1:]
        for piece, first in zip(segment.pieces, offsets(segment), strict=True):
            for i, token in enumerate(piece.token_ids):
                if piece.kind == "sampled":
                    at = starts[segment.id, first + i] - 1 if first + i else before[0]
                    found.append(logprobs[at, token].item())
                    recorded.append(piece.logprobs[i])
    return found, recorded


def offsets(segment):
    sizes = [len(piece.token_ids) for piece in segment.pieces]
    return [sum(sizes[:i]) for i in range(len(sizes))]


def check(trace):
    found, recorded = masked_logprobs(trace)
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
