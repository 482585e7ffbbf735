"""Models that cannot be loaded to be trained: one error that names them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    CodeGenConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    OPTConfig,
)

from plait import InvalidInput
from plait.rl.config import TrainConfig
from plait.rl.models import check_positions, load, loading, serving_tokenizer, tokenizer_of
from plait.rl.tags import save
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.tests import real
from plait.tests.rl.tools import NUMBERS, check_same_tokenizer, folder, split_digits, splitting_digits


def without(*names: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return damage


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).write_text(text)

    return damage


def cut_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("tags", [[], ["<Path>"]])
def test_the_tokenizer_that_is_trained_and_saved_is_the_one_that_serves(tags, tmp_path):
    base = splitting_digits(tmp_path / "base")
    model, tokenizer, _ = load(TrainConfig(model=str(base)), AutoModelForCausalLM, tags)
    served = load_tokenizer(base)
    for text in NUMBERS:
        assert serving_tokenizer(model, tokenizer).encode(text) == tokenizer.encode(text) == served.encode(text)
    save(model, tokenizer, tmp_path / "saved")
    check_same_tokenizer(base, tmp_path / "saved")


def test_special_tokens_that_the_class_of_the_base_names_stay(tmp_path):
    base = folder(tmp_path / "base", eos_token_id=None)
    own = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "pad_token": "<|pad|>", "unk_token": None}
    (base / "tokenizer_config.json").write_text(json.dumps(own))
    tokenizer = tokenizer_of(base)
    assert tokenizer.bos_token == "<|endoftext|>" and tokenizer.eos_token == "<|end|>"
    tokenizer.save_pretrained(tmp_path / "saved")
    found = load_tokenizer(tmp_path / "saved").special_ids
    assert found == load_tokenizer(base).special_ids and found["bos_token"] == tokenizer.bos_token_id


def test_a_real_tokenizer_that_splits_digits_stays_so(tmp_path):
    """SmolLM2's: its folder on the hub does, one that transformers made of a GGUF file does not."""
    for file in real.folder("smol135").glob("*.json"):
        shutil.copy(file, tmp_path)
    tokenizer_of(split_digits(tmp_path)).save_pretrained(tmp_path / "saved")
    check_same_tokenizer(tmp_path, tmp_path / "saved")


def test_a_tokenizer_that_no_engine_serves_is_trained_all_the_same(tmp_path):
    """The files of GPT-2's first ones; what is saved is served."""
    base = folder(tmp_path / "base")
    data = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").unlink()
    (base / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
    (base / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in data["model"]["merges"]))
    names = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|end|>", "bos_token": "<|end|>"}
    (base / "tokenizer_config.json").write_text(json.dumps({**names, "eos_token": "<|end|>"}))
    model, tokenizer, _ = load(TrainConfig(model=str(base)), AutoModelForCausalLM, [])
    assert serving_tokenizer(model, tokenizer).encode("a Path") == tokenizer.encode("a Path")


@pytest.mark.parametrize(
    "damage",
    [
        without("tokenizer.json", "tokenizer_config.json"),
        without("model.safetensors"),
        without("config.json"),
        cut_weights,
        with_text("model.safetensors", ""),
        with_text("config.json", "{"),
        with_text("config.json", '{"model_type": "nosuch"}'),
        with_text("tokenizer.json", "{}"),
    ],
)
def test_a_damaged_folder_is_one_error(damage, tmp_path):
    base = folder(tmp_path / "model")
    damage(base)
    with pytest.raises(InvalidInput, match=r"\bmodel\b") as error:
        load(TrainConfig(model=str(base)), AutoModelForCausalLM, [])
    assert str(base) in str(error.value) and "\n" not in str(error.value)


def test_a_kind_that_a_family_has_not_is_one_error(tmp_path):
    base = folder(tmp_path / "model", "gemma3")
    with pytest.raises(InvalidInput, match="cannot be loaded: .*Unrecognized configuration class"):
        load(TrainConfig(model=str(base)), AutoModelForTokenClassification, [])


def test_what_we_refuse_ourselves_is_told_as_it_is():
    with pytest.raises(InvalidInput, match="^no$"), loading("m"):
        raise InvalidInput("no")


def test_no_name_is_no_model():
    with pytest.raises(InvalidInput, match="model"):
        TrainConfig(model="")


SMALL: dict[str, Any] = {"vocab_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 8}
TINY: dict[str, Any] = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 4}


@pytest.mark.parametrize(
    ("config", "is_learned"),
    [
        (GPT2Config(**TINY), True),
        (OPTConfig(**SMALL, max_position_embeddings=64, ffn_dim=8, word_embed_proj_dim=8), True),
        *((one(**TINY, rotary_dim=4), True) for one in (GPTJConfig, CodeGenConfig)),
        (LlamaConfig(**SMALL, max_position_embeddings=64, intermediate_size=8), False),
    ],
    ids=lambda one: getattr(one, "model_type", None),
)
def test_positions_beyond_those_that_a_model_learns_are_refused(config, is_learned):
    model = AutoModelForCausalLM.from_config(config)
    check_positions(model, 63)
    with pytest.raises(InvalidInput, match="64 positions, a sample has 65") if is_learned else nullcontext():
        check_positions(model, 64)
