"""Constraints in the vllm engine, on vLLM's CPU build: the native engine's texts, and vLLM's processes stay up."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import pytest_asyncio
import torch

pytest.importorskip("vllm")

from plait import (
    ChoiceConstraint,
    Constraint,
    FinishReason,
    GrammarConstraint,
    InvalidInput,
    JsonConstraint,
    RegexConstraint,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    TreeSearch,
    UnsupportedByEngine,
)
from plait.runtime.engines.registry import load_engine
from plait.runtime.engines.vllm.constrained import KEY, arguments
from plait.runtime.engines.vllm.process import _processes
from plait.runtime.engines.vllm.processors import RunnerConstrained
from plait.tests.runtime.engines.constraints.byte_model import EOS, save_byte_model
from plait.tests.runtime.engines.tools import written
from plait.tests.runtime.engines.vllm.test_vllm import OPTIONS, idle

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"enum": ["x", "yy"]}, "maxItems": 2}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "json": JsonConstraint(json_schema=SCHEMA),
    "regex": RegexConstraint(pattern="(ab|é)+z"),
    "choice": ChoiceConstraint(choices=("one", "two", "twofold")),
    "grammar": GrammarConstraint(grammar='start: "(" start ")" | "x"'),
    "anything": GrammarConstraint(grammar="start: /(?s:.*)/"),
}
AMBIGUOUS = "start: s0\n" + "\n".join(f's{i}: s{i} s{(i + 1) % 20} | s{(i * 7 + 1) % 20} | "a"' for i in range(20))
"""Too much for the library's limits within some forty letters."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder():
    return save_byte_model(hidden_size=128)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(folder):
    async with Runtime(f"vllm:{folder}", context_limit=512, **OPTIONS) as rt:
        yield rt
    assert not _processes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def native(folder):
    async with Runtime(str(folder), dtype="float32") as rt:
        yield rt


async def write(rt, constraint, *, max_tokens=60, prompt=(65, 66), seed=0, **params):
    branch = rt.engine.open(list(prompt), seed=seed)
    try:
        return await branch.generate(SamplingParams(max_tokens=max_tokens, constraint=constraint, **params))
    finally:
        branch.close()


async def both(served, native, constraint, **params):
    there, here = [await write(rt, constraint, **params) for rt in (served, native)]
    assert there.token_ids == here.token_ids and there.finish_reason is here.finish_reason
    if params.get("logprobs") is not None:
        assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4) and len(there.logprobs) == len(there.token_ids)
        assert [list(top) for top in there.top_logprobs or ()] == [list(top) for top in here.top_logprobs or ()]
    return there


@pytest.mark.parametrize("kind", CONSTRAINTS)
async def test_greedy_texts_and_their_log_probabilities_are_the_native_engines(served, native, kind):
    done = await both(served, native, CONSTRAINTS[kind].plain(), logprobs=2)
    assert len(done.token_ids) > 1


@pytest.mark.parametrize("method", [Sequential, SelfConsistency])
async def test_jobs_too(served, native, method):
    job = method(prompt="ab", constraint=CONSTRAINTS["json"], temperature=0.0, max_tokens=40)
    here, there = [await (await rt.submit(job)) for rt in (native, served)]
    assert written(there) == written(here) and there.text == here.text and there.text.startswith("{")


async def test_samples_are_what_the_constraint_allows(served):
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2}
    for seed in range(4):
        wanted = [JsonConstraint(json_schema=schema).plain(), Constraint(kind="regex", source="[ab]{2,5}(c|dé)")]
        done = [await write(served, one, temperature=1.0, seed=seed, max_tokens=400) for one in wanted]
        assert [one.finish_reason for one in done] == [FinishReason.EOS] * 2
        assert len(json.loads(done[0].text)) <= 2 and re.fullmatch(wanted[1].source, done[1].text)


async def test_a_batch_that_changes_changes_nothing(served, native):
    """Rows are taken over and moved as requests come and end, bound and free ones."""
    wanted = [
        Constraint(kind="regex", source=f"[a-f]{{{length}}}") if length % 3 else None for length in (1, 9, 30, 2, 5, 17)
    ] * 3
    params = [{"max_tokens": 4 + 3 * i, "seed": i, "prompt": (65, 66 + i % 5)} for i in range(len(wanted))]
    alone = [await write(native, one, **own) for one, own in zip(wanted, params, strict=True)]
    together = await asyncio.gather(*(write(served, one, **own) for one, own in zip(wanted, params, strict=True)))
    assert [done.token_ids for done in together] == [done.token_ids for done in alone]
    await idle(served.engine)


async def test_a_text_goes_on_from_what_was_written_before(served, native):
    constraint = Constraint(kind="regex", source="([0-9]{3};){4}")
    before = tuple(served.engine.tokenizer.encode_continuation((), "12"))
    done = await both(served, native, constraint, constrained=before)
    assert re.fullmatch(constraint.source, f"12{done.text}")
    digits = tuple(served.engine.tokenizer.encode_continuation((), "3;45"))
    for logprobs in (None, 0):
        done = await both(served, native, constraint, constrained=before, forced=digits, logprobs=logprobs)
        assert done.token_ids[: len(digits)] == list(digits) and re.fullmatch(constraint.source, f"12{done.text}")
    whole = tuple(served.engine.tokenizer.encode_continuation((), "345;6"))
    for logprobs in (None, 0):
        await both(served, native, constraint, forced=whole, max_tokens=2, logprobs=logprobs)
    for given in ({"constrained": (65,)}, {"forced": digits[:1] * 4}):
        with pytest.raises(InvalidInput, match="does not allow token"):
            await write(served, constraint, **given)


async def test_ends_and_shapes(served, native):
    constraint = Constraint(kind="regex", source="[ab]{2}(cc|dd)[ab]{9}")
    assert (await both(served, native, constraint, stop=("cc", "dd"))).finish_reason is FinishReason.STOP
    assert (await both(served, native, constraint, stop_token_ids=(7,), forbidden_ids=(EOS,))).stop == 7
    await both(served, native, constraint, logit_bias={ord("d") - 33: 50.0}, repetition_penalty=1.3, logprobs=3)
    assert (await both(served, native, constraint, max_tokens=0)).token_ids == []


async def test_dead_ends_are_errors_of_that_generation_alone(served, native):
    other = asyncio.ensure_future(write(served, None, max_tokens=100, ignore_eos=True))
    dead = Constraint(kind="regex", source="a(x|y)")
    for temperature in (0.0, 1.0):
        for rt in (native, served):
            with pytest.raises(InvalidInput, match="no token that the constraint allows"):
                await write(rt, dead, forbidden_ids=(ord("x") - 33, ord("y") - 33), temperature=temperature)
    complex_ = Constraint(kind="grammar", source=AMBIGUOUS)
    for rt in (native, served):
        with pytest.raises(InvalidInput, match="too complex"):
            await write(rt, complex_, forbidden_ids=(EOS,), max_tokens=100)
    assert len((await other).token_ids) == 100
    assert (await write(served, dead)).text in ("ax", "ay")
    await idle(served.engine)


async def test_tree_search_holds_it_over_all_steps(served):
    method = TreeSearch(
        prompt="ab", constraint=RegexConstraint(pattern="([0-9]{2};){3}end"), delimiters=(";",), width=3,
        strategy="rebase", reward=lambda prompt, steps: 0.5, temperature=1.0,
    )  # fmt: skip
    result = await (await served.submit(method, seed=1))
    assert re.fullmatch(method.constraint.pattern, result.text) and len(result.details["levels"]) == 4


async def test_what_is_wrong_is_refused_at_submit(served):
    for constraint in (RegexConstraint(pattern="("), JsonConstraint(json_schema={"type": "nonsense"})):
        with pytest.raises(InvalidInput):
            await served.submit(Sequential(prompt="ab", constraint=constraint))
    assert not served.jobs


async def test_without_a_mask_they_are_refused_at_submit(folder):
    guessing = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    engine = load_engine(f"vllm:{folder}", {**OPTIONS, "context_limit": 512, "speculative_config": guessing})
    assert not engine.capabilities.constrained and not engine.config.model_config.logits_processors
    with pytest.raises(UnsupportedByEngine, match="speculative.*native"):
        Sequential(prompt="ab", constraint=CONSTRAINTS["choice"]).check(engine)


async def test_ones_own_processors_stay(folder):
    own = "plait.tests.runtime.engines.vllm.own:Processor"
    engine = load_engine(f"vllm:{folder}", {**OPTIONS, "context_limit": 512, "logits_processors": [own]})
    first, second = engine.config.model_config.logits_processors
    assert first == own and second.endswith(".processors:Constrained")


async def test_slots_of_the_second_runner(folder):
    """Its interface, on tensors as it has them: it runs on GPUs alone."""
    slots = torch.zeros(4, 32, dtype=torch.int32)
    state = SimpleNamespace(
        prompt_len=SimpleNamespace(np=np.zeros(4, dtype=np.int32)), all_token_ids=SimpleNamespace(gpu=slots)
    )
    config = SimpleNamespace(model_config=SimpleNamespace(tokenizer=str(folder)))
    processor = RunnerConstrained(config, state)
    params = SamplingParams(constraint=Constraint(kind="choice", source='["xy", "xz"]'))
    x, y, z = (ord(letter) - 33 for letter in "xyz")
    assert processor.add_request(2, SimpleNamespace(extra_args=arguments(params, ())))
    assert not processor.add_request(0, SimpleNamespace(extra_args=None))
    state.prompt_len.np[2] = 3

    def allowed(length):
        logits = torch.zeros(2, 272)
        context = SimpleNamespace(idx_mapping_np=np.array([0, 2]), seq_lens_upper_bound_np=np.array([9, length]))
        assert processor.apply(logits, context) is logits and logits[0].isfinite().all()
        return logits[1].isfinite().nonzero()[:, 0].tolist()

    assert allowed(2) == allowed(3) == [x]
    slots[2, 3] = x
    assert allowed(4) == [y, z]
    slots[2, 4] = z
    assert allowed(5) == [EOS]
    # Another request in its place, resumed behind what it had written.
    assert processor.add_request(2, SimpleNamespace(extra_args=arguments(params, (x,))))
    slots[2, 3] = y
    assert allowed(3) == [y, z] and allowed(4) == [EOS]
    assert not processor.add_request(2, SimpleNamespace(extra_args={KEY: None}))
    assert len(allowed(5)) == 272
