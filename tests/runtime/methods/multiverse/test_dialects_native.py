"""The dialects on real KV: what decoding gave is what one dense forward over the same tokens gives."""

from __future__ import annotations

import pytest
import torch

from plait import Multiverse, Runtime
from plait.rl.masks import text_mask, trace_mask
from plait.runtime.engines.native.loader import load_model
from plait.runtime.methods.multiverse.dialects import DIALECTS, MULTIVERSE
from plait.runtime.methods.multiverse.grammar import blocks
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.multiverse.tools import Par, Play, PlayedEngine, TagTokenizer, render

ORACLE, FOLDER = tiny("qwen3", max_position_embeddings=4096)
MODEL = load_model(FOLDER)
PROMPT = "Q" * 40
TEXT = [
    "let us see ",
    Par({"1": [" a" * 9], "2": [" b" * 20], "3": [" c"]}, "so"),
    "more ",
    Par({"1": [" second" * 4], "2": [" block"], "3": [" d" * 3]}, "end"),
    "it is 7",
]
CASES = [(name, rule) for name in DIALECTS if name != "multiverse" for rule in ("train", "engine")]


async def played(name, rule):
    dialect = DIALECTS[name]
    engine = PlayedEngine(MODEL, Play(TEXT, PROMPT, dialect), dialect=dialect)
    async with Runtime(engine=engine) as runtime:
        method = Multiverse(prompt=PROMPT, dialect=name, positions=rule, num_paths=3, temperature=0)
        result = await (await runtime.submit(method))
        usage = runtime.engine.block_usage()
        assert usage.used == 0 and usage.free + usage.cached == usage.total
    engine.store.check_integrity()
    assert result.text == render(TEXT, dialect) and not result.usage.counts
    return result


def dense(mask):
    """(L,) log-probability of every token in one forward with the mask written out."""
    with torch.no_grad():
        logits = ORACLE(mask.input_ids(), attention_mask=mask.dense(), position_ids=mask.position_ids()).logits[0]
    source = torch.from_numpy(mask.source).long()
    found = logits.log_softmax(-1)[source, torch.tensor(mask.token_ids)]
    return torch.where(source < 0, torch.zeros(()), found)


def recorded(segments):
    pieces = [piece for segment in segments for piece in segment.pieces if piece.kind == "sampled"]
    return torch.tensor([p for piece in pieces for p in piece.logprobs])


@pytest.mark.parametrize(("name", "rule"), CASES)
async def test_a_dense_forward_gives_what_decoding_gave(name, rule):
    result = await played(name, rule)
    mask = trace_mask(result.trace)
    found = dense(mask)[torch.from_numpy(mask.is_sampled)]
    expected = recorded(result.trace.segments)
    assert len(expected) > 100
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "rule"), CASES)
async def test_the_mask_of_a_text_is_that_of_its_run(name, rule):
    """Positions and visibility, worked out from the text alone."""
    result = await played(name, rule)
    dialect, encode = DIALECTS[name], TagTokenizer(DIALECTS[name]).encode
    served = trace_mask(result.trace, result.trace.segments[-1].id)
    end = TagTokenizer.eos_ids
    trained = text_mask(render(TEXT, dialect), encode, rule, prompt=encode(PROMPT), end=end, dialect=dialect)
    assert served.token_ids == trained.token_ids
    assert served.positions.tolist() == trained.positions.tolist()
    assert torch.equal(served.dense(), trained.dense())
    is_causal = torch.equal(served.dense()[0, 0], torch.ones(len(served), len(served)).tril().bool())
    assert is_causal == (dialect.places[rule] == "reread")
    assert (served.positions.tolist() == list(range(len(served)))) == is_causal


async def test_only_the_first_thread_is_not_encoded_again():
    result = await played("threadweaver", None)
    dialect = DIALECTS["threadweaver"]
    text, encode = render(TEXT, dialect), TagTokenizer(dialect).encode
    others = sum(
        len(encode(text[path.start : path.stop])) for block in blocks(text, dialect) for path in block.paths[1:]
    )
    usage = result.usage
    assert usage.prompt_tokens == len(PROMPT) + others and usage.reused_tokens == 0
    sampled = [piece for segment in result.trace.segments for piece in segment.pieces if piece.kind == "sampled"]
    # Every call but the last leaves its last token to whoever goes on from it; nobody goes on from the other threads'.
    pending = len(sampled) - 1 - 2 * 2
    assert usage.prefilled_tokens == usage.prompt_tokens + usage.injected_tokens + pending
    assert usage.total_tokens == len(encode(text)) + 1
    assert [len(join.children) for join in result.trace.joins] == [1, 2] * 2


async def test_contexts_stay_in_view():
    """Contexts that were read in parallel are in no branch's text; the line still sees them behind a join."""
    seen = []
    for contexts in (("alpha", "beta"), ("gamma", "delta")):
        dialect = DIALECTS["threadweaver"]
        engine = PlayedEngine(MODEL, Play(TEXT, f"\n\n{PROMPT}", dialect), dialect=dialect)
        async with Runtime(engine=engine) as runtime:
            method = Multiverse(prompt=PROMPT, dialect="threadweaver", contexts=contexts, temperature=0)
            result = await (await runtime.submit(method))
        assert result.details["contexts"]["encoding"] == "parallel" and result.details["blocks"] == 2
        seen.append(result.trace.segments[-1].pieces[-1].logprobs)
    assert seen[0] != seen[1]


def test_multiverse_is_the_mask_without_a_dialect():
    encode = TagTokenizer().encode
    text = render(TEXT)
    assert text_mask(text, encode).positions.tolist() == text_mask(text, encode, dialect=MULTIVERSE).positions.tolist()
