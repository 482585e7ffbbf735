"""Training in another dialect: its tags become tokens, the saved folder tells whose, samples are in its form."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from plait.rl.config import SFTConfig
from plait.rl.masks import text_mask
from plait.rl.models import load
from plait.rl.samples import Sample
from plait.rl.tags import add_tags, save
from plait.rl.texts import read_samples
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.methods.multiverse.dialects import DIALECTS, fitting
from plait.tests.rl.tools import folder
from plait.tests.runtime.methods.multiverse.tools import Par, render

ITEMS = ["hm\n", Par({"1": [" left"], "2": [" the right one"]}, "both"), "so"]


@pytest.mark.parametrize("name", DIALECTS)
def test_training_in_a_dialect(name, tmp_path):
    base = folder(tmp_path / "base", "qwen3")
    dialect, path = DIALECTS[name], tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "text": render(ITEMS, dialect)}) + "\n")
    source = {"kind": "texts", "paths": [str(path)], "dialect": name}
    config = SFTConfig(model=str(base), data=[source], tags=True)
    model, hf_tokenizer, ids = load(config, AutoModelForCausalLM, dialect.tags)
    assert len(ids) == len(dialect.tags)
    save(model, hf_tokenizer, tmp_path / "new")
    tokenizer = load_tokenizer(tmp_path / "new")
    assert fitting(tokenizer) == [name]
    (sample,) = read_samples(config.data[0], tokenizer, 4096).parallel
    encode = lambda text: tokenizer.encode_continuation((), text)  # noqa: E731
    prompt = tokenizer.chat([{"role": "user", "content": "Q"}])
    mask = text_mask(render(ITEMS, dialect), encode, prompt=prompt, end=tokenizer.eos_ids[:1], dialect=dialect)
    expected = Sample.of(mask).mask
    assert sample.mask.token_ids == expected.token_ids
    assert torch.equal(sample.mask.dense(), expected.dense())
    assert sample.mask.positions.tolist() == expected.positions.tolist()
    is_causal = torch.equal(sample.mask.dense()[0, 0], torch.ones(len(expected), len(expected)).tril().bool())
    assert is_causal == (name == "threadweaver")


def test_two_dialects_in_one_tokenizer_are_ambiguous(tmp_path):
    base = folder(tmp_path / "base", "qwen3")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    add_tags(model, tokenizer, [*DIALECTS["npr"].tags, *DIALECTS["threadweaver"].tags])
    save(model, tokenizer, tmp_path / "new")
    assert fitting(load_tokenizer(tmp_path / "new")) == ["npr", "threadweaver"]
