"""`SamplingParams.hidden_state` against transformers' hidden states."""

from __future__ import annotations

import asyncio

import pytest
import torch

from plait import SamplingParams, ScriptedEngine
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_engine import running

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79]


@pytest.fixture(scope="module")
def models():
    hf_model, folder = tiny()

    def states(tokens):
        with torch.inference_mode():
            return hf_model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0]

    return folder, states


def close(found, expected):
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


def engine(folder, **options):
    return NativeEngine(load_model(folder), IdTokenizer(131, ()), NativeOptions(kv_tokens=4096, **options))


async def test_the_mean_over_what_the_tokens_were_sampled_from(models):
    folder, states = models
    async with running(engine(folder, prefill_chunk=5)) as native:
        branches = [native.open(PROMPT, path=(i,)) for i in range(3)]
        wants = SamplingParams(max_tokens=6, hidden_state=True)
        first, other, plain = await asyncio.gather(
            branches[0].generate(wants),
            branches[1].generate(SamplingParams(max_tokens=3, temperature=1.0, hidden_state=True)),
            branches[2].generate(SamplingParams(max_tokens=6)),
        )
        assert plain.hidden_state is None and plain.token_ids == first.token_ids
        close(first.hidden_state, states(PROMPT + first.token_ids)[11:17].mean(0))
        close(other.hidden_state, states(PROMPT + other.token_ids)[11:14].mean(0))
        again = await branches[0].generate(wants)  # of this call's tokens only
        close(again.hidden_state, states(branches[0].tokens)[17:23].mean(0))


async def test_of_the_last_token_without_sampling(models):
    folder, states = models
    probe = SamplingParams(max_tokens=0, hidden_state=True)
    async with running(engine(folder)) as native:
        root = native.open(PROMPT)
        expected = states(PROMPT)[-1]
        fresh = await root.generate(probe)
        close(fresh.hidden_state, expected)
        assert fresh.token_ids == [] and root.tokens == PROMPT and fresh.prefilled_tokens == len(PROMPT)
        close((await root.generate(probe)).hidden_state, expected)  # its keys and values are there: computed again
        forks = root.fork(3)
        for i, fork in enumerate(forks):
            fork.extend([50 + i, 60, 70])
        found = await asyncio.gather(*(fork.generate(probe) for fork in forks))
        for i, completion in enumerate(found):
            close(completion.hidden_state, states([*PROMPT, 50 + i, 60, 70])[-1])
            assert completion.prefilled_tokens == 3


async def test_what_is_rolled_back_does_not_count(models):
    folder, states = models
    async with running(engine(folder)) as native:
        tokenizer = native.tokenizer
        written = (await native.open(PROMPT).generate(SamplingParams(max_tokens=8))).token_ids
        stop = tokenizer.decode(written[3:5])
        params = SamplingParams(max_tokens=8, stop=(stop,), hidden_state=True)
        completion = await native.open(PROMPT).generate(params)
        kept = len(completion.token_ids)
        assert completion.rolled_back > 0 and kept > 0
        close(completion.hidden_state, states(PROMPT + written)[11 : 11 + kept].mean(0))


async def test_engines_without_leave_it_out():
    scripted = ScriptedEngine(["ab"])
    assert not scripted.capabilities.hidden_states
    assert (await scripted.open([0]).generate(SamplingParams(hidden_state=True))).hidden_state is None
    await scripted.close()
