"""ParScale: logits equal plain torch written from the formula; whatever runs on an engine runs on lanes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from plait import InvalidInput, Runtime, Sequential, UnsupportedModel
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import from_transformers, load_config, load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.parallel.sharding import Shard
from plait.runtime.engines.native.pool import KVPool
from plait.tests.runtime.engines.native.helpers import IdTokenizer, Sequences, tiny
from plait.tests.runtime.engines.native.parscale import parscale, save
from plait.tests.runtime.engines.native.test_engine import running

DOCUMENTS = [[(7 * i + 3 * n) % 131 for i in range(n)] for n in (75, 33, 8)]


def engine(folder, **options):
    options.setdefault("kv_tokens", 4096)
    return NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions(**options))


def check(model, folder, *, impl="auto", block_size=16):
    """All documents at once, in pieces of different lengths, then token by token."""
    expected = [model(torch.tensor([document])).logits[0] for document in DOCUMENTS]
    pool = Sequences(load_model(folder, impl=impl), len(DOCUMENTS), block_size=block_size)
    at = [0] * len(DOCUMENTS)
    for piece in (5, 17, 1, 1, 60):
        ends = [min(begin + piece, len(document)) for begin, document in zip(at, DOCUMENTS, strict=True)]
        parts = [document[a:b] for document, a, b in zip(DOCUMENTS, at, ends, strict=True)]
        logits = pool.step(parts)
        wanted = torch.cat([all[a:b] for all, a, b in zip(expected, at, ends, strict=True)])
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
        at = ends


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize(("count", "prefix", "block_size"), [(2, 48, 16), (4, 5, 16), (8, 20, 64), (3, 0, 16)])
def test_logits(count, prefix, block_size, impl):
    check(*parscale(count, prefix=prefix), impl=impl, block_size=block_size)


def test_one_lane_is_qwen2():
    hf_model, folder = tiny("qwen2")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen2_parscale", "architectures": ["Qwen2ParScaleForCausalLM"], "parscale_n": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        check(hf_model, folder)


def test_the_order_of_lanes_means_nothing():
    model, folder = parscale(4)
    before = Sequences(load_model(folder), 1).step([DOCUMENTS[1]])
    order = [2, 0, 3, 1]
    inner, outer = nn.Linear(256, 64), nn.Linear(64, 4)
    with torch.no_grad():
        inner.weight.copy_(model.inner.weight.view(64, 64, 4)[:, :, order].flatten(1))
        inner.bias.copy_(model.inner.bias)
        outer.weight.copy_(model.outer.weight[order])
        outer.bias.copy_(model.outer.bias[order])
    prefixes = {name: [part[order] for part in getattr(model, name)] for name in ("prefix_k", "prefix_v")}
    save(replace(model, inner=inner, outer=outer, **prefixes), folder)
    torch.testing.assert_close(Sequences(load_model(folder), 1).step([DOCUMENTS[1]]), before, atol=1e-4, rtol=1e-4)
    save(replace(model, **prefixes), folder)
    assert (Sequences(load_model(folder), 1).step([DOCUMENTS[1]]) - before).abs().max() > 0.1


def test_full_smoothing_is_the_mean():
    model, folder = parscale(4, smoothing=1.0)
    logits, hidden = Sequences(load_model(folder), 1).forward([DOCUMENTS[1]], [3, 32])
    with torch.no_grad():
        mean = model.hidden(torch.tensor([DOCUMENTS[1]])).mean(0)[[3, 32]]
        torch.testing.assert_close(hidden, mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits, model.base.lm_head(mean), atol=1e-4, rtol=1e-4)


def greedy(model, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


async def test_an_engine_in_a_crowd_in_chunks_and_in_need():
    """Chunked prefill, other branches, and a store from which cached lanes are evicted change nothing."""
    model, folder = parscale(2)
    expected = greedy(model, DOCUMENTS[1], 12)
    params = SamplingParams(max_tokens=12)
    async with running(engine(folder)) as one:
        for _ in range(2):
            branch = one.open(DOCUMENTS[1])
            assert (await branch.generate(params)).token_ids == expected
            branch.close()
        assert one.block_usage().cached > 0
    async with running(engine(folder, prefill_chunk=7, max_rows=9, kv_tokens=160)) as small:
        results = []
        for _ in range(3):
            branches = [small.open(document) for document in (DOCUMENTS[1], DOCUMENTS[2])]
            results += (await asyncio.gather(*(branch.generate(params) for branch in branches)))[:1]
            branches.append(small.open(DOCUMENTS[0]))
            await branches[2].generate(SamplingParams(max_tokens=2))
            for branch in branches:
                branch.close()
        assert [result.token_ids for result in results] == [expected] * 3


def test_a_live_model_that_changes():
    """Prefixes are copied into the pool, and again after `refresh`."""
    model, _ = parscale(2)
    tensors = dict(model.base.state_dict(keep_vars=True))
    for layer, (k, v) in enumerate(zip(model.prefix_k, model.prefix_v, strict=True)):
        tensors |= {f"model.layers.{layer}.self_attn.prefix_k": k, f"model.layers.{layer}.self_attn.prefix_v": v}
    for number, linear in ((0, model.inner), (2, model.outer)):
        tensors |= {f"model.aggregate_layer.{number}.{name}": part for name, part in linear.named_parameters()}
    config = {**model.base.config.to_dict(), "model_type": "qwen2_parscale", "parscale_n": 2, "architectures": None}
    live = from_transformers(
        SimpleNamespace(config=SimpleNamespace(to_dict=lambda: config), state_dict=lambda keep_vars: tensors)
    )
    sequences = Sequences(live, 2)
    for index in range(2):
        parts = [[], []]
        parts[index] = DOCUMENTS[2]
        wanted = model(torch.tensor([DOCUMENTS[2]])).logits[0]
        torch.testing.assert_close(sequences.step(parts), wanted, atol=1e-4, rtol=1e-4)
        for part in (*model.prefix_k, *model.prefix_v):
            part.mul_(-1)
        live.refresh()


def test_memory_is_that_of_all_lanes():
    plain, lanes = load_config(tiny("qwen2")[1]), load_config(parscale(4)[1])
    sizes = [KVPool.bytes_per_block(config, 16, torch.float32) for config in (plain, lanes)]
    assert sizes[1] == 4 * sizes[0]
    pool = KVPool(lanes, 10)
    assert list(pool.pinned) == [10, 11, 12] and pool.num_blocks == 10
    assert pool.k[0].shape == (13, 8, 16, 16)
    assert not KVPool(plain, 10).pinned


async def test_parallel_contexts_and_jobs():
    """A runtime's books do not know of lanes."""
    _, folder = parscale(2)
    async with Runtime(engine=engine(folder)) as runtime:
        contexts = [tuple(document[:20]) for document in DOCUMENTS[:2]]
        method = Sequential(prompt=[1, 2, 3], instruction="5.6.", contexts=contexts, max_tokens=5, temperature=0.0)
        result = await (await runtime.submit(method))
        assert result.usage.generated_tokens == 5 and result.details["contexts"]["encoding"] == "parallel"
        again = await (await runtime.submit(method))
        assert again.text == result.text and again.usage.reused_tokens > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"parscale_n": 0}, InvalidInput, "parscale_n must be a positive integer"),
        ({"parscale_n_tokens": -1}, InvalidInput, "parscale_n_tokens"),
        (
            {"parscale_n": 3},
            InvalidInput,
            r"prefix_k has shape \(2, 2, 48, 16\), config.json asks for \(3, 2, 48, 16\)",
        ),
        (
            {"use_sliding_window": True, "max_window_layers": 0, "layer_types": None},
            UnsupportedModel,
            "sliding windows",
        ),
    ],
)
def test_what_cannot_be_loaded(changes, error, message):
    _, folder = parscale(2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 8, **changes}))
    with pytest.raises(error, match=message):
        load_model(folder)


def test_several_processes_are_refused():
    with pytest.raises(InvalidInput, match="tensor_parallel does not know"):
        Shard(load_config(parscale(2)[1]), 0, 2)
