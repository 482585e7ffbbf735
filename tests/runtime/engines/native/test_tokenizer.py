"""Tokenizers of model folders, and their text token by token."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.text_stream import IncrementalDecoder
from plait.runtime.errors import InvalidInput

TEXTS = [
    "Hello world, hello.",
    "  spaces\n\nand\ttabs ",
    "na\u00efve caf\u00e9 \u20ac5",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u0645\u0631\u062d\u0628\u0627",
    "1 + 2 = 3",
]
SPECIAL = ["<bos>", "<eos>", "<|end|>"]


@cache
def _byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    tokenizer.train_from_iterator(["".join(rng.choices(TEXTS, k=3)) for _ in range(50)], trainer)
    return tokenizer


@cache
def _byte_fallback() -> tokenizers.Tokenizer:
    """As Llama 2 and Mistral have it: a word's leading space is part of its token, unknown characters become bytes."""
    words = ["\u2581", "\u2581hello", "\u2581world", "hello", "a", "b", "\u00e9", ",", "\u2581,"]
    vocab = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocab)}, [], byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def _folder(path: Path, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    _byte_level().save(str(path / "tokenizer.json"))
    for name, data in files.items():
        (path / f"{name}.json").write_text(json.dumps(data))
    return path


def _assert_pieces(tokenizer: HFTokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    whole, said = tokenizer.decode(ids), "".join(pieces)
    assert whole.startswith(said) and not whole[len(said) :].strip("\ufffd")  # but for half a character
    return pieces


@given(st.lists(st.integers(0, 339), max_size=60))
def test_any_bytes_decode_the_same_in_pieces(ids: list[int]) -> None:
    """Also tokens in orders that are not UTF-8."""
    _assert_pieces(HFTokenizer(_byte_level()), ids)


@given(st.lists(st.one_of(st.sampled_from(TEXTS + SPECIAL), st.text(max_size=5)), max_size=8).map("".join))
def test_text_comes_without_halves_of_characters(text: str) -> None:
    tokenizer = HFTokenizer(_byte_level())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    pieces = _assert_pieces(tokenizer, ids)
    assert "".join(pieces) == text.rstrip("\ufffd")
    # Each piece comes as early as can be: with the token that brings its last byte.
    for n in range(len(ids)):
        assert "".join(pieces[: n + 1]) == tokenizer.decode(ids[: n + 1]).rstrip("\ufffd")


@given(st.lists(st.sampled_from(["hello", " world", "\u00e9", "\u4e16", "\U0001f600", ",", "<eos>", " "])).map("".join))
def test_byte_fallback_and_leading_spaces(text: str) -> None:
    tokenizer = HFTokenizer(_byte_fallback())
    _assert_pieces(tokenizer, tokenizer.encode(text))


def test_pieces_of_an_emoji() -> None:
    tokenizer = HFTokenizer(_byte_level())
    (a,), fox, (b,) = (tokenizer.encode(text) for text in ("a", "\U0001f98a", "b"))
    assert len(fox) > 1
    waiting = [""] * (len(fox) - 1)
    assert _assert_pieces(tokenizer, [a, *fox, b]) == ["a", *waiting, "\U0001f98a", "b"]
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(token) for token in [a, *fox[:-1]]] == ["a", *waiting]


def test_nothing_is_added_and_nothing_is_hidden(tmp_path: Path) -> None:
    tokenizer = HFTokenizer.load(_folder(tmp_path))
    ids = tokenizer.encode("<bos>Hello<eos>")
    assert ids[0] == 0 and ids[-1] == 1
    assert tokenizer.decode(ids) == "<bos>Hello<eos>"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.vocab_size == 340


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, ()),
        ({"tokenizer_config": {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}}, 0, (1,)),
        ({"tokenizer_config": {"bos_token": None, "eos_token": "new"}}, None, (340,)),
        ({"config": {"bos_token_id": 0, "eos_token_id": 2}, "tokenizer_config": {"eos_token": "<eos>"}}, None, (2,)),
        ({"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [2, 1]}}, None, (2, 1)),
    ],
)
def test_special_ids(tmp_path: Path, files: dict[str, Any], bos: int | None, eos: tuple[int, ...]) -> None:
    tokenizer = HFTokenizer.load(_folder(tmp_path, **files))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (bos, eos)


FLAGS = st.fixed_dictionaries({flag: st.booleans() for flag in ("lstrip", "rstrip", "normalized", "single_word")})
NORMALIZERS = [None, normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.NFC()]
NAMED = ["<bos>", "<eos>", "<|mark|>", "<tool>"]


BOS, EOS = ("<bos>", 0), ("<eos>", 1)
FIRST = processors.TemplateProcessing(single="<bos> $A", special_tokens=[BOS])
IN_FRONT = [
    None,
    FIRST,
    processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[BOS, EOS]),
    processors.RobertaProcessing(EOS, BOS),
    processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<bos> $A", special_tokens=[BOS]),
        ]
    ),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    text=st.lists(st.sampled_from([*NAMED, " ", "  ", "\n", "Hello", "ﬁ½", "é"]), max_size=8).map("".join),
)
def test_prompts_are_encoded_as_in_transformers(tmp_path: Path, data: st.DataObject, text: str) -> None:
    """Whatever normalizers, added tokens, post-processors and files of special tokens a model has."""
    tokenizer = tokenizers.Tokenizer.from_str(_byte_level().to_str())
    if (normalizer := data.draw(st.sampled_from(NORMALIZERS))) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken("<|mark|>", **data.draw(FLAGS))])
    tokenizer.add_tokens([AddedToken("<tool>", **data.draw(FLAGS))])
    if (processor := data.draw(st.sampled_from(IN_FRONT))) is not None:
        tokenizer.post_processor = processor
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<bos>", "eos_token": data.draw(st.sampled_from(["<eos>", "<|mark|>"]))}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": data.draw(st.booleans())}
    config["chat_template"] = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    in_map = data.draw(st.booleans())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config if in_map else {**config, **named}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named if in_map else {}))
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), HFTokenizer.load(tmp_path)
    alone, whole = (theirs(text, add_special_tokens=flag).input_ids for flag in (False, True))
    prefix = list(ours.prefix_ids)
    assert whole[: len(prefix) + len(alone)] == prefix + alone
    assert ours.encode(text) == (alone if alone[: len(prefix)] == prefix else prefix + alone)
    assert ours.eos_ids == (theirs.eos_token_id,)
    messages = [{"role": "user", "content": text}]
    assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast"])
def test_qwen2_composes_characters_whatever_its_file_says(tmp_path: Path, name: str) -> None:
    _byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "eos_token": "<eos>"}))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), HFTokenizer.load(tmp_path)
    for text in ("cafe\u0301", "\u1112\u1161\u11ab", "caf\u00e9 42"):
        assert ours.encode(text) == theirs(text).input_ids
    assert ours.encode("cafe\u0301") == ours.encode("caf\u00e9")


@pytest.mark.parametrize("name", ["GPT2TokenizerFast", "GPTNeoXTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}, {"add_prefix_space": False}])
def test_a_space_is_put_in_front_where_transformers_puts_it(
    tmp_path: Path, name: str, in_file: bool, config: dict[str, Any]
) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(_byte_level().to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=in_file)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<bos>", "tokenizer_class": name}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, **config}))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), HFTokenizer.load(tmp_path)
    for text in ("Hello", " Hello", "Hello<eos>world"):
        assert ours.encode(text) == theirs(text).input_ids


TEMPLATE = """{{ bos_token }}
{%- if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    <{{ message.role }}>{{ message | tojson }}{{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<assistant>{{ strftime_now('%Y') | length }}{% endif %}"""


def test_chat_template_renders_as_in_transformers(tmp_path: Path) -> None:
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE}
    tokenizer = HFTokenizer.load(_folder(tmp_path, tokenizer_config=config))
    messages = [{"role": "user", "content": " 1 < 2 caf\u00e9 "}, {"role": "skip", "content": ""}]
    reference = PreTrainedTokenizerFast(tokenizer_object=_byte_level(), bos_token="<bos>", eos_token="<eos>")
    expected = reference.apply_chat_template(
        messages, chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.chat(messages) == expected
    with pytest.raises(InvalidInput, match="no tools"):
        tokenizer.chat([{"role": "tool", "content": ""}])
    with pytest.raises(InvalidInput, match="rejects these messages"):
        tokenizer.chat([])


@pytest.mark.parametrize("where", ["file", "list", "object"])
def test_places_of_chat_templates(tmp_path: Path, where: str) -> None:
    named = {"rag": "no", "default": "no" if where == "file" else "a", "tool_use": "no" if where == "file" else "b"}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    _folder(tmp_path, tokenizer_config={"chat_template": listed if where == "list" else named})
    if where == "file":
        (tmp_path / "chat_template.jinja").write_text("a")
    theirs, tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path), HFTokenizer.load(tmp_path)
    user = [{"role": "user", "content": ""}]
    for tools in ([], [{"type": "function"}]):
        assert tokenizer.chat(user, tools) == theirs.apply_chat_template(user, tools=tools or None, return_dict=False)
    assert tokenizer.decode(tokenizer.chat(user)) == "a"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no tokenizer.json"):
        HFTokenizer.load(tmp_path)
    with pytest.raises(InvalidInput, match="no chat template"):
        HFTokenizer.load(_folder(tmp_path)).chat([{"role": "user", "content": "hi"}])
    with pytest.raises(InvalidInput, match="chat template is not valid"):
        HFTokenizer.load(_folder(tmp_path, tokenizer_config={"chat_template": "{% if %}"})).chat(
            [{"role": "user", "content": "hi"}]
        )
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InvalidInput, match="tokenizer_config.json is not valid JSON"):
        HFTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match="tokenizer.json cannot be read"):
        HFTokenizer.load(tmp_path)


@pytest.mark.parametrize(("known", "refused"), [("b", "a"), ("a", "b"), ("a", "b" * 5000)])
def test_a_text_without_tokens_is_refused(tmp_path: Path, known: str, refused: str) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({known: 0}, unk_token="<missing>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InvalidInput, match="the tokenizer cannot read a text: .*UNK"):
        HFTokenizer.load(tmp_path).encode(refused)


def test_templates_cannot_reach_out_of_their_sandbox(tmp_path: Path) -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = HFTokenizer.load(_folder(tmp_path, tokenizer_config={"chat_template": template}))
    with pytest.raises(InvalidInput, match="rejects"):
        tokenizer.chat([])


def test_the_engine_does_not_import_transformers() -> None:
    native = "plait.runtime.engines.native"
    code = f"import sys, {native}.loader, {native}.tokenizer; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_long_texts_are_encoded_like_short_ones():
    tokenizer = HFTokenizer(_byte_level())
    line = "Hello world, 1 + 2 = 3\n"
    long = line * (5000 // len(line))
    first = tokenizer.encode(long)
    assert first == _byte_level().encode(long, add_special_tokens=False).ids
    first.clear()  # Callers may do with it what they like.
    assert tokenizer.decode(tokenizer.encode(long)) == long
