"""Capped scores are trained as they are served."""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait import Runtime, SelfConsistency
from plait.rl.capped import NAME, attention
from plait.rl.samples import IGNORED, collate, trace_samples
from plait.tests.rl.tools import folder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("model"), "gemma2", sliding_window=2048)


def test_trees_have_the_log_probabilities_that_the_engine_recorded(path):
    async def sampled():
        async with Runtime(str(path), kv_tokens=1024) as runtime:
            job = SelfConsistency(prompt="q1?", n=3, max_tokens=12, temperature=1.0)
            return (await (await runtime.submit(job, seed=1))).trace

    (sample,) = trace_samples(asyncio.run(sampled()))
    batch = collate([sample])
    labels = batch.pop("shift_labels")
    del batch["labels"]
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention(path))
    logprobs = model(**batch).logits.log_softmax(-1)
    found = logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != IGNORED]
    torch.testing.assert_close(found, sample.logprobs()[labels != IGNORED], rtol=0, atol=1e-4)
    found.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("lengths", [(7, 7), (7, 4)])
def test_padded_batches_are_those_of_the_plain_form(path, lengths):
    ids = torch.arange(14).reshape(2, 7) + 5
    mask = torch.tensor([[i < length for i in range(7)] for length in lengths]).long()
    own, plain = (
        AutoModelForCausalLM.from_pretrained(path, attn_implementation=how) for how in (attention(path), "eager")
    )
    with torch.no_grad():
        logits = [model(input_ids=ids, attention_mask=mask).logits[mask > 0] for model in (own, plain)]
    assert torch.equal(*logits)


def test_other_models_attend_as_before(path, tmp_path):
    assert attention(path) == NAME
    assert attention(folder(tmp_path)) == "sdpa"
