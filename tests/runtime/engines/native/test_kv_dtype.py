"""Keys and values in 8 bits: the engine's promises hold, and what they cost."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plait import Completion, NonFiniteLogits, Runtime, SamplingParams, Sequential
from plait.runtime.engine import Branch
from plait.runtime.engines.native import assembly, opening
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.pool import KVPool
from plait.runtime.errors import InvalidInput
from plait.tests import real
from plait.tests.runtime.engines.native.helpers import IdTokenizer, Sequences, tiny
from plait.tests.runtime.engines.native.test_context_store import CONTEXTS, TOTAL, files, run
from plait.tests.runtime.engines.native.test_contexts import ask, logprobs, text
from plait.tests.runtime.engines.native.test_engine import running
from plait.tests.runtime.engines.native.test_pressure import close, generate

VOCAB = 131
FOLDER = tiny("qwen3", max_position_embeddings=1024, seed=8)[1]


def engine(folder: Path = FOLDER, *, impl: Any = "auto", dtype: Any = "auto", **options: Any) -> NativeEngine:
    chosen = NativeOptions(**{"kv_tokens": 8192, "kv_dtype": "int8", **options})
    return NativeEngine(load_model(folder, impl=impl, dtype=dtype), IdTokenizer(VOCAB), chosen)


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(length)]


async def _await(generation: Any) -> Any:
    return await generation


@pytest.mark.parametrize("impl", ["cpu", "torch"])
@pytest.mark.parametrize(("dtype", "num_threads"), [("auto", 1), (torch.bfloat16, 2)])
async def test_same_tokens_alone_in_a_crowd_and_in_chunks(impl: Any, dtype: Any, num_threads: int) -> None:
    """Greedy and sampled, with log-probabilities, in bursts and in single steps."""
    if impl == "torch" and dtype == torch.bfloat16:
        pytest.skip("torch's products in bfloat16 depend on the number of rows, whatever the KV")
    greedy = SamplingParams(max_tokens=120)
    sampled = SamplingParams(max_tokens=60, temperature=1.2, top_p=0.95, logprobs=2)
    options = {"impl": impl, "dtype": dtype, "num_threads": num_threads}
    async with running(engine(**options)) as one:
        alone = [await _fresh(one, 3, params) for params in (greedy, sampled)]
        crowd = [one.open(prompt(20 + i, i + 1), job=str(i % 3)) for i in range(12)]
        others = [_await(branch.generate(SamplingParams(max_tokens=100 + 3 * i))) for i, branch in enumerate(crowd)]
        again = [_await(_open(one, 3).generate(params)) for params in (greedy, sampled)]
        crowded = (await asyncio.gather(*again, *others))[:2]
    async with running(engine(prefill_chunk=7, max_rows=9, **options)) as small:
        branches = [_open(small, 3), _open(small, 3), small.open(prompt(50, 9))]
        params = (greedy, sampled, SamplingParams(max_tokens=40))
        chunks = await asyncio.gather(*(_await(b.generate(p)) for b, p in zip(branches, params, strict=True)))
    for found in (crowded, chunks):
        assert [c.token_ids for c in found[:2]] == [c.token_ids for c in alone]
        if impl == "cpu":
            assert found[1].logprobs == alone[1].logprobs
        else:  # torch's products depend on the number of rows
            assert found[1].logprobs == pytest.approx(alone[1].logprobs, abs=1e-2)


def _open(one: NativeEngine, seed: int) -> Branch:
    return one.open(prompt(37), path=(1,), seed=seed)


async def _fresh(one: NativeEngine, seed: int, params: SamplingParams) -> Completion:
    """Nothing of it stays in the store: what is read from two runs is added up in another order than from one."""
    branch = _open(one, seed)
    completion = await branch.generate(params)
    branch.close()
    one.store.evict_all()
    return completion


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_swapped_out_and_back_changes_nothing(temperature: float) -> None:
    params = [SamplingParams(max_tokens=60 + 9 * i, temperature=temperature, ignore_eos=True) for i in range(8)]
    large = engine()
    await large.start()
    expected = await generate(large, params)
    assert large.scheduler.pressure.num_preemptions == 0
    await close(large)
    small = engine(kv_tokens=288)
    await small.start()
    assert await generate(small, params) == expected
    assert small.scheduler.pressure.num_preemptions > 0
    assert small.store.swap is not None and small.store.swap.moved_in > 0
    await close(small)


async def test_drafts_change_nothing() -> None:
    unit = prompt(11)
    found = []
    for rows in (0, 16):
        async with running(engine(draft_rows=rows)) as one:
            done = await one.open(unit * 6).generate(SamplingParams(max_tokens=80, ignore_eos=True, logprobs=0))
            found.append((done.token_ids, done.logprobs))
            assert (done.drafted_tokens > 0) == (rows > 0)
    assert found[0] == found[1]


async def test_cached_prefixes_are_met_again() -> None:
    async with running(engine()) as one:
        first = one.open(prompt(100))
        expected = (await first.generate(SamplingParams(max_tokens=30))).token_ids
        first.close()
        again = await one.open(prompt(100)).generate(SamplingParams(max_tokens=30))
        assert again.prefilled_tokens == 4 and again.token_ids == expected


async def test_contexts_on_disk(tmp_path: Path) -> None:
    """Another engine takes them to the bit, unless its keys and values are of another type."""
    (cold,) = await run(tmp_path, ask(CONTEXTS), kv_dtype="int8")
    (warm,) = await run(tmp_path, ask(CONTEXTS), kv_dtype="int8")
    assert (cold.usage.reused_tokens, warm.usage.reused_tokens) == (0, TOTAL)
    assert (warm.text, logprobs(warm)) == (cold.text, logprobs(cold))
    written = files(tmp_path)
    assert len(written) == 3
    (plain,) = await run(tmp_path, ask(CONTEXTS))
    assert plain.usage.reused_tokens == 0 and len(files(tmp_path)) == 6
    (again,) = await run(tmp_path, ask(CONTEXTS))
    assert again.usage.reused_tokens == TOTAL
    assert logprobs(plain) == logprobs(again) != logprobs(cold)


async def test_what_the_last_block_held_before_is_not_written(tmp_path: Path) -> None:
    """Files of the same contexts are the same, whatever stood in their blocks."""
    found = []
    for name, before in (("a", []), ("b", [ask([text(9, 200)], instruction="9.")])):
        folder = tmp_path / name
        await run(folder, *before, ask(CONTEXTS), kv_dtype="int8", kv_tokens=320)
        found.append({path.name: load_file(path) for path in files(folder)})
    assert len(found[0]) == 3
    for file, tensors in found[0].items():
        assert all(torch.equal(tensor, found[1][file][key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
async def test_a_broken_generation_fails_alone(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "is_finite", lambda weights: True)
    hf_model, folder = tiny("llama", seed=2)
    with torch.no_grad():
        hf_model.model.embed_tokens.weight[77] = bad
    hf_model.save_pretrained(folder)
    params = SamplingParams(max_tokens=30, forbidden_ids=(77,))
    sound = [token for token in prompt(50, 1) if token != 77]
    async with running(engine(folder)) as one:
        expected = (await one.open(sound).generate(params)).token_ids
        one.store.evict_all()
        good, broken = one.open(sound), one.open([*prompt(20, 3), 77])
        generation = good.generate(params)
        with pytest.raises(NonFiniteLogits):
            await broken.generate(params)
        broken.close()
        assert (await generation).token_ids == expected


def test_memory() -> None:
    config = load_model(FOLDER).config
    sizes = [KVPool.bytes_per_block(config, 16, dtype) for dtype in (torch.float32, torch.bfloat16, torch.int8)]
    size = config.head_dim
    assert sizes[0] == 2 * sizes[1] and sizes[2] / sizes[1] == (size + 4) / (2 * size)
    for dtype, expected in zip((torch.float32, torch.bfloat16, torch.int8), sizes, strict=True):
        pool = KVPool(config, 7, 16, dtype)
        assert sum(tensor.nbytes for tensor in (*pool.k, *pool.v)) == 7 * expected


async def test_more_tokens_fit_into_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "default_blocks", lambda block_bytes, *_: (1 << 20) // block_bytes)
    stores = [engine(kv_tokens=None, kv_dtype=kind).store.num_blocks for kind in (None, "int8")]
    assert stores[1] > 3 * stores[0]  # the model is in float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_dtype": "int4"}, "unknown kv_dtype 'int4'; known: int8"),
        ({"kv_dtype": 8}, "unknown kv_dtype 8"),
        ({"kv_dtype": "int8", "tensor_parallel": 2}, "one process"),
        ({"kv_dtype": "int8", "impl": "triton"}, "for the CPU"),
        ({"kv_dtype": "int8", "device": "meta"}, "cannot be used here"),
    ],
)
def test_refusals(options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=words):
        NativeEngine.load(Path("no such folder"), **options)


def test_a_gpu_is_refused() -> None:
    with pytest.raises(InvalidInput, match="kv_dtype='int8' is for the CPU"):
        NativeOptions(kv_dtype="int8", device="cuda:1")
    model = load_model(FOLDER)
    model.device = torch.device("meta")
    with pytest.raises(InvalidInput, match="the model is on meta"):
        NativeEngine(model, IdTokenizer(VOCAB), NativeOptions(kv_dtype="int8"))


@pytest.mark.parametrize("name", ["smol135", "q05"])
def test_real_models_agree(name: str) -> None:
    """On prose the likeliest next token is nearly always the one of keys and values in bfloat16."""
    from transformers import AutoTokenizer

    folder = real.folder(name)
    prose = (Path(real.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(prose)["input_ids"][:256])
    model = load_model(folder, dtype=torch.bfloat16)
    found = [Sequences(model, 1, dtype=dtype).step([ids.tolist()]) for dtype in (torch.bfloat16, torch.int8)]
    losses = [torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item() for logits in found]
    assert (found[0].argmax(-1) == found[1].argmax(-1)).float().mean() >= 0.95
    assert abs(losses[1] - losses[0]) < 0.02


async def test_a_real_model_decodes_alone_as_among_others() -> None:
    async def ask_for(runtime: Runtime, index: int) -> str:
        method = Sequential(prompt=f"The number {index} is", max_tokens=12, temperature=0.8)
        return (await (await runtime.submit(method, seed=index))).text

    async with Runtime(str(real.folder("smol135")), kv_dtype="int8") as runtime:
        alone = [await ask_for(runtime, i) for i in range(3)]
        together = await asyncio.gather(*(ask_for(runtime, i) for i in range(12)))
    assert alone == together[:3] and all(alone)
