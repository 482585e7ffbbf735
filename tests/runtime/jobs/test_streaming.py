"""What a job's text events say, joined, is the text that it ends with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Budget, Runtime, Sequential
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.events import Text
from plait.runtime.result import Outcome
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
