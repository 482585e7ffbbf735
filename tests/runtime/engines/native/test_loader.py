"""Checkpoints: every supported form loads, everything else is one clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait.runtime.engines.native.config import ModelConfig, RopeConfig
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.ops import KernelOps
from plait.runtime.errors import InvalidInput, UnknownModel, UnsupportedModel
from plait.tests.runtime.engines.native.helpers import Sequences, tiny

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
DOCUMENT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of its own to damage."""
    return Path(shutil.copytree(tiny("llama")[1], tmp_path / "model"))


def _logits(path: Path) -> torch.Tensor:
    return Sequences(load_model(path), 1).step([DOCUMENT])


def test_sharded_checkpoint(tmp_path: Path) -> None:
    hf_model, whole = tiny("qwen3")
    hf_model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(_logits(tmp_path / "sharded"), _logits(whole))


def test_dtype(tmp_path: Path) -> None:
    hf_model, _ = tiny("llama", dtype=torch.bfloat16)
    hf_model.save_pretrained(tmp_path / "model")
    assert load_config(tmp_path / "model").checkpoint_dtype == torch.bfloat16
    automatic = load_model(tmp_path / "model")
    assert automatic.dtype == torch.float32 and isinstance(automatic.ops, KernelOps)
    assert load_model(tmp_path / "model", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_large_bfloat16_checkpoints_stay_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.runtime.engines.native.loader._SMALL", 1000)
    assert load_model(tiny("llama", dtype=torch.bfloat16)[1]).dtype == torch.bfloat16
    assert load_model(tiny("llama", dtype=torch.float16)[1]).dtype == torch.float32


def test_tensors_that_nobody_asked_for_are_ignored(folder: Path) -> None:
    expected = _logits(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, folder / "model.safetensors")
    assert torch.equal(_logits(folder), expected)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def _cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


NORM, GATE = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("config.json"), "holds no config.json"),
        (_write("config.json", "{"), "config.json is not valid JSON"),
        (_write("config.json", "[]"), "config.json must hold a JSON object"),
        (_remove("model.safetensors"), "holds no weights"),
        (_cut_weights, "model.safetensors is not a complete safetensors file"),
        (_write("model.safetensors", ""), "model.safetensors is not a complete safetensors file"),
        (_edit_tensors(lambda t: t.pop(NORM)), f"lacks the tensor {NORM}"),
        (_edit_tensors(lambda t: t.pop("model.embed_tokens.weight")), "lacks the tensor model.embed_tokens.weight"),
        (_edit_tensors(lambda t: t.update({GATE: torch.ones(96, 32)})), rf"{GATE} has shape \(96, 32\).*\(96, 64\)"),
        (_write("model.safetensors.index.json", "{}"), "has no weight_map"),
        (
            _write("model.safetensors.index.json", '{"weight_map": {"x": "model-00001.safetensors"}}'),
            "lacks the weight file model-00001.safetensors",
        ),
    ],
)
def test_damaged_folder(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(InvalidInput, match=message):
        load_model(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no model folder"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"model_type": "mixtral", "architectures": None}, "mixtral"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
    ],
)
def test_unsupported_model_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedModel, match=name):
        ModelConfig.from_hf({**LLAMA, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"rope_scaling": {"type": "linear"}}, "needs 'factor'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "needs 'low_freq_factor'"),
    ],
)
def test_nonsense_in_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ModelConfig.from_hf({**LLAMA, **change})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        ({"rope_theta": 100, "rope_scaling": None}, {"rope_theta": 100.0}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {"rope_type": "linear", "factor": 2.0}),
        (
            {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3},
        ),
    ],
)
def test_both_spellings_of_rope(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert RopeConfig.from_hf(old) == RopeConfig.from_hf({"rope_parameters": new})


@pytest.mark.parametrize(
    ("data", "context"),
    [
        ({"model_type": "llama", "sliding_window": 64}, 512),
        ({"model_type": "mistral"}, 512),
        ({"model_type": "mistral", "sliding_window": None}, 512),
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, 512),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, 64),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 4}, 512),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 64,
                "use_sliding_window": True,
                "layer_types": ["full_attention"] * 4,
            },
            512,
        ),
    ],
)
def test_context_is_what_is_exact(data: dict[str, Any], context: int) -> None:
    assert ModelConfig.from_hf({**LLAMA, "architectures": None, **data}).max_context == context


def test_sliding_window_is_exact_up_to_its_length() -> None:
    hf_model, folder = tiny("mistral", sliding_window=24)
    model = load_model(folder)
    assert model.config.max_context == 24
    document = torch.randint(131, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        expected = hf_model(torch.tensor([document])).logits[0]
    torch.testing.assert_close(Sequences(model, 1).step([document]), expected, atol=1e-4, rtol=1e-5)


def test_number_of_parameters() -> None:
    for tied in (True, False):
        hf_model, folder = tiny("llama", tie_word_embeddings=tied)
        matrices = sum(p.numel() for p in hf_model.parameters() if p.ndim > 1)
        assert load_config(folder).num_parameters == matrices
