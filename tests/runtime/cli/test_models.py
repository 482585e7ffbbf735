"""`plait models`: what can be loaded, from headers alone, and why not."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import torch

from plait.runtime.cli import models
from plait.runtime.cli.models import describe
from plait.runtime.engines.native.checkpoint import Folder
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.gguf_file import GGUFFile
from plait.runtime.engines.registry import MODELS
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native.gguf_files import TYPES, write_gguf
from plait.tests.runtime.engines.native.helpers import tiny


def show(capsys, *paths):
    parser = argparse.ArgumentParser()
    models.add_arguments(parser)
    assert models.run(parser.parse_args([str(path) for path in paths])) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _headers_only(monkeypatch):
    def read(*_, **__):
        raise AssertionError("weights are not to be read")

    monkeypatch.setattr(Folder, "tensor", read)
    monkeypatch.setattr(GGUFFile, "tensor", read)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache in the hub's layout: a folder of safetensors, a repository of GGUF files, one that is not supported."""

    def add(repo, revision="c" * 40, ref="main"):
        base = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        folder = base / "snapshots" / revision
        folder.mkdir(parents=True)
        (base / "refs").mkdir(exist_ok=True)
        (base / "refs" / ref).write_text(revision)
        return folder

    model, folder = tiny("qwen2")
    shutil.copytree(folder, add("org/model"), dirs_exist_ok=True)
    write_gguf(add("org/quants") / "m-q4_0.gguf", model, type=TYPES.Q4_0)
    (add("org/strange", ref="v2") / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    (add("org/data") / "README.md").write_text("no model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_shipped_and_cached_models(cache, capsys):
    out = show(capsys)
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert {"countdown", "recall", "org/model", "org/quants:m-q4_0.gguf"} <= set(rows)
    assert "Qwen2" in rows["org/model"] and "safetensors" in rows["org/model"]
    assert "GGUF Q4_0" in rows["org/quants:m-q4_0.gguf"]
    refused = "org/strange@v2: architecture 'mamba' is not supported; supported: "
    assert rows["org/strange@v2:"].startswith(refused) and "Qwen2ForCausalLM" in rows["org/strange@v2:"]
    assert "org/data" not in out


def test_without_a_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert "countdown" in show(capsys)


def test_given_paths(tmp_path, capsys):
    model, folder = tiny("llama")
    write_gguf(tmp_path / "a.gguf", model, type=TYPES.Q8_0)
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "c.gguf").write_bytes(b"GGUF")
    (tmp_path / "d").mkdir()
    out = show(capsys, tmp_path, tmp_path / "b", tmp_path / "d")
    assert out.count("Llama ") == 3
    assert f"{tmp_path}/c.gguf is not a complete GGUF file" in out
    assert f"{tmp_path / 'd'} holds no config.json" in out
    with pytest.raises(InvalidInput, match="there is no"):
        show(capsys, tmp_path / "e")
    assert "no model" in show(capsys, "/dev/null")  # neither a file nor a folder


def test_figures_are_the_engines(monkeypatch):
    monkeypatch.undo()
    row = describe(MODELS / "countdown")
    engine = NativeEngine.load(MODELS / "countdown", kv_tokens=16000)
    held = sum(tensor.nbytes for tensor in [*engine.pool.k, *engine.pool.v])
    assert row["KV per 1k tokens"] == f"{held / 16 / 1e6:.1f} MB"
    assert row["weights"] == f"{engine.model.config.num_parameters * 4 / 1e6:.1f} MB float32"
    assert engine.model.dtype == torch.float32
    assert row["window"] == engine.context_limit
    size = sum(file.stat().st_size for file in (MODELS / "countdown").iterdir())
    assert row["on disk"] == f"{size / 1e6:.1f} MB"
