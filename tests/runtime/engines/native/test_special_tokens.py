"""Special tokens that tokenizer.json lacks are those that transformers adds, with its ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from plait.runtime.engines.native.special_tokens import NAMES
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native import tokenizer_kinds

TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|x|>", "the"]
"""Those of tokenizer.json, new ones, and one of the vocabulary."""
TOKEN = st.sampled_from(TOKENS)
FLAGS = st.fixed_dictionaries({flag: st.booleans() for flag in ("lstrip", "rstrip", "normalized", "single_word")})
OBJECT = st.builds(
    lambda text, special, flags: {"content": text, "special": special, **flags}, TOKEN, st.booleans(), FLAGS
)
FORMS = st.dictionaries(TOKEN, FLAGS)
"""Flags of those that are written as objects; one text has one form."""
UNNAMED = st.lists(TOKEN, max_size=3) | st.dictionaries(st.sampled_from(["image_token", "tool"]), TOKEN)
MORE = ("extra_special_tokens", "additional_special_tokens")
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, TOKEN | st.none()),
        "audio_token": TOKEN,
        **dict.fromkeys(MORE, UNNAMED),
        "added_tokens_decoder": st.dictionaries(st.integers(0, 710).map(str), OBJECT, max_size=4),
    },
).filter(lambda config: sum(isinstance(config.get(key), dict) for key in MORE) < 2)
OLDER = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, TOKEN),
        "image_token": TOKEN,
        "extra_special_tokens": st.lists(TOKEN, max_size=3),
        "additional_special_tokens": st.lists(TOKEN, max_size=3),
    },
)
TEMPLATE = (
    "{{ bos_token }}{{ audio_token }}{% for m in messages %}<|im_start|>{{ m.content }}{{ eos_token }}{% endfor %}"
)


def _folder(path: Path, kept: set[str], **files: Any) -> Path:
    data = json.loads(tokenizer_kinds.raw("byte-level").to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in kept]
    for name, content in {"tokenizer": data, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def _assert_equal(folder: Path, text: str) -> None:
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(folder), HFTokenizer.load(folder)
    assert ours.encode(text) == theirs(text).input_ids
    messages = [{"role": "user", "content": text}]
    assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False)
    assert ours.eos_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    assert ours.bos_id == theirs.bos_token_id
    assert ours.vocab_size == len(theirs)
    named = {name: theirs.convert_tokens_to_ids(token) for name, token in theirs.special_tokens_map.items()}
    unnamed = {token: theirs.convert_tokens_to_ids(token) for token in map(str, theirs.extra_special_tokens)}
    assert ours.special_ids == {**named, **unnamed}
    special = {id for id, token in theirs.added_tokens_decoder.items() if token.special}
    assert {id for id, (_, is_special) in enumerate(ours.token_bytes()) if is_special} == special


KEPT = st.sets(st.sampled_from(TOKENS[:2]))
TEXT = st.lists(st.sampled_from([*TOKENS, " ", "Hello"]), max_size=8).map("".join)
MADE: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=KEPT, forms=FORMS, config=CONFIG, older=OLDER, text=TEXT)
def test_ids_are_those_of_transformers(
    tmp_path: Path, kept: set[str], forms: dict[str, Any], config: dict[str, Any], older: dict[str, Any], text: str
) -> None:
    def formed(value: Any, more: dict[str, Any]) -> Any:
        if isinstance(value, list):
            return [formed(one, more) for one in value]
        return {"content": value, **forms[value], **more} if isinstance(value, str) and value in forms else value

    own = {"__type": "AddedToken", "special": True}
    config |= {name: formed(config[name], own) for name in (*NAMES, *MORE) if name in config}
    older |= {name: formed(older[name], {}) for name in (*NAMES, MORE[0]) if name in older}
    _assert_equal(_folder(tmp_path, kept, tokenizer_config={**config, **MADE}, special_tokens_map=older), text)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kept=KEPT,
    named=st.dictionaries(st.sampled_from(NAMES), TOKEN),
    added=st.dictionaries(TOKEN, st.integers(698, 706), max_size=3),
    text=TEXT,
)
def test_tokens_of_the_oldest_files_are_added_too(
    tmp_path: Path, kept: set[str], named: dict[str, str], added: dict[str, int], text: str
) -> None:
    _assert_equal(_folder(tmp_path, kept, tokenizer_config={**named, **MADE}, added_tokens=added), text)


def test_a_new_eos_must_fit_the_model_and_a_bos_that_is_not_used_need_not(tmp_path: Path) -> None:
    size = tokenizer_kinds.raw("byte-level").get_vocab_size()
    HFTokenizer.load(_folder(tmp_path, set(), tokenizer_config={"bos_token": "<new>"})).check_fits(size, "model")
    ends = HFTokenizer.load(_folder(tmp_path, set(), tokenizer_config={"eos_token": "<new>"}))
    ends.check_fits(size + 1, "model")
    with pytest.raises(InvalidInput, match=f"token id {size}"):
        ends.check_fits(size, "model")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": 3}, "eos_token: a special token is a text"),
        ({"eos_token": {"content": "a", "lstrip": "yes"}}, "eos_token"),
        ({"extra_special_tokens": [["a"]]}, "a special token is a text"),
        ({"additional_special_tokens": "a"}, "additional_special_tokens must be a list"),
        ({"added_tokens_decoder": ["a"]}, "added_tokens_decoder must hold tokens"),
        ({"added_tokens_decoder": {"a": {"content": "b"}}}, "added_tokens_decoder must hold tokens"),
        ({"added_tokens_decoder": {"1": "b"}}, "added_tokens_decoder must hold tokens"),
    ],
)
def test_what_is_no_token_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        HFTokenizer.load(_folder(tmp_path, set(), tokenizer_config=config))
    for added in ({"a": "b"}, {"\ud800": 700}):
        with pytest.raises(InvalidInput, match="added_tokens.json"):
            HFTokenizer.load(_folder(tmp_path, set(), tokenizer_config={}, added_tokens=added))
