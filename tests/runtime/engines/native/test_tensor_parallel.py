"""A model split among processes computes what one process computes, and they come and go with their engine."""

from __future__ import annotations

import asyncio
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import plait
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.checkpoint import open_checkpoint
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.parallel import model as parallel_model
from plait.runtime.engines.native.parallel.collectives import Collectives, open_store
from plait.runtime.engines.native.parallel.messages import READY
from plait.runtime.engines.native.parallel.model import load_parallel
from plait.runtime.engines.native.parallel.sharding import Shard, rank_devices
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native.gguf_files import write_gguf
from plait.tests.runtime.engines.native.helpers import FAMILIES, IdTokenizer, Sequences, tiny
from plait.tests.runtime.engines.native.test_quantised import quantised
from plait.tests.runtime.methods.multiverse.tools import Par, Play, PlayedEngine

COUNTDOWN = Path(plait.__file__).parent / "models/countdown"
PHI4 = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.1] * 6, "long_factor": [3.0] * 6,
        "partial_rotary_factor": 0.75,
    },
    "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "untied": ("llama", {"tie_word_embeddings": False}),
    "tied": ("qwen2", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "biases-behind": ("qwen3", {"attention_bias": True}),
    "window": ("mistral", {"sliding_window": 10}),
    "phi4": ("phi3", {**PHI4, "sliding_window": 20}),
}
THREE: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96, "intermediate_size": 97}
"""Nothing but heads divides by 3."""


class SharedWorkers:
    """In place of `Workers`: a process that serves one model after the other (rank_process.py)."""

    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.store = open_store()
        self.free: dict[int, int] = {}
        self._count = 0

    def start(self, orders) -> None:
        self._count = len(orders)
        for order in orders:
            self._send(order)

    def join(self, device, check) -> Collectives:
        for rank in range(1, self._count + 1):
            assert self.process.stdout is not None
            line = self.process.stdout.readline().decode()
            assert line.startswith(READY), line
            self.free[rank] = int(line.removeprefix(READY))
        return Collectives(self.store, 0, self._count + 1, device)

    @contextmanager
    def forward(self, order) -> Iterator[None]:
        self._send(order)
        yield

    def close(self) -> None:
        pass

    def _send(self, order) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(pickle.dumps(order))
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def shared() -> Iterator[Callable[..., Model]]:
    """`load_parallel`, with all processes but this one in one that stays."""

    def load(*args, **kwargs) -> Model:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel_model, "Workers", SharedWorkers)
            return load_parallel(*args, **kwargs)

    command = [sys.executable, "-m", "plait.tests.runtime.engines.native.rank_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        SharedWorkers.process = process
        yield load
        process.kill()


def passes(model: Model) -> list[torch.Tensor]:
    """Two sequences: prompts of different lengths, a chunk behind them, steps of one token, and hidden states."""
    tokens = torch.randint(131, (90,), generator=torch.Generator().manual_seed(3)).tolist()
    sequences = Sequences(model, 2, max_tokens=128)
    found = [sequences.step([tokens[:33], tokens[40:45]]), sequences.step([tokens[33:40], [tokens[50]]])]
    found += [sequences.step([[tokens[60 + i]], [tokens[70 + i]]]) for i in range(3)]
    return [*found, *sequences.forward([tokens[80:90], []], [9, 2])]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert max(float(logits.abs().max()) for logits in expected) > 1.0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_one_process(shared, case: str) -> None:
    family, overrides = CASES[case]
    _, folder = tiny(family, **overrides)
    assert_same(passes(shared(folder, size=2, impl="torch")), passes(load_model(folder, impl="torch")))


def test_what_does_not_divide_is_split_unevenly(shared) -> None:
    """Among three, of inner units and words too; attention by its compiled kernels where it has them."""
    _, folder = tiny("llama", **THREE, mlp_bias=True)
    assert_same(passes(shared(folder, size=3)), passes(load_model(folder)))
    _, folder = tiny("qwen3_moe", **THREE, moe_intermediate_size=43)
    assert_same(passes(shared(folder, size=3)), passes(load_model(folder)))


def test_formats_that_have_to_be_unpacked(shared, tmp_path: Path) -> None:
    hf_model, _ = tiny("llama")
    file = write_gguf(tmp_path / "model.gguf", hf_model)
    assert_same(passes(shared(file, size=2)), passes(load_model(file)))
    packed, _ = quantised(tmp_path, {"quant_method": "gptq", "bits": 4, "group_size": 16})
    assert_same(passes(shared(packed, size=2)), passes(load_model(packed)))


def test_bfloat16_sums_are_as_near_as_its_precision(shared) -> None:
    _, folder = tiny("llama", dtype=torch.bfloat16)
    found = passes(shared(folder, size=2, dtype=torch.bfloat16))
    for one, other in zip(found, passes(load_model(folder, dtype=torch.float32)), strict=True):
        assert (one.float() - other).abs().max() < 0.05 * other.abs().max()


@pytest.mark.parametrize("case", ["untied", "phi3", "qwen3_moe", "olmo2"])
def test_ranks_read_their_parts_and_no_more(case: str, monkeypatch) -> None:
    """Each split tensor is there once over all ranks, the others on each of them."""
    family, overrides = CASES[case]
    _, folder = tiny(family, **overrides)
    config = load_config(folder)
    sizes: dict[str, Any] = {}
    whole = Shard(config, 0, 1)
    read = Shard._read

    def spy(shard, checkpoint, name, dtype):
        found = read(shard, checkpoint, name, dtype)
        sizes.setdefault(name, {})[shard.rank, shard.size] = found
        return found

    monkeypatch.setattr(Shard, "_read", spy)
    for shard in (whole, Shard(config, 0, 2), Shard(config, 1, 2)):
        shard.weights(open_checkpoint(folder), torch.float32, torch.device("cpu"))
    stored = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert set(stored) == set(sizes)
    for name, found in sizes.items():
        is_whole = "norm" in name and not (case == "olmo2" and ("q_norm" in name or "k_norm" in name))
        is_whole = is_whole or name.endswith("mlp.gate.weight")
        parts = found[0, 2], found[1, 2]
        assert torch.equal(found[0, 1], stored[name])
        assert sorted(torch.cat([part.flatten() for part in parts]).tolist()) == sorted(
            stored[name].flatten().tolist() * (2 if is_whole else 1)
        ), name
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), name


def test_what_cannot_be_split_is_said_before_any_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    _, folder = tiny("llama", num_attention_heads=6, num_key_value_heads=6, hidden_size=96)
    for size in (4, 12):
        with pytest.raises(InvalidInput, match=r"6 key/value heads .* choose one of 1, 2, 3, 6"):
            load_parallel(folder, size=size)
    _, narrow = tiny("llama", intermediate_size=1)
    with pytest.raises(InvalidInput, match="too small"):
        load_parallel(narrow, size=2)
    for value in (0, -1):
        with pytest.raises(InvalidInput, match="tensor_parallel must be at least 1"):
            NativeEngine.load(folder, tensor_parallel=value)
    odd: tuple[Any, ...] = (True, "2", 2.0)
    for value in odd:
        with pytest.raises(InvalidInput, match="tensor_parallel must be a whole number"):
            NativeEngine.load(folder, tensor_parallel=value)
    with pytest.raises(InvalidInput, match="compiled kernels run in one process"):
        NativeEngine.load(folder, tensor_parallel=2, impl="cpu")
    with pytest.raises(InvalidInput, match="one process only"):
        NativeEngine.load(folder, tensor_parallel=2, contexts=tmp_path)
    with pytest.raises(InvalidInput, match="swapped by one process only"):
        NativeEngine.load(folder, tensor_parallel=2, swap_tokens=64)
    assert NativeOptions(tensor_parallel=2, swap_tokens=0).swap_tokens == 0
    with pytest.raises(InvalidInput, match="device 'meta' cannot be used here"):
        NativeEngine.load(folder, tensor_parallel=2, device="meta")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: False)
    for device, backend in (("cuda", "nccl"), ("cpu", "gloo")):
        with pytest.raises(InvalidInput, match=f"needs {backend}, which this build of torch does not have"):
            rank_devices(device, 2)
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: backend == "nccl")
    assert [str(device) for device in rank_devices("cuda", 3)] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [str(device) for device in rank_devices("cuda:1", 2)] == ["cuda:1", "cuda:2"]
    with pytest.raises(InvalidInput, match="'cuda:1' on needs 4 cuda devices, not 3"):
        rank_devices("cuda:1", 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sums_by_nccl() -> None:
    device = torch.device("cuda", 0)
    collectives = Collectives(open_store(), 0, 1, device)
    numbers = torch.arange(6.0, device=device).view(2, 3)
    assert torch.equal(collectives.sum(numbers.clone()), numbers)
    assert torch.equal(collectives.gather(numbers), numbers[None])
    collectives.abort()


# -- through the engine ------------------------------------------------------------------------------------------------


async def story(engine: NativeEngine) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Decoding alone and with others, forks and merges, live views, and a group: the tokens, and the last logits."""
    rng = random.Random(1)
    tokens: list[list[int]] = []
    logits: list[torch.Tensor] = []

    async def write(*branches, **params) -> None:
        done = await asyncio.gather(*(b.generate(SamplingParams(**{"max_tokens": 12, **params})) for b in branches))
        tokens.extend(completion.token_ids for completion in done)
        logits.extend(branch.logits.clone() for branch in branches)

    await engine.start()
    root = engine.open(rng.choices(range(131), k=40), seed=7)
    await write(root)
    children = root.fork(3)
    for child in children:
        child.extend(rng.choices(range(131), k=5))
    await write(*children, temperature=1.0, top_p=0.9, repetition_penalty=1.1)
    root.merge(children[:2])
    root.extend([5])
    await write(root)
    readers = root.fork(2)
    for reader, other in (readers, readers[::-1]):
        reader.watch(other, shift=9)
    for reader in readers:
        reader.extend([17, 3])
    await write(*readers, temperature=0.7)
    root.attach(readers, temperature=0.5, scale=0.8)
    root.extend([8, 8])
    await write(root)
    root.rewind(43)
    root.attach_contexts([rng.choices(range(131), k=n) for n in (9, 30)], temperature=0.9)
    root.extend([2, 2, 2])
    await write(root)
    engine.store.check_integrity()
    await engine.close()
    return tokens, logits


@pytest.mark.parametrize("case", ["untied", "gemma3", "window"])
async def test_views_are_those_of_one_process(shared, case: str) -> None:
    family, overrides = CASES[case]
    _, folder = tiny(family, **{**overrides, "tie_word_embeddings": False})
    options = NativeOptions(kv_tokens=2048, keep_logits=True)
    alone = await story(NativeEngine(load_model(folder), IdTokenizer(131), options))
    model = shared(folder, size=2)
    engine = NativeEngine(model, IdTokenizer(131), options)
    # Each rank has its heads only.
    assert engine.pool.k[0].shape[1] == 1 and engine.vocab_size == 131
    found = await story(engine)
    assert found[0] == alone[0] and len({tuple(tokens) for tokens in found[0]}) == len(found[0])
    for one, other in zip(found[1], alone[1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    # Another engine on the same model has a pool of its own.
    options = NativeOptions(kv_tokens=1024, block_size=32, keep_logits=True)
    again = await story(NativeEngine(model, IdTokenizer(131), options))
    assert again[0] == alone[0]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("case", ["untied", "olmo2", "qwen3_moe"])
async def test_views_over_two_devices_are_those_of_one(case: str) -> None:
    family, overrides = CASES[case]
    _, folder = tiny(family, **{**overrides, "tie_word_embeddings": False})
    options = NativeOptions(kv_tokens=2048, keep_logits=True)
    model = load_parallel(folder, size=2, device="cuda", dtype=torch.float32)
    found = await story(NativeEngine(model, IdTokenizer(131), options))
    model.close()
    alone = load_model(folder, device="cuda", dtype=torch.float32)
    expected = await story(NativeEngine(alone, IdTokenizer(131), options))
    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


async def test_a_multiverse_is_that_of_one_process(shared) -> None:
    items = ["<Think>\nsee\n", Par({"1": [" a" * 20], "2": [" b\n"], "3": [" c"]}), "</Think>\n\nAnswer: 7"]
    _, folder = tiny("qwen3", max_position_embeddings=4096)
    found = []
    for model in (load_model(folder), shared(folder, size=2)):
        async with plait.Runtime(engine=PlayedEngine(model, Play(items, "Q" * 40))) as runtime:
            result = await (await runtime.submit(plait.Multiverse(prompt="Q" * 40)))
        pieces = [
            (s.branch, p.text, p.logprobs) for s in result.trace.segments for p in s.pieces if p.kind == "sampled"
        ]
        found.append(sorted(pieces))
    for (branch, text, logprobs), (other, same, expected) in zip(*found, strict=True):
        assert (branch, text) == (other, same)
        assert logprobs == pytest.approx(expected, abs=1e-5)


def test_memory_is_shared_on_the_cpu_and_the_smallest_elsewhere(shared, monkeypatch) -> None:
    model = shared(tiny("llama")[1], size=2)
    monkeypatch.setattr(parallel_model, "free_memory", lambda device: 1000)
    assert model.free_memory() == 500
    model.device, model.workers.free = torch.device("cuda"), {1: 700}
    assert model.free_memory() == 700
    with pytest.raises(InvalidInput, match="from_transformers"):
        model.refresh()
