"""Checkpoints: every supported form loads, everything else is one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from plait.runtime.engines.native.assembly import assemble
from plait.runtime.engines.native.checkpoint import Folder
from plait.runtime.engines.native.config import ModelConfig
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.ops import KernelOps
from plait.runtime.engines.native.rope import RopeConfig
from plait.runtime.engines.native.weights import MLP
from plait.runtime.errors import InvalidInput, UnknownModel, UnsupportedModel
from plait.tests.runtime.engines.native.helpers import FAMILIES, Sequences, tiny

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
PHI3 = {"model_type": "phi3", "architectures": None}
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


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    """Which of them is meant? The later one was taken."""
    shutil.copy(folder / "model.safetensors", folder / "a.safetensors")
    save_file({NORM: torch.ones(64)}, folder / "b.safetensors")
    index = {"weight_map": {"lm_head.weight": "a.safetensors", NORM: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match=f"two weight files hold the tensor '{NORM}'"):
        load_model(folder)


def test_a_folder_may_be_called_like_a_gguf_file(folder: Path) -> None:
    named = folder.rename(folder.with_name("model.gguf"))
    assert torch.equal(_logits(named), _logits(tiny("llama")[1]))


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_read_once_and_not_kept(folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the packed ones: layer by layer, so that no second copy of the model is ever in memory."""
    asked: list[str] = []
    whole = Folder.tensor

    def tensor(self: Folder, name: str, dtype: torch.dtype, rows: Any = None) -> torch.Tensor:
        asked.append(name)
        return whole(self, name, dtype, rows)

    stored = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in stored.items()}, folder / "model.safetensors")
    monkeypatch.setattr(Folder, "tensor", tensor)
    model = load_model(folder, dtype=dtype)
    assert isinstance(model.ops, KernelOps)
    assert set(asked) >= set(stored) and len(asked) == len(set(asked))
    left = model.ops.weights
    for layer in left.layers:
        assert isinstance(layer.mlp, MLP)
        matrices = (layer.q, layer.k, layer.v, layer.o, layer.mlp.gate, layer.mlp.up, layer.mlp.down)
        assert all(part.weight.numel() == 0 and part.weight.dtype == dtype for part in matrices)
    assert left.embedding.numel() == left.lm_head.numel() == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_the_file_does_not_stay_mapped(folder: Path) -> None:
    model = load_model(folder, dtype=torch.float32)  # as it is stored, so that nothing is converted
    assert isinstance(model.ops, KernelOps) and model.ops.weights.norm.numel()
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no model folder"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"model_type": "mixtral", "architectures": None}, "mixtral"),
        ({"model_type": None, "architectures": None}, "names no architecture"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"rope_parameters": {"rope_type": "proportional", "factor": 4.0}}, "proportional"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForConditional"),
        ({"layer_types": ["full_attention", "linear_attention"] * 2}, "linear_attention"),
        ({"model_type": "gemma2", "architectures": None, "use_bidirectional_attention": True}, "both directions"),
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
        ({"rope_scaling": {"rope_type": "dynamic"}}, "needs 'factor'"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8}}, "needs 'long_factor'"),
        ({"rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1]}}, "longrope has 1 factors for 8"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "much"}}, "yarn.*much"),
        ({**PHI3, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.2}}, "0.2 are rotated"),
        ({**PHI3, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.5}}, "1.5 are rotated"),
        ({"model_type": "smollm3", "architectures": None, "no_rope_layers": [1]}, "do not list 4 layers"),
        ({"model_type": "gemma2", "architectures": None, "layer_types": ["full_attention"]}, "do not list 4 layers"),
        ({"model_type": "qwen3_moe", "architectures": None, "num_experts": 4}, "8 experts per token of 4"),
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


def test_spellings_of_rope_that_contradict_each_other() -> None:
    """As where somebody follows a model card for long texts in a folder that a newer transformers wrote."""
    new = {"rope_type": "default", "rope_theta": 5e5}
    olds: list[dict[str, Any]] = [
        {"rope_type": "yarn", "factor": 4.0},
        {"type": "yarn", "factor": 4.0},
        {"type": "linear"},
        {"rope_type": "default", "rope_theta": 1e6},
    ]
    for old in olds:
        with pytest.raises(InvalidInput, match="rope_scaling and rope_parameters contradict"):
            RopeConfig.from_hf({"rope_parameters": new, "rope_scaling": old})
    same = {"rope_parameters": new, "rope_scaling": dict(new)}
    assert RopeConfig.from_hf(same) == RopeConfig.from_hf({"rope_parameters": new})


@pytest.mark.parametrize("names", [("type", "type"), ("type", "rope_type"), ("rope_type", "type")])
def test_names_of_the_type_of_rope_do_not_contradict_each_other(names: tuple[str, str]) -> None:
    old, new = ({name: "linear", "factor": 2.0} for name in names)
    expected = RopeConfig.from_hf({"rope_parameters": {"rope_type": "linear", "factor": 2.0}})
    assert RopeConfig.from_hf({"rope_parameters": new, "rope_scaling": old}) == expected


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_head_that_differs_from_the_embedding_is_used_though_the_configuration_ties_them(
    family: str, tmp_path: Path
) -> None:
    _, made = tiny(family, tie_word_embeddings=False)
    folder = Path(shutil.copytree(made, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    hf_model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    document = [[3, 1, 4, 1, 5, 9, 2, 6]]
    with torch.no_grad():
        expected = hf_model(torch.tensor(document)).logits[0]
    torch.testing.assert_close(Sequences(load_model(folder), 1).step(document), expected, atol=1e-4, rtol=1e-4)
    tensors = load_file(folder / "model.safetensors")
    equal = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    for held, is_tied in ((tensors, False), (equal, True)):
        weights = assemble(load_config(folder), held.__getitem__, "a folder")
        assert (weights.lm_head is weights.embedding) == is_tied


@pytest.mark.parametrize(
    ("data", "windows"),
    [
        ({"model_type": "llama", "sliding_window": 64}, [None] * 4),
        ({"model_type": "mistral"}, [4096] * 4),
        ({"model_type": "mistral", "sliding_window": None}, [None] * 4),
        ({"model_type": "mistral", "sliding_window": 64}, [64] * 4),
        ({"model_type": "phi3"}, [None] * 4),
        ({"model_type": "phi3", "sliding_window": 64}, [64] * 4),
        ({"model_type": "qwen2", "sliding_window": 64, "max_window_layers": 0}, [None] * 4),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2}, [None, None, 4096, 4096]),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, [None] * 4),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 64,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
            [None, 64, None, 64],
        ),
        ({"model_type": "qwen3_moe", "sliding_window": 64, "use_sliding_window": True}, [64] * 4),
        ({"model_type": "smollm3", "sliding_window": 64, "use_sliding_window": True}, [None, None, None, 64]),
        ({"model_type": "gemma2"}, [4096, None, 4096, None]),
        ({"model_type": "gemma3_text", "sliding_window": 64, "sliding_window_pattern": 3}, [64, 64, None, 64]),
        ({"model_type": "gemma3_text", "sliding_window": 64, "sliding_window_pattern": None}, [64, 64, 64, 64]),
        ({"model_type": "gemma3_text", "sliding_window": 64}, [64] * 4),
    ],
)
def test_windows_of_the_layers(data: dict[str, Any], windows: list[int | None]) -> None:
    config = ModelConfig.from_hf({**LLAMA, "architectures": None, **data})
    assert [layer.window for layer in config.layers] == windows
    assert config.max_context == 512


def test_rope_of_the_layers() -> None:
    smol = ModelConfig.from_hf({**LLAMA, "architectures": None, "model_type": "smollm3", "num_hidden_layers": 5})
    assert [layer.rope and layer.rope.theta for layer in smol.layers] == [2e6, 2e6, 2e6, None, 2e6]
    gemma = {**LLAMA, "architectures": None, "model_type": "gemma3_text", "sliding_window_pattern": 2}
    thetas = [layer.rope and layer.rope.theta for layer in ModelConfig.from_hf(gemma).layers]
    assert thetas == [1e4, 1e6, 1e4, 1e6]
    old = ModelConfig.from_hf({**gemma, "rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    new = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert old.layers == ModelConfig.from_hf({**gemma, "rope_parameters": new}).layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_number_of_parameters(family: str, tied: bool) -> None:
    hf_model, folder = tiny(family, tie_word_embeddings=tied)
    matrices = sum(p.numel() for p in hf_model.parameters() if p.ndim > 1)
    assert load_config(folder).num_parameters == matrices
