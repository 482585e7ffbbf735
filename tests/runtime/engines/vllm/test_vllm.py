"""The vllm engine, on vLLM's CPU build and the shipped model: the native engine's tokens, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file

pytest.importorskip("vllm")

# For vLLM's processes: few of them, one thread each on whichever processor is free, and nothing compiled for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import psutil

from plait import (
    APR,
    CodeMonkeys,
    FinishReason,
    Hogwild,
    InvalidInput,
    Multiverse,
    PlaitError,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    TreeSearch,
    UnsupportedByEngine,
    WorkerLost,
)
from plait.runtime.engines.registry import MODELS, load_engine
from plait.runtime.engines.vllm.process import _processes
from plait.tests import real
from plait.tests.agents.sources import repository
from plait.tests.agents.tools import PRETENDED
from plait.tests.runtime.engines.tools import written

PROBLEM = "24 : 63 9 5 2 ;"
OPTIONS = {"dtype": "float32", "enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": 1 << 28}

UNCLOSED = "ignore:.*(Unclosed context|Context.__del__)"
"""What vLLM leaves to the garbage collector when it cannot start."""


def even(prompt, steps):
    return 0.5


METHODS = {
    "sequential": Sequential(prompt=f"seq {PROBLEM}", max_tokens=300),
    "self_consistency": SelfConsistency(prompt=f"seq {PROBLEM}", n=3, max_tokens=60, temperature=0.0),
    "apr": APR(prompt=f"apr {PROBLEM}", dialect="compact", depth=2, context_limit=512),
    "tree_search": TreeSearch(
        prompt=f"step {PROBLEM}", delimiters=(";",), width=4, reward=even, strategy="rebase", temperature=0.0
    ),
}

# One start of vLLM, and so one event loop, for all of these.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    async with Runtime("vllm:countdown", context_limit=2048, **OPTIONS) as rt:
        yield rt
    assert not _processes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def native():
    async with Runtime("countdown", dtype="float32", kv_tokens=40_000) as rt:
        yield rt


def opened(rt, text, **options):
    return rt.engine.open(rt.engine.tokenizer.encode(text), **options)


async def idle(engine):
    """vLLM has nothing to do any more."""
    async with asyncio.timeout(10):
        while engine._llm.get_num_unfinished_requests():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", METHODS)
async def test_greedy_tokens_are_the_native_engines(served, native, name):
    here, there = [await (await runtime.submit(METHODS[name])) for runtime in (native, served)]
    assert there.text == here.text and there.answer == here.answer
    assert there.usage.generated_tokens == here.usage.generated_tokens > 20
    assert written(there) == written(here)


@pytest.mark.parametrize("name", ["sequential", "apr"])
async def test_and_those_of_transformers(served, name):
    async with Runtime("transformers:countdown") as other:
        here, there = [await (await runtime.submit(METHODS[name])) for runtime in (other, served)]
    assert written(there) == written(here)


async def test_the_same_on_a_real_model():
    folder, found = real.folder("smol135"), []
    methods = [
        Sequential(prompt="What is the capital of France?", chat=True, max_tokens=32, temperature=0.0),
        APR(prompt="What is 12 * 13?", chat=True, max_tokens=32, temperature=0.0),
    ]
    for model, options in ((folder, {}), (f"transformers:{folder}", {}), (f"vllm:{folder}", OPTIONS)):
        async with Runtime(str(model), **{"dtype": "float32", "context_limit": 1024} | options) as rt:
            found.append([written(await (await rt.submit(method))) for method in methods])
    assert found[0] == found[1] == found[2]


async def test_multiverse_is_joined_by_its_text(served):
    result = await (await served.submit(Multiverse(prompt=f"mv {PROBLEM}", max_tokens=600)))
    assert result.details["join"] == "text" and result.details["blocks"] >= 1


async def test_code_monkeys_comes_to_an_end(tmp_path):
    """A small model fixes nothing; that what it writes is no edit is normal."""
    folder = real.folder("smol135")
    source = repository(tmp_path, {"texts.py": "def first(text):\n    return text[1]\n"})
    method = CodeMonkeys(
        repository=source, issue="first() gives the second letter", n=2, edits="functions", sandbox=PRETENDED, scan=0,
        test_calls=1, edit_calls=1, max_tokens=16,
    )  # fmt: skip
    async with Runtime(f"vllm:{folder}", context_limit=4096, **OPTIONS) as rt:
        result = await (await rt.submit(method))
    assert [one["calls"] for one in result.details["edit_trajectories"]] == [1, 1]
    assert result.usage.reused_tokens > 0


async def test_what_needs_views_is_refused(served):
    with pytest.raises(UnsupportedByEngine, match="native"):
        await served.submit(Hogwild(prompt="a"))
    branch = served.engine.open([5])
    with pytest.raises(UnsupportedByEngine, match="native"):
        branch.attach_contexts([[6], [7]])
    branch.close()
    method = Sequential(prompt=f"seq {PROBLEM}", contexts=["1", "2"], max_tokens=4)
    with pytest.raises(UnsupportedByEngine, match="native.*encoding='sequential'"):
        await served.submit(method.model_copy(update={"encoding": "parallel"}))
    result = await (await served.submit(method))
    assert result.details["contexts"]["encoding"] == "sequential"


async def test_log_probabilities_are_the_native_engines(served, native):
    params = SamplingParams(max_tokens=24, logprobs=3)
    there, here = [await opened(rt, f"seq {PROBLEM}").generate(params) for rt in (served, native)]
    assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4) and len(there.logprobs) == 24
    for mine, yours in zip(there.top_logprobs, here.top_logprobs, strict=True):
        assert set(mine) == set(yours) and mine == pytest.approx(yours, abs=1e-4)
    forced = SamplingParams(max_tokens=24, logprobs=3, forced=tuple(there.token_ids[:20]))
    again = await opened(served, f"seq {PROBLEM}").generate(forced)
    assert again.token_ids == there.token_ids and again.logprobs == pytest.approx(there.logprobs, abs=1e-4)
    other = SamplingParams(max_tokens=4, logprobs=0, forced=(5, 6, 7, 8, 9))
    there, here = [await opened(rt, f"seq {PROBLEM}").generate(other) for rt in (served, native)]
    assert there.token_ids == here.token_ids == [5, 6, 7, 8]
    assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4)


async def test_tokens_that_the_model_has_not_end_no_engine(served):
    branch = opened(served, f"seq {PROBLEM}")
    for wrong in ([5000], [served.engine.vocab_size], [-1], ["a"], [1.5]):
        for take in (served.engine.open, branch.extend):
            with pytest.raises(InvalidInput, match="token id"):
                take(wrong)
    generation = branch.generate(SamplingParams(max_tokens=5))
    assert [token async for token in generation] == (await generation).token_ids


async def test_biases_and_forbidden_tokens_hold(served, native):
    plain = await opened(served, f"seq {PROBLEM}").generate(SamplingParams(max_tokens=1))
    for shape in ({"forbidden_ids": (plain.token_ids[0],)}, {"logit_bias": {7: 500.0}}, {"repetition_penalty": 3.0}):
        params = SamplingParams(max_tokens=6, **shape)
        there, here = [await opened(rt, f"seq {PROBLEM}").generate(params) for rt in (served, native)]
        assert there.token_ids == here.token_ids != plain.token_ids
    everything = tuple(range(served.engine.tokenizer.vocab_size))
    only = SamplingParams(max_tokens=3, temperature=2.0, forbidden_ids=everything[:7] + everything[8:])
    assert (await opened(served, "seq").generate(only)).token_ids == [7, 7, 7]


async def test_samples_are_seeded_by_their_place(served):
    params, found = SamplingParams(max_tokens=12, temperature=2.0, ignore_eos=True), []
    for seed in (1, 1, 2):
        branches = served.engine.open([0, 5], seed=seed).fork(2)
        found.append([done.token_ids for done in await asyncio.gather(*(b.generate(params) for b in branches))])
    assert found[0] == found[1] != found[2] and found[0][0] != found[0][1]


@pytest.mark.parametrize("is_read", [False, True])
async def test_forks_find_the_prefix_of_their_parent(served, is_read):
    parent = served.engine.open([3 + is_read, *range(10, 210)])
    if is_read:
        assert (await parent.generate(SamplingParams(max_tokens=0))).prefilled_tokens == 201
    children = parent.fork(8)
    for number, child in enumerate(children):
        child.extend([20 + number])
    done = await asyncio.gather(*(child.generate(SamplingParams(max_tokens=4)) for child in children))
    reused = sorted(one.reused_tokens for one in done)
    assert reused == [192 if is_read else 0, *[192] * 7]
    assert sum(one.prefilled_tokens for one in done) == 8 * 202 - sum(reused)
    parent.close(), [child.close() for child in children]


async def test_stops_limits_and_windows(served, native):
    for shape in ({"stop": ("=",)}, {"stop": ("=",), "include_stop": True}, {"stop_token_ids": (12, 15)}):
        params = SamplingParams(max_tokens=80, **shape)
        there, here = [await opened(rt, f"seq {PROBLEM}").generate(params) for rt in (served, native)]
        assert (there.token_ids, there.text, there.stop) == (here.token_ids, here.text, here.stop)
        assert there.finish_reason is here.finish_reason
    await idle(served.engine)
    branch = served.engine.open([5] * 20, context_limit=30)
    assert (await branch.generate(SamplingParams(ignore_eos=True))).finish_reason is FinishReason.CONTEXT
    # Paths are written side by side and read one behind another: more tokens than positions.
    root = served.engine.open([5] * 1000)
    paths = root.fork(2)
    for path in paths:
        path.extend([6] * 600)
    root.merge(paths)
    assert root.length == 2200 > served.engine.context_limit > root.position
    assert (await root.generate(SamplingParams(max_tokens=5))).finish_reason is FinishReason.CONTEXT


async def test_cancelling_ends_the_request(served):
    job = await served.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=1500, stop=["never"]))
    async with asyncio.timeout(10):
        while not served.engine._llm.get_num_unfinished_requests():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    job.cancel()
    await job.wait()
    await idle(served.engine)
    branch = served.engine.open([5] * 20)
    generation = branch.generate(SamplingParams(max_tokens=1000, ignore_eos=True))
    async with contextlib.aclosing(generation):
        async for _ in generation:
            break
    await idle(served.engine)
    assert 0 < branch.length - 20 < 1000
    branch.close()


@pytest.mark.parametrize("temperature", [2.5, 0.001])
async def test_what_vllm_does_not_sample_is_refused(served, temperature):
    branch = served.engine.open([5])
    with pytest.raises(InvalidInput, match="from 0.01 to 2"):
        branch.generate(SamplingParams(temperature=temperature))
    branch.close()
    empty = served.engine.open()
    with pytest.raises(InvalidInput, match="without tokens"):
        await empty.generate(SamplingParams(max_tokens=1))
    empty.close()


async def test_an_engine_whose_process_has_ended_says_so(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # With a worker behind the process.
    others = set(psutil.Process().children(recursive=True))
    async with Runtime("vllm:countdown", context_limit=512, **OPTIONS) as rt:
        # The tracker of shared memory is this process's, and stays.
        own = {*rt.engine._workers, *map(psutil.Process, (process.pid for process in _processes()))} - others
        assert len(rt.engine._workers) >= 1
        generation = rt.engine.open([5] * 20).generate(SamplingParams(max_tokens=480, ignore_eos=True))
        for process in _processes():
            if process in {*rt.engine._llm.engine_core.resources.engine_manager.processes}:
                process.kill()
        with pytest.raises(WorkerLost, match="load the engine again"):
            await generation
        with pytest.raises(WorkerLost):
            await rt.engine.open([5]).generate(SamplingParams(max_tokens=1))
    assert not [one for one in own if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.filterwarnings(UNCLOSED)
async def test_loading_leaves_the_loop_free_and_can_be_cancelled(monkeypatch):
    engine = await asyncio.to_thread(load_engine, "vllm:countdown", {"context_limit": 512, **OPTIONS})
    before, longest, last = _processes(), 0.0, asyncio.get_running_loop().time()
    starting = asyncio.create_task(engine.start())
    async with asyncio.timeout(60):
        while not _processes() - before:
            await asyncio.sleep(0.01)
            now = asyncio.get_running_loop().time()
            longest, last = max(longest, now - last), now
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _processes() == before and longest < 2
    await engine.close()
    gc.collect()


async def test_variables_reach_the_chat_template(tmp_path):
    folder = shutil.copytree(MODELS / "countdown", tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% if enable_thinking is false %}1{% else %}2{% endif %}")
    for given, text in (({}, "2"), ({"chat_template_kwargs": {"enable_thinking": False}}, "1")):
        engine = await asyncio.to_thread(load_engine, f"vllm:{folder}", {"context_limit": 512, **OPTIONS, **given})
        said = engine.tokenizer.decode(engine.tokenizer.chat([{"role": "user", "content": "?"}]))
        assert said.strip() == text
        await engine.close()
    with pytest.raises(InvalidInput, match="chat_template_kwargs"):
        load_engine(f"vllm:{folder}", {**OPTIONS, "chat_template_kwargs": {"messages": []}})


@pytest.mark.filterwarnings(UNCLOSED)
async def test_what_cannot_start_is_one_clear_error():
    before = _processes()
    with pytest.raises(PlaitError, match="vLLM cannot start"):
        async with Runtime("vllm:countdown", context_limit=2048, **OPTIONS | {"kv_cache_memory_bytes": 1 << 16}):
            pytest.fail("opened")
    assert _processes() == before
    gc.collect()


REFUSED = {
    "unknown": ({"tensor_paralel_size": 2}, "tensor_parallel_size"),
    "plait's own": ({"context_limit": 0}, "context_limit"),
    "the model twice": ({"model": "other"}, "model"),
    "heads": ({"tensor_parallel_size": 3}, "attention heads|divisible"),
    "quantization": ({"quantization": "int3"}, "quantization"),
    "window": ({"context_limit": 100_000}, "max_model_len|max_position_embeddings"),
    "Ray": ({"distributed_executor_backend": "ray", "tensor_parallel_size": 2}, "[Rr]ay"),
    "type": ({"block_size": "many"}, "block_size"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_vllm_checks_its_own_options(name):
    options, said = REFUSED[name]
    with pytest.raises(InvalidInput, match=said):
        load_engine("vllm:countdown", options)


async def test_options_reach_vllm():
    options = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "max_num_seqs": 7, "seed": 3}
    config = load_engine("vllm:countdown", {**OPTIONS, **options, "context_limit": 300}).config
    assert config.parallel_config.world_size == 4 and config.scheduler_config.max_num_seqs == 7
    assert config.model_config.max_model_len == 300 and config.cache_config.enable_prefix_caching
    spread = load_engine("vllm:countdown", {**OPTIONS, "data_parallel_size": 2}).config.parallel_config
    assert spread.data_parallel_size == 2


async def test_an_adapter_changes_what_is_written(tmp_path, served):
    config = json.loads((Path(MODELS) / "countdown" / "config.json").read_text())
    size, rank = config["hidden_size"], 8
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 64, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    down, up = torch.randn(rank, size), torch.randn(size, rank)
    save_file(
        {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, str(tmp_path / "adapter_model.safetensors")
    )
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    plain = await opened(served, f"seq {PROBLEM}").generate(params)
    async with Runtime("vllm:countdown", context_limit=512, lora=str(tmp_path), **OPTIONS) as rt:
        adapted = await opened(rt, f"seq {PROBLEM}").generate(params)
    assert adapted.token_ids != plain.token_ids
