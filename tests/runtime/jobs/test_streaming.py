"""What a job's text events say, joined, is the text that it ends with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Budget, ChoiceConstraint, Runtime, Sequential, TreeSearch
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.recorder import Recorder
from plait.runtime.engines.replay import ReplayEngine
from plait.runtime.engines.scripted import ScriptedEngine
from plait.runtime.events import Text
from plait.runtime.result import Outcome
from plait.search import Beam
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.tokenizer_kinds import KINDS, ours


class Keeping(Sequential):
    """Its text ends with the stop string, which may end inside a token."""

    async def run(self, ctx):
        branch = self.open(ctx, self.tokens(ctx.tokenizer))
        sample = await branch.generate(replace(self.sampling(ctx), include_stop=True))
        return Outcome(text=sample.text, answer=None, finish=sample.finish)


STOPS = ["a", " the", "\n", "et", "é"]


@cache
def parts(kind: str) -> tuple[Model, HFTokenizer]:
    tokenizer = ours(kind)
    return load_model(tiny("llama", vocab_size=tokenizer.vocab_size)[1]), tokenizer


def engine(kind: str) -> NativeEngine:
    return NativeEngine(*parts(kind), NativeOptions(kv_tokens=2048))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    stop=st.lists(st.sampled_from(STOPS), max_size=2),
    ids=st.lists(st.integers(0, 130), max_size=30),
    total=st.one_of(st.none(), st.integers(1, 40)),
    of=st.sampled_from([Sequential, Keeping]),
)
async def test_text_events_join_to_the_text(kind, seed, stop, ids, total, of):
    async with Runtime(engine=engine(kind)) as runtime:
        method = of(prompt="The quick", max_tokens=60, temperature=1.0, stop=tuple(stop), stop_token_ids=tuple(ids))
        job = await runtime.submit(method, seed=seed, budget=Budget(total_tokens=total))
        events = [event async for event in job]
        result = await job
        texts = [event for event in events if isinstance(event, Text)]
        assert "".join(event.text for event in texts) == result.text
        assert sum(event.tokens for event in texts) <= result.usage.generated_tokens
        assert runtime.engine.block_usage().used == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), prompt=st.sampled_from(["The quick", "12 + 345", ""]))
async def test_a_text_goes_on_with_its_prompt(kind, seed, prompt):
    """But not with what the tokenizer puts in front of every text."""
    async with Runtime(engine=engine(kind)) as runtime:
        tokenizer = runtime.tokenizer
        start = prompt or list(tokenizer.prefix_ids or tokenizer.eos_ids)
        method = Sequential(prompt=start, max_tokens=30, temperature=1.0)
        result = await (await runtime.submit(method, seed=seed))
        given, sampled = result.trace.segments[0].pieces
        if start == list(tokenizer.prefix_ids):
            assert sampled.text == tokenizer.decode(sampled.token_ids)
        else:
            assert given.text + sampled.text == tokenizer.decode([*given.token_ids, *sampled.token_ids])
        assert sampled.text.startswith(result.text)
        result.trace.spell()
        assert sum(sampled.chars) == len(sampled.text)


async def run(engine, **fields):
    """The result, and the joined texts of events."""
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Sequential(**fields))
        said = "".join([event.text async for event in job if isinstance(event, Text)])
        return await job, said


@pytest.mark.parametrize("kind", KINDS)
async def test_the_space_between_two_pieces_of_text_stays(kind, tmp_path):
    file, tokenizer = tmp_path / "recording", ours(kind)

    def writing(*texts):
        return ScriptedEngine(texts, tokenizer=tokenizer)

    fields = {"prompt": "The quick", "conclusion": " over the", "answer": "regex:the (lazy)", "max_tokens": 40}
    recorder = Recorder(writing(" brown fox", " lazy dog"), file)
    first = await run(recorder, **fields)
    for result, said in (first, await run(ReplayEngine(file), **fields)):
        assert (result.text, result.answer) == (" brown fox over the lazy dog", "lazy")
        assert said == " brown fox lazy dog"
        result.trace.spell()
        pieces = [piece for segment in result.trace.segments for piece in segment.pieces]
        assert "".join(piece.text for piece in pieces) == tokenizer.decode([t for p in pieces for t in p.token_ids])
        assert all(sum(piece.chars or [0]) == len(piece.text) for piece in pieces if piece.kind == "sampled")

    assert (await run(writing(" brown fox"), prompt="The quick", stop=(" fox",)))[0].text == " brown"
    constraint = ChoiceConstraint(choices=(" brown", " red"))
    assert (await run(writing(" brown"), prompt="The quick", constraint=constraint))[0].text == " brown"


def half(question, steps):
    return 0.5


@pytest.mark.parametrize("kind", KINDS)
async def test_steps_go_on_with_their_prompt(kind):
    """Also those that a generator writes, and those that a stop string cuts."""
    tokenizer, prompt = ours(kind), "The quick"
    fields = {"width": 1, "strategy": Beam(), "delimiters": (" fox",), "reward": half, "max_depth": 2}
    for more, text in (
        ({}, " brown fox jumps over"),
        ({"stop": (" over",)}, " brown fox jumps"),
        ({"generator": Sequential(prompt="x", stop=(" fox",))}, " brown fox jumps over"),
    ):

        def script(context):
            return " brown fox jumps over".removeprefix(context.removeprefix(prompt))

        async with Runtime(engine=ScriptedEngine(script, tokenizer=tokenizer)) as runtime:
            result = await (await runtime.submit(TreeSearch(prompt=prompt, **fields, **more)))
        assert result.text == text, more
