"""New tags: rows of their pieces' means, a padded vocabulary, folders that the native engine loads."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from plait.rl.tags import add_tags, save
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.native.loader import load_model
from plait.runtime.methods.multiverse.grammar import TAGS
from plait.tests.rl.tools import SIZE, folder


@pytest.mark.parametrize("tag", ["<>", "<<>", " ", "\u043a\u0438"])
def test_a_tag_without_a_word_is_the_mean_of_its_signs(tag, tmp_path):
    base = folder(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    old, pieces = model.get_input_embeddings().weight.clone(), tokenizer.encode(tag, add_special_tokens=False)
    (row,) = add_tags(model, tokenizer, [tag])
    torch.testing.assert_close(model.get_input_embeddings().weight[row], old[pieces].mean(0))


def test_a_tag_of_which_a_tokenizer_knows_nothing_is_the_mean_of_all_rows(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder(tmp_path))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])))
    mean = model.get_input_embeddings().weight[:3].mean(0)
    assert add_tags(model, tokenizer, ["<c>", "c"]) == [3, 4]
    for row in (3, 4):
        torch.testing.assert_close(model.get_input_embeddings().weight[row], mean)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("rows", [SIZE, 640])
def test_rows_of_new_tags(is_tied, rows, tmp_path):
    """`rows`: also those of a table that was padded further, as Qwen's is; it shrinks."""
    base = folder(tmp_path / "base", "qwen3", tie_word_embeddings=is_tied, vocab_size=rows)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    count = len(tokenizer)
    tables = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    ids = add_tags(model, tokenizer)
    assert ids == list(range(count, count + 12)) == tokenizer.convert_tokens_to_ids(list(TAGS))
    assert model.config.vocab_size == len(model.get_output_embeddings().weight) == -(-len(tokenizer) // 64) * 64
    again = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    for old, new in zip(tables, again, strict=True):
        assert torch.equal(new[:count], old[:count])
        for tag, row in zip(TAGS, ids, strict=True):
            pieces = tokenizer.encode(tag[1:-1], add_special_tokens=False)
            torch.testing.assert_close(new[row], old[pieces].mean(0))
        assert (new[len(tokenizer) :] - new[: len(tokenizer)].mean(0)).abs().max() < 1e-6
    assert add_tags(model, tokenizer) == ids
    assert torch.equal(model.get_input_embeddings().weight, again[0])

    save(model, tokenizer, tmp_path / "new")
    ours, served = load_tokenizer(tmp_path / "new"), load_model(tmp_path / "new")
    assert [ours.encode(tag) for tag in TAGS] == [[row] for row in ids]
    assert ours.decode(ours.encode("a <Path> b</Path>")) == "a <Path> b</Path>"
    assert served.config.tie_embeddings == is_tied and served.config.vocab_size == model.config.vocab_size
