"""The same constraint on every engine that has them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import (
    ChoiceConstraint,
    GrammarConstraint,
    InvalidInput,
    JsonConstraint,
    Recorder,
    RegexConstraint,
    ReplayEngine,
    Runtime,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    UnsupportedByEngine,
)
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.registry import load_engine
from plait.runtime.engines.text_stream import decode_behind
from plait.tests.real import NAMES, folder
from plait.tests.runtime.engines.constraints.byte_model import save_byte_model
from plait.tests.runtime.engines.native.tokenizer_kinds import CORPUS, KINDS, ours

CONSTRAINTS = [
    JsonConstraint(json_schema={"type": "array", "items": {"type": "integer"}, "minItems": 2}),
    RegexConstraint(pattern="(ab|é)+z"),
    ChoiceConstraint(choices=("one", "two")),
    GrammarConstraint(grammar='start: "(" start ")" | "x"'),
]


async def text_of(engine, *methods, seed=0):
    async with Runtime(engine=engine) as runtime:
        return [(await (await runtime.submit(method, seed=seed))).text for method in methods]


async def test_greedy_texts_of_transformers_are_those_of_the_native_engine():
    model = save_byte_model()
    methods = [Sequential(prompt="ab", constraint=c, temperature=0, max_tokens=30) for c in CONSTRAINTS]
    native = await text_of(NativeEngine.load(model), *methods)
    assert native == await text_of(load_engine(f"transformers:{model}", {}), *methods)
    assert len(set(native)) == len(native) and native[2] in ("one", "two")


async def test_transformers_samples_what_is_allowed():
    methods = [Sequential(prompt="ab", constraint=c, temperature=1, max_tokens=30) for c in CONSTRAINTS]
    texts = await text_of(load_engine(f"transformers:{save_byte_model()}", {}), *methods, seed=5)
    assert texts[2] in ("one", "two") and texts[0][0] == "[" and texts[3][0] in "(x"


async def test_a_recording_plays_back(tmp_path):
    method = SelfConsistency(prompt="ab", n=3, constraint=CONSTRAINTS[1], max_tokens=20)
    recorded = await text_of(Recorder(NativeEngine.load(save_byte_model()), tmp_path / "calls"), method)
    assert recorded == await text_of(ReplayEngine(tmp_path / "calls"), method)
    other = method.model_copy(update={"constraint": CONSTRAINTS[2]})
    with pytest.raises(InvalidInput, match="no recorded answer|never saw"):
        await text_of(ReplayEngine(tmp_path / "calls"), other)


async def test_a_script_has_to_keep_to_it():
    method = Sequential(prompt="?", constraint=ChoiceConstraint(choices=("yes", "no")))
    assert await text_of(ScriptedEngine(["yes"]), method) == ["yes"]
    for text in ("yes!", "ye", ""):
        with pytest.raises(InvalidInput, match="not what the constraint asks for"):
            await text_of(ScriptedEngine([text]), method)
    with pytest.raises(InvalidInput):
        await text_of(ScriptedEngine(["yes"]), Sequential(prompt="?", constraint=RegexConstraint(pattern="(")))


def test_tokens_that_end_words_spell_no_texts():
    """GPT-1's, whose decoder puts spaces behind them; its first tokens are letters, in a row as they are."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    tokenizer.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, tokenizers.trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>"))
    with pytest.raises(UnsupportedByEngine, match="not those of its tokens in a row"):
        HFTokenizer(tokenizer, bos_id=None, eos_ids=()).token_bytes()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20)
def test_bytes_of_tokens_are_the_text_that_they_make(kind, data):
    """Of any tokens in any order, behind other text."""
    tokenizer = ours(kind)
    spelling = tokenizer.token_bytes()
    letters = [id for id, (spelled, special) in enumerate(spelling) if spelled and not special]
    tokens = data.draw(st.lists(st.sampled_from(letters), max_size=6))
    with suppress(UnicodeDecodeError):  # what is no text yet
        assert decode_behind(tokenizer, tokens) == b"".join(spelling[token][0] for token in tokens).decode()


SAMPLES = ["plain text", ' {"a": [1, 2.5e3]}\n', "naïve 中文 😀\t\x00", "    indented\r\n"]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_real_tokens_are_their_texts(name):
    tokenizer = HFTokenizer.load(folder(name))
    spelling = tokenizer.token_bytes()
    for text in SAMPLES:
        tokens = tokenizer.encode_continuation((), text)
        assert b"".join(spelling[token][0] for token in tokens) == text.encode()
    assert all(spelling[token][1] for token in tokenizer.eos_ids)
