"""Whole runs on GGUF files: jobs, contexts on disk, reward models, and real models against their converted folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import plait
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.search.rewards.head import load_head
from plait.search.rewards.prm import PRM
from plait.tests.runtime.engines.native.gguf_files import TYPES, bpe_keys, write_gguf
from plait.tests.runtime.engines.native.helpers import tiny


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A GGUF file with a tokenizer of bytes, and the same model as a folder."""
    alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.add_special_tokens(["<|im_end|>"])
    model, _ = tiny("llama", vocab_size=257, tie_word_embeddings=False)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    keys = bpe_keys(tokenizer.to_str(), pre="gpt-2", special=["<|im_end|>"], chat_template=template)
    path = write_gguf(tmp_path / "model.gguf", model, type=TYPES.Q8_0, tokenizer={**keys, "ggml.eos_token_id": 256})
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder = tmp_path / "folder"
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.bos_token_id = 256, None
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return path, folder


async def _ids(model: Path, prompt: Any) -> list[int]:
    async with plait.Runtime(model, kv_tokens=4096) as runtime:
        job = await runtime.submit(plait.Sequential(prompt=prompt, max_tokens=20))
        (segment, *_) = [s for s in (await job).trace.segments if any(p.kind == "sampled" for p in s.pieces)]
        return [t for piece in segment.pieces if piece.kind == "sampled" for t in piece.token_ids]


async def test_jobs_are_those_of_the_folder(pair: tuple[Path, Path]) -> None:
    path, folder = pair
    for prompt in ("hello", [1, 2, 3]):
        assert await _ids(path, prompt) == await _ids(folder, prompt)
    assert await _ids(path, [{"role": "user", "content": "hello"}]) == await _ids(folder, "hello")
    async with plait.Runtime(str(path), kv_tokens=4096) as runtime:
        assert runtime.engine.name == "model.gguf"


async def test_contexts_on_disk(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = pair
    method = plait.Sequential(prompt="q", contexts=("some facts", "others"), encoding="parallel", max_tokens=3)
    reused = []
    for _ in range(2):
        async with plait.Runtime(path, kv_tokens=4096, contexts=tmp_path / "contexts") as runtime:
            reused.append((await (await runtime.submit(method))).usage.reused_tokens)
    assert reused[0] < reused[1]
    with path.open("r+b") as file:  # other weights: nothing may be reused
        file.seek(-5, os.SEEK_END)
        file.write(b"\x01\x02\x03")
    async with plait.Runtime(path, kv_tokens=4096, contexts=tmp_path / "contexts") as runtime:
        assert (await (await runtime.submit(method))).usage.reused_tokens == reused[0]


def test_a_reward_model(pair: tuple[Path, Path]) -> None:
    path, folder = pair
    PRM(model=str(path), good="+", bad="-").check(plait.ScriptedEngine([]))
    ours, theirs = (load_head(one, load_tokenizer(one), "+", "-").layers[0][0] for one in pair)
    assert (ours == theirs).all() and ours.shape == (2, 64)


PROMPTS = [
    "Write a function that adds two numbers.",
    "What is the capital of France?",
    "def fib(n):",
    "Explain recursion briefly.",
    "List three colours.",
    "Translate hello into German.",
    "What is 12 * 12?",
    "Write a haiku.",
    "Who wrote Hamlet?",
    "Sort [3, 1, 2] in Python.",
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["smol135", "q05"])
async def test_real_models_write_what_their_folders_write(name: str) -> None:
    folder = Path(os.environ.get("PLAIT_REAL_MODELS", "/nowhere")) / name
    path = folder.with_suffix(".gguf")
    if not (folder / "model.safetensors").is_file() or not path.is_file():
        pytest.skip("PLAIT_REAL_MODELS holds no such model")
    texts = []
    read = load_tokenizer(path)  # the folder of smol135 splits digits otherwise
    prompts = [read.chat([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    for model in (path, folder):
        async with plait.Runtime(model, dtype=torch.bfloat16) as runtime:
            jobs = [await runtime.submit(plait.Sequential(prompt=prompt, max_tokens=24)) for prompt in prompts]
            texts.append([(await job).text for job in jobs])
    assert texts[0] == texts[1] and all(texts[0])
