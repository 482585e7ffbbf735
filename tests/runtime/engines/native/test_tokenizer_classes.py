"""Prompts are those of transformers' classes, whose instances are the oracle."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.tests.runtime.engines.native.tokenizer_kinds import BOS, EOS, raw

SENTENCEPIECE = "byte fallback, space by the normaliser"
TEXTS = ["Hello dog", " two  spaces", f"a{EOS}\nThe quick", f"{EOS} x", "the<|user|> lazy", "", "  \n", "é 你好"]
TEMPLATE = "{% for m in messages %}<|user|>\n{{ m.content }}" + EOS + "\n{% endfor %}" + BOS


def folder(tmp_path, model_type, kind=SENTENCEPIECE, **own):
    raw(kind).save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names | own))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return tmp_path


@pytest.mark.parametrize("model_type", ["llama", "smollm3", "mistral", "phi3", "olmo2"])
@pytest.mark.parametrize("own", [
    {"tokenizer_class": "LlamaTokenizer", "legacy": False},
    {"tokenizer_class": "LlamaTokenizer", "legacy": True},
    {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": None},
    {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False},
    {"tokenizer_class": "CodeLlamaTokenizer", "legacy": True},
    {"tokenizer_class": "CodeLlamaTokenizer", "add_prefix_space": False},
    {"tokenizer_class": "PreTrainedTokenizerFast"},
    {},
])  # fmt: skip
def test_classes_of_sentencepiece(model_type, own, tmp_path):
    path = folder(tmp_path, model_type, **own)
    theirs, found = AutoTokenizer.from_pretrained(path), HFTokenizer.load(path)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert found.encode(text) == ids
        assert found.decode(ids) == theirs.decode(ids)
    chat = [{"role": "user", "content": "the dog"}, {"role": "user", "content": " jumps"}]
    assert found.chat(chat) == theirs.apply_chat_template(chat, return_dict=False)
    ids = found.encode("The quick")
    assert found.decode([*ids, *found.encode_continuation(ids, " brown")]) == theirs.decode(ids) + " brown"


def test_a_class_of_sentencepiece_makes_nothing_of_byte_level_tokens(tmp_path):
    """DeepSeek's distilled Llamas name it; transformers knows them by their names."""
    kind = "byte-level with BOS"
    found = HFTokenizer.load(folder(tmp_path, "llama", kind, tokenizer_class="LlamaTokenizerFast"))
    for text in TEXTS:
        assert found.encode(text) == raw(kind).encode(text).ids


@pytest.mark.parametrize("kind", ["BPE", "WordLevel", "Unigram"])
def test_a_small_vocabulary(kind, tmp_path):
    """None but these characters, and no token for what is unknown."""
    vocabulary = {token: id for id, token in enumerate([BOS, EOS, *"0123456789+-= "])}
    made = Tokenizer({
        "BPE": lambda: models.BPE(vocabulary, []),
        "WordLevel": lambda: models.WordLevel(vocabulary, unk_token="<none>"),
        "Unigram": lambda: models.Unigram([(token, -1.0) for token in vocabulary]),
    }[kind]())  # fmt: skip
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    made.post_processor = TemplateProcessing(f"{BOS} $A {EOS}", special_tokens=[(BOS, 0), (EOS, 1)])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token=EOS).save_pretrained(tmp_path)
    found = HFTokenizer.load(tmp_path)
    assert found.prefix_ids == (0,)
    assert found.encode("1+2") == AutoTokenizer.from_pretrained(tmp_path)("1+2").input_ids[:-1]
