"""Prompts are those of transformers' classes, whose instances are the oracle."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from plait.runtime.engines.native.special_tokens import NAMES
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.native.tokenizer_classes import _SPECIAL
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
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizerFast"}))
    assert not HFTokenizer.load(tmp_path).special_ids


def of_class(tmp_path, name, model_type="llama", *, keeps=True, **own):
    """A folder as the class saves it, whose tokens `own` alone names, and, unless `keeps`, tokenizer.json lacks."""
    sentencepiece = name in ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
    raw(SENTENCEPIECE if sentencepiece else "byte-level").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    if not keeps:
        made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in made["model"]["vocab"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{{ pad_token }}{% endfor %}"
    config = {"tokenizer_class": name, "chat_template": template, **own}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def check_special_tokens(path):
    theirs, found = AutoTokenizer.from_pretrained(path), HFTokenizer.load(path)
    named = {name: theirs.convert_tokens_to_ids(token) for name, token in theirs.special_tokens_map.items()}
    # Code Llama's class has more, for texts with a gap.
    assert found.special_ids == {name: id for name, id in named.items() if name in NAMES}
    assert found.bos_id == theirs.bos_token_id
    assert found.eos_ids == (() if theirs.eos_token is None else (theirs.eos_token_id,))
    for text in [*TEXTS, *(f"a{token} the" for name, token in theirs.special_tokens_map.items() if name in NAMES)]:
        assert found.encode(text) == theirs(text).input_ids
    chat = [{"role": "user", "content": "the dog"}]
    assert found.chat(chat) == theirs.apply_chat_template(chat, return_dict=False)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("name", _SPECIAL)
def test_special_tokens_that_the_class_alone_names(name, keeps, tmp_path):
    path = of_class(tmp_path, name, keeps=keeps)
    check_special_tokens(path)
    assert HFTokenizer.load(path).eos_ids


@pytest.mark.parametrize("name", _SPECIAL)
def test_what_files_say_of_special_tokens_counts(name, tmp_path):
    path = of_class(tmp_path, name, eos_token=None, pad_token="the")
    (path / "special_tokens_map.json").write_text(json.dumps({"unk_token": EOS}))
    check_special_tokens(path)


@pytest.mark.parametrize("model_type", ["mixtral", "granite", "stablelm", "jamba", "deepseek_v3", "phi3"])
@pytest.mark.parametrize("name", ["LlamaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer"])
def test_a_class_that_is_known_to_be_wrong_names_none(name, model_type, tmp_path):
    path = of_class(tmp_path, name, model_type, add_prefix_space=False, legacy=True)
    check_special_tokens(path)
    assert not HFTokenizer.load(path).special_ids


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
