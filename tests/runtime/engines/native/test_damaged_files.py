"""Every file of a model folder with every kind of wrong value: it loads, or is refused by one clear error."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from plait import InvalidInput, PlaitError, Runtime, UnsupportedModel
from plait.runtime.engines.native.config import ModelConfig
from plait.runtime.engines.native.config_fields import ConfigFields
from plait.runtime.engines.native.context_scaling import read_scaling
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.families import FAMILIES
from plait.runtime.engines.native.generation_config import read_defaults
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.options import read_options
from plait.runtime.engines.registry import find_model
from plait.search.rewards.prm import PRM

COUNTDOWN = find_model("countdown").path
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from([10**40, -1, 0, 2**31, 1e308, -1e308, 1e-320]),
    ),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]), part),
    max_leaves=4,
)  # fmt: skip
ROPE = st.dictionaries(
    st.sampled_from(
        ["rope_type", "type", "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "short_factor",
         "long_factor", "beta_fast", "beta_slow", "attention_factor", "partial_rotary_factor", "truncate", "mscale",
         "original_max_position_embeddings", "full_attention", "sliding_attention"]
    ),
    VALUES | st.sampled_from(["linear", "dynamic", "yarn", "longrope", "llama3", 8.0, 4.0, 1.0, [1.0] * 8]),
)  # fmt: skip
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
         "num_key_value_heads", "max_position_embeddings", "num_experts", "num_experts_per_tok", "num_local_experts",
         "moe_intermediate_size", "parscale_n", "parscale_n_tokens", "dtype", "torch_dtype")  # fmt: skip
KEYS = sorted({*ConfigFields.model_fields, *SIZES})


MODEL = {"vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16,
         "num_attention_heads": 4, "max_position_embeddings": 512}  # fmt: skip


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_null_in_config(family):
    """It stands for what is left out, or is refused, under every key."""
    for key in KEYS:
        with contextlib.suppress(PlaitError):
            ModelConfig.from_hf({**MODEL, "model_type": family, key: None})


@settings(max_examples=300)
@given(st.sampled_from(sorted(FAMILIES)), st.sampled_from(KEYS), VALUES | ROPE)
def test_config(family, key, value):
    try:
        ModelConfig.from_hf({**MODEL, "model_type": family, key: value})
    except PlaitError as error:
        assert len(str(error)) < 1000 or len(repr(value)) > 500


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(COUNTDOWN, tmp_path / "model"))


READERS = {
    "config.json": lambda folder: (load_config(folder), load_tokenizer(folder)),
    "generation_config.json": lambda folder: (read_defaults(folder), load_tokenizer(folder)),
    "tokenizer_config.json": load_tokenizer,
    "tokenizer.json": load_tokenizer,
    "model.safetensors.index.json": load_model,
    "ape.json": read_scaling,
    "prm.json": lambda folder: PRM(model=str(folder))._form(folder),
}
NAMES = {
    "config.json": ["eos_token_id", "bos_token_id", "quantization_config"],
    "generation_config.json": ["eos_token_id", "bos_token_id", "temperature", "top_k", "top_p", "do_sample", "min_p"],
    "tokenizer_config.json": ["eos_token", "bos_token", "chat_template", "additional_special_tokens", "add_bos_token"],
    "tokenizer.json": ["model", "added_tokens", "decoder", "version", "normalizer"],
    "model.safetensors.index.json": ["weight_map"],
    "ape.json": ["temperature", "scale"],
    "prm.json": ["format", "good", "bad", "tag"],
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_wrong_value_in_any_file(folder, name, data):
    changed = {data.draw(st.sampled_from(NAMES[name])): data.draw(VALUES)}
    file, before = folder / name, COUNTDOWN / name
    whole = json.loads(before.read_text()) if before.is_file() else {"temperature": 1.0, "scale": 1.0}
    file.write_text(json.dumps({**whole, **changed}))
    try:
        READERS[name](folder)
    except PlaitError:
        pass


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1]", "7", "nope", b"\xff\xfe", b""])
def test_a_file_that_is_no_object(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInput):
        READERS[name](folder)


@pytest.mark.parametrize("value", ["</s>", "1", 1.5, -1, [1, "2"], [[1]], True, {"id": 1}, 10**40, 999_999])
async def test_an_end_of_sequence_that_is_no_token_is_refused_on_loading(folder, value):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InvalidInput, match="token id"):
        async with Runtime(folder):
            pytest.fail("opened")


def weights(change):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def config(**values):
    def damage(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


GATE = "model.layers.0.mlp.gate_proj.weight"
LAYERS = json.loads((COUNTDOWN / "config.json").read_text())["num_hidden_layers"]


def index(name):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors, folder.parent / "outside.safetensors")
        save_file(tensors, folder / "inside.safetensors")
        text = json.dumps({"weight_map": dict.fromkeys(tensors, name)})
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (config(num_hidden_layers=LAYERS - 1), f"more layers than the {LAYERS - 1}"),
        (weights(lambda t: t.update({GATE: t[GATE].to(torch.int32)})), f"{GATE} is stored as I32"),
        (weights(lambda t: t.update({GATE: t[GATE].to(torch.float8_e4m3fn)})), f"{GATE} is stored as F8"),
        (weights(lambda t: t[GATE][3].fill_(math.nan)), f"{GATE} holds numbers that are not finite"),
        (weights(lambda t: t[GATE][0, 5].fill_(-math.inf)), f"{GATE} holds numbers that are not finite"),
        (index("../outside.safetensors"), "names no file in this folder"),
        (index("/etc/hostname"), "names no file in this folder"),
        (index("."), "names no file in this folder"),
        (index(7), "names no file in this folder"),
        (index(["inside.safetensors"]), "names no file in this folder"),
    ],
)
def test_what_was_accepted_in_silence(folder, damage, message):
    damage(folder)
    with pytest.raises((InvalidInput, UnsupportedModel), match=message):
        load_model(folder)


def test_an_index_within_the_folder(folder):
    index("inside.safetensors")(folder)
    (folder / "model.safetensors").unlink()
    assert load_model(folder).config.num_layers == LAYERS


def test_a_tokenizer_of_another_model(folder):
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocab = whole["model"]["vocab"]
    for number in range(50):
        vocab[f"another{number}"] = len(vocab)
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(InvalidInput, match="another model's"):
        NativeEngine.load(folder, kv_tokens=1024)


OPTIONS = ["device", "dtype", "impl", "num_threads", "tensor_parallel", "kv_tokens", "swap_tokens", "block_size",
           "batch_invariant", "max_rows", "prefill_chunk", "context_limit", "headless", "slice_rows", "contexts",
           "context_bytes", "keep_logits"]  # fmt: skip


@given(st.sampled_from(OPTIONS), VALUES | st.sampled_from(["cuda", "meta", "tpu", "int32", math.nan]))
def test_any_value_of_an_engine_option(name, value):
    try:
        found = read_options({name: value})
    except PlaitError as error:
        assert name in str(error) or name == "impl"
    else:
        assert found.keys() == {name}


@pytest.mark.parametrize(
    "options",
    [
        {"kv_tokens": 10**40}, {"kv_tokens": 2**32}, {"kv_tokens": "x"}, {"kv_tokens": True}, {"kv_tokens": 0},
        {"block_size": 10**30}, {"block_size": "16"}, {"dtype": 5}, {"dtype": []}, {"device": 7}, {"device": "meta"},
        {"num_threads": 10**9}, {"num_threads": None}, {"max_rows": 10**30}, {"tensor_parallel": 10**6},
        {"context_bytes": 1.5}, {"contexts": 5}, {"impl": []}, {"impl": "gpu"}, {"headless": 3}, {"keep_logits": "no"},
        {"swap_tokens": -1}, {"context_limit": 0}, {"colour": "red"},
    ],
)  # fmt: skip
def test_engine_options_that_cannot_be(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        NativeEngine.load(COUNTDOWN, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
async def test_cuda_where_there_is_none():
    with pytest.raises(InvalidInput, match="'cuda' cannot be used here"):
        async with Runtime("countdown", device="cuda"):
            pytest.fail("opened")
