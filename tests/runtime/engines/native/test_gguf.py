"""GGUF files against the Hugging Face folders they were made from."""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGUFWriter, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from plait.runtime.engines.native import gguf_file
from plait.runtime.engines.native.gguf_file import GGUFFile
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.rope import RopeConfig
from plait.runtime.errors import InvalidInput, UnknownModel, UnsupportedModel
from plait.tests.runtime.engines.native.gguf_files import TYPES, write_gguf
from plait.tests.runtime.engines.native.helpers import Sequences, tiny

DOCUMENT = [3, 1, 4, 1, 5, 9, 2, 6]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _expect(model: Any, path: Path) -> None:
    """The file's logits are transformers', of the model that holds what the file holds."""
    with torch.no_grad():
        expected = model(torch.tensor([DOCUMENT])).logits[0]
    for impl in ("torch", "auto"):
        found = Sequences(load_model(path, impl=impl), 1).step([DOCUMENT])
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("type", [TYPES.F32, TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.Q4_0, TYPES.Q5_1])
def test_logits_are_those_of_the_folder(family: str, type: TYPES, tmp_path: Path) -> None:
    options: dict[str, Any] = {"head_dim": 32} if family == "qwen3" else {}  # whole blocks of 32
    model, folder = tiny(family, **options)
    path = write_gguf(tmp_path / "model.gguf", model, type=type)
    _expect(model, path)
    ours, theirs = load_config(path), load_config(folder)
    for name in ("hidden_size", "num_kv_heads", "head_dim", "vocab_size", "qkv_bias", "tie_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.family.qk_norm == theirs.family.qk_norm
    model.save_pretrained(tmp_path / "folder")
    whole = Sequences(load_model(tmp_path / "folder"), 1).step([DOCUMENT])
    assert torch.equal(Sequences(load_model(path), 1).step([DOCUMENT]), whole)


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}},
    ],
    ids=["tied", "no groups", "biases", "llama3 rope", "linear rope"],
)
def test_variants_of_llama(options: dict[str, Any], tmp_path: Path) -> None:
    model, folder = tiny("llama", **options)
    rope, extra, metadata = options.get("rope_parameters", {}), {}, {}
    if rope.get("rope_type") == "llama3":
        default = 1 / 500000.0 ** (torch.arange(0, 16, 2) / 16)
        extra["rope_freqs.weight"] = (default / rope_of(folder).inv_freq(16)).numpy()
    if rope.get("rope_type") == "linear":
        metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    path = write_gguf(tmp_path / "model.gguf", model, type=TYPES.Q8_0, extra=extra, metadata=metadata)
    _expect(model, path)
    assert rope_of(path) == rope_of(folder)


def rope_of(path: Path) -> RopeConfig:
    rope = load_config(path).layers[0].rope
    assert rope is not None
    return rope


def test_old_key_of_linear_scaling(tmp_path: Path) -> None:
    model, _ = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", model, metadata={"llama.rope.scale_linear": 4.0})
    assert (rope_of(path).type, rope_of(path).factor) == ("linear", 4.0)


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
YARN_KEYS = {"type": "yarn", "factor": 4.0, "original_context_length": 128}
INFERRED = 0.1 * math.log(4.0) + 1
"""YaRN's attention factor (arXiv 2309.00071, section 3.4)."""


@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        (YARN, YARN_KEYS),
        (YARN, {**YARN_KEYS, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0, "finetuned": True}),
        ({**YARN, "beta_fast": 8.0, "beta_slow": 0.5}, {**YARN_KEYS, "yarn_beta_fast": 8.0, "yarn_beta_slow": 0.5}),
        ({**YARN, "attention_factor": 1.0}, {**YARN_KEYS, "yarn_attn_factor": 1.0}),
        ({**YARN, "attention_factor": 1.5 * INFERRED}, {**YARN_KEYS, "attn_factor": 1.5}),
        ({**YARN, "attention_factor": 3.0}, {**YARN_KEYS, "yarn_attn_factor": 2.0, "attn_factor": 1.5}),
        ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}, {"factor": 2.0}),
        ({"rope_type": "default", "rope_theta": 10000.0}, {"type": "none", "factor": 2.0, "yarn_beta_fast": 8.0}),
        ({"rope_type": "default", "rope_theta": 10000.0}, {"attn_factor": 1.0}),
    ],
)
def test_keys_of_scaled_rope(rope: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    """What the converter writes of a config.json, and llama.cpp's own `attn_factor`, which multiplies YaRN's."""
    model, folder = tiny("llama", rope_parameters=rope)
    metadata = {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "model.gguf", model, metadata=metadata)
    assert rope_of(path) == rope_of(folder)
    _expect(model, path)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_blocks_of_every_type_piece_by_piece(data: st.DataObject) -> None:
    """However a tensor is cut into pieces, the numbers are those of the whole, in any dtype."""
    kind = data.draw(st.sampled_from(sorted(quants._type_traits)))
    block, size = GGML_QUANT_SIZES[kind]
    rows, blocks = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    raw = rng.integers(0, 64, (rows, blocks * size)).astype(np.uint8)  # scales without NaN and infinity
    expected = quants.dequantize(raw, kind)
    piece = data.draw(st.sampled_from([256, 512, 1024]))
    file = GGUFFile.__new__(GGUFFile)
    stored: Any = type("Stored", (), {"tensor_type": kind, "name": "x"})
    before, gguf_file._PIECE = gguf_file._PIECE, piece
    try:
        for dtype in (torch.float32, torch.bfloat16):
            found = file._dequantise(raw, stored, dtype)
            assert torch.equal(found.view(rows, -1), torch.from_numpy(expected.copy()).to(dtype))
    finally:
        gguf_file._PIECE = before


@pytest.mark.parametrize("type", [TYPES.Q8_0, TYPES.F16, TYPES.F32])
def test_weights_with_a_scale_of_their_own(type: TYPES, tmp_path: Path) -> None:
    """As NVFP4's blocks need one; those of inputs in 4 bits (`input_scale`) change no weight."""
    model, _ = tiny("llama")
    scales = {"self_attn.q_proj": 3.0, "self_attn.o_proj": -0.5, "mlp.down_proj": 2.0}
    stored = {"self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.down_proj": "ffn_down"}
    extra = {f"blk.1.{stored[name]}.scale": np.full(1, scale, np.float32) for name, scale in scales.items()}
    extra["blk.0.attn_q.input_scale"] = np.full(1, 7.0, np.float32)
    path = write_gguf(tmp_path / "model.gguf", model, type=type, extra=extra)
    for name, scale in scales.items():
        model.state_dict()[f"model.layers.1.{name}.weight"].mul_(scale)
    _expect(model, path)
    extra["blk.1.attn_q.scale"] = np.ones(2, np.float32)
    with pytest.raises(UnsupportedModel, match=r"blk\.1\.attn_q\.scale holds 2 numbers"):
        load_model(write_gguf(tmp_path / "model.gguf", model, type=type, extra=extra))


ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")


@settings(deadline=None, max_examples=15)
@given(kinds=st.sets(st.sampled_from([*ATTENTION, *MLP])))
def test_any_linear_layers_may_have_biases(kinds: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those without one have none in any layer: config.json's switches stand for four and three of them."""
    model, _ = tiny("llama", attention_bias=True, mlp_bias=True)
    biases = {name: parameter for name, parameter in model.state_dict().items() if name.endswith("_proj.bias")}
    gone = [name for name in biases if name.split(".")[-2].removesuffix("_proj") not in kinds]
    for name in gone:
        biases[name].zero_()
    path = write_gguf(tmp_path_factory.mktemp("biases") / "model.gguf", model, leave_out=gone)
    _expect(model, path)
    config = load_config(path)
    assert config.qkv_bias == config.output_bias == (not kinds.isdisjoint(ATTENTION))
    assert config.mlp_bias == (not kinds.isdisjoint(MLP))
    if not kinds.isdisjoint(ATTENTION):
        file, name = GGUFFile(path), "model.layers.1.self_attn.o_proj.bias"
        assert torch.equal(file.tensor(name, torch.float32, [5, 2]), model.state_dict()[name][[5, 2]])


SURPLUS = {
    "llama": ["blk.2.attn_norm.weight", "blk.0.attn_q_norm.weight", "blk.0.attn_norm.bias", "blk.0.ffn_up_exps.weight"],
    "qwen2": [
        "blk.1.attn_output.bias",
        "blk.0.ffn_down.bias",
        "output.bias",
        "cls.output.weight",
        "blk.0.attn_q.lora_a",
    ],
    "qwen3": ["rope_factors_long.weight", "blk.1.ffn_gate.bias", f"blk.{'1' * 5000}.attn_q.weight", "attn_q.weight"],
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in SURPLUS.items() for name in names])
def test_a_tensor_that_is_not_read_is_refused(family: str, name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny(family)[0], extra={name: np.ones(16, np.float32)})
    with pytest.raises(UnsupportedModel, match=f"holds the tensor '{re.escape(name[:80])}', which"):
        load_config(path)


def test_fewer_layers_than_there_are_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny("llama")[0], metadata={"llama.block_count": 1})
    with pytest.raises(UnsupportedModel, match=r"'blk\.1\..*a LlamaForCausalLM of 1 layers has not"):
        load_config(path)


def test_rows_of_a_tensor(tmp_path: Path) -> None:
    model, _ = tiny("llama")
    file = GGUFFile(write_gguf(tmp_path / "model.gguf", model, type=TYPES.Q4_0))
    for name in ("lm_head.weight", "model.layers.1.self_attn.q_proj.weight"):
        whole = file.tensor(name, torch.float32)
        assert torch.equal(whole, model.state_dict()[name])
        assert torch.equal(file.tensor(name, torch.float32, [5, 2]), whole[[5, 2]])


def test_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny("llama")
    kinds = {TYPES.F32: "float32", TYPES.F16: "float32", TYPES.BF16: "bfloat16", TYPES.Q4_0: "bfloat16"}
    paths = {type: write_gguf(tmp_path / f"{type.name}.gguf", model, type=type) for type in kinds}
    assert all(load_model(path).dtype == torch.float32 for path in paths.values())
    monkeypatch.setattr("plait.runtime.engines.native.loader._SMALL", 1000)
    for type, name in kinds.items():
        assert str(load_model(paths[type]).dtype) == f"torch.{name}"


def test_a_split_model(tmp_path: Path) -> None:
    model, folder = tiny("llama", tie_word_embeddings=True)
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf", model, leave_out=["model.norm.weight"])
    with pytest.raises(InvalidInput, match="lacks m-00002-of-00002.gguf"):
        load_model(first)
    writer = GGUFWriter(tmp_path / "m-00002-of-00002.gguf", "llama")
    writer.add_tensor("output_norm.weight", model.state_dict()["model.norm.weight"].numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    for part in (first, tmp_path / "m-00002-of-00002.gguf"):
        _expect(model, part)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(first.read_bytes())
    with pytest.raises(InvalidInput, match="two parts of the split model hold the tensor 'token_embd.weight'"):
        load_model(first)


class Shown(bytes):
    """Few of its bytes are in a report of what failed."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, tiny("llama")[0], tokenizer={"ggml.tokens": ["a", "b"], "ggml.token_type": [1, 1]})
    return Shown(path.read_bytes())


def test_a_tensor_of_nothing_is_refused(whole: bytes, tmp_path: Path) -> None:
    """A damaged size, that of queries, whose rows would be dealt out to heads."""
    at = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight")
    damaged = bytearray(whole)
    assert damaged[at : at + 4] == struct.pack("<I", 2)
    damaged[at + 4 : at + 12] = bytes(8)
    path = tmp_path / "model.gguf"
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=r"model\.gguf is damaged: its tensor blk\.0\.attn_q\.weight holds nothing"):
        load_model(path)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_cut_is_one_clear_message(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    end = data.draw(st.one_of(st.integers(0, 3000), st.integers(0, len(whole) - 40)))
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    path.write_bytes(whole[:end])
    with pytest.raises(InvalidInput, match="model.gguf"):
        load_model(path)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_never_raise_anything_else(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(whole)
    for at, value in changes:
        damaged[at] = value
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(damaged)
    try:
        load_model(path, impl="torch")
    except InvalidInput as error:
        assert "model.gguf" in str(error) or "config.json" in str(error)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"metadata": {"llama.embedding_length": None}}, InvalidInput, "lacks llama.embedding_length"),
        (
            {"metadata": {"llama.attention.head_count": 0}},
            InvalidInput,
            "head_count must be a positive number",
        ),
        (
            {"metadata": {"llama.block_count": 4_000_000_000}},
            InvalidInput,
            "4000000000 layers, there are fewer",
        ),
        ({"metadata": {"llama.rope.freq_base": "x"}}, InvalidInput, "freq_base must be a positive number"),
        ({"metadata": {"llama.rope.scaling.type": "linear"}}, InvalidInput, "scaling.factor must be a positive number"),
        ({"extra": {"rope_freqs.weight": np.ones(3, np.float32)}}, UnsupportedModel, "rope_freqs"),
        ({"metadata": {"llama.expert_count": 8}}, UnsupportedModel, "with experts"),
        ({"metadata": {"llama.feed_forward_length": [96, 64]}}, UnsupportedModel, "layers that differ"),
        (
            {"metadata": {"llama.rope.scaling.type": "telepathy", "llama.rope.scaling.factor": 2.0}},
            UnsupportedModel,
            "telepathy",
        ),
        ({"metadata": {"llama.rope.dimension_count": 8}}, UnsupportedModel, "partial rotary"),
        ({"metadata": {"llama.rope.scaling.attn_factor": 1.5}}, UnsupportedModel, "attn_factor = 1.5 is not supported"),
        ({"metadata": {"llama.rope.scaling.yarn_ext_factor": 0.5}}, UnsupportedModel, "yarn_ext_factor = 0.5"),
        ({"metadata": {"llama.rope.scaling.yarn_log_multiplier": 0.1}}, UnsupportedModel, "yarn_log_multiplier"),
        ({"metadata": {"llama.rope.scaling.telepathy": "x"}}, UnsupportedModel, "telepathy = x is not supported"),
        ({"leave_out": ["model.embed_tokens.weight"]}, InvalidInput, "lacks token_embd.weight"),
        ({"leave_out": ["model.layers.1.mlp.up_proj.weight"]}, InvalidInput, "lacks the tensor .*up_proj"),
        (
            {"extra": {"blk.0.attn_output.bias": np.ones(64, np.float32)}},
            InvalidInput,
            "lacks the tensor model.layers.1.self_attn.o_proj.bias",
        ),
        ({"metadata": {"llama.attention.head_count": 3}}, InvalidInput, "3 attention heads"),
        ({"extra": {"rope_freqs.weight": np.full(8, 5.0, np.float32)}}, UnsupportedModel, "rope_freqs"),
    ],
)
def test_what_cannot_be_loaded(options: dict[str, Any], kind: Any, message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny("llama")[0], **options)
    if kind is not None:
        with pytest.raises(kind, match=message):
            load_model(path)


NEUTRAL = {
    "attention.value_length": 16,
    "attention.causal": True,
    "attention.scale": 0.25,
    "attention.sliding_window": 512,
    "attention.sliding_window_pattern": [True, False],
    "attention.clamp_kqv": 0.0,
    "attention.layer_norm_epsilon": 1e-5,
    "logit_scale": 1.0,
    "final_logit_softcapping": 0.0,
    "vocab_size": 131,
}
"""Of a tiny model, whose context is 512 tokens."""
OTHERS = {
    "attention.value_length": 8,
    "attention.causal": False,
    "attention.scale": 0.3,
    "attention.sliding_window": 511,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "attention.telepathy": 1,
    "attention.indexer.head_count": 4,
    "logit_scale": 0.5,
    "residual_scale": 2.0,
    "embedding_scale": "x",
    "attn_logit_softcapping": 50.0,
}


def test_keys_that_change_nothing_are_left_out(tmp_path: Path) -> None:
    model, _ = tiny("llama")
    metadata = {f"llama.{key}": value for key, value in NEUTRAL.items()} | {"general.type": "model", "split.count": 0}
    _expect(model, write_gguf(tmp_path / "model.gguf", model, metadata=metadata))


@pytest.mark.parametrize("key", OTHERS)
def test_keys_that_make_another_model_are_refused(key: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny("llama")[0], metadata={f"llama.{key}": OTHERS[key]})
    with pytest.raises(UnsupportedModel, match=f"{re.escape(key)} = .* is not supported"):
        load_config(path)


@pytest.mark.parametrize("kind", ["adapter", "mmproj"])
def test_files_that_hold_no_model_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny("llama")[0], metadata={"general.type": kind})
    with pytest.raises(UnsupportedModel, match=f"is no model: general.type = {kind}"):
        load_config(path)


def test_a_part_of_a_split_model_under_another_name_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny("llama")[0], metadata={"split.count": 3})
    with pytest.raises(InvalidInput, match=r"one of 3 parts of a model \(split\.count\)"):
        load_config(path)


def test_other_architectures_are_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(UnsupportedModel, match="'mamba' is not supported; supported: llama"):
        load_model(tmp_path / "model.gguf")
    with pytest.raises(UnknownModel, match="no file"):
        load_model(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("name", ["smol135", "q05"])
def test_real_weights_are_those_of_the_converted_folder(name: str) -> None:
    models = Path(os.environ.get("PLAIT_REAL_MODELS", "/nowhere"))
    if not (models / name / "model.safetensors").is_file() or not (models / f"{name}.gguf").is_file():
        pytest.skip("PLAIT_REAL_MODELS holds no such model")
    file = GGUFFile(models / f"{name}.gguf")
    with safe_open(models / name / "model.safetensors", framework="pt") as tensors:
        for tensor in tensors.keys():
            assert torch.equal(file.tensor(tensor, torch.bfloat16), tensors.get_tensor(tensor)), tensor
