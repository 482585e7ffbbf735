"""Tokenizers out of GGUF files against the tokenizer.json they were made from."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from plait.runtime.engines.native.gguf_tokenizer import _SPLITTINGS, load_tokenizer
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.errors import InvalidInput, PlaitError, UnsupportedModel
from plait.tests.runtime.engines.native.gguf_files import bpe_keys, write_gguf
from plait.tests.runtime.engines.native.helpers import tiny

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CORPUS = [
    "def f(x):\n    return x + 12345\n\n",
    "It's what WE'LL do, she'd said; they've 1,000 reasons.  \t\n",
    "na\u00efve caf\u00e9 \u20ac5 \u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u0e27\u0e31",
    "\U0001f600\U0001f468\u200d\U0001f469 x\u00b2 \u00bd \u2167 \u0663",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*CORPUS, *SPECIAL, "<tool>", " ", "\n", "\r\n", "'S", "2024"]), st.text(max_size=8)),
    max_size=6,
).map("".join)
LLAMA3 = (  # as in the tokenizer.json of Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


HOW: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _split(LLAMA3),
    "qwen2": lambda: _split(QWEN2),
}


def _with_tokenizer(path: Path, keys: dict[str, Any]) -> Path:
    return write_gguf(path, _model(), tokenizer=keys)


@cache
def _model() -> Any:
    return tiny("llama")[0]


@cache
def _pair(pre: str, folder: Path) -> tuple[tokenizers.Tokenizer, HFTokenizer]:
    """A trained tokenizer, and the one read back from a file."""
    original = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    original.pre_tokenizer = HOW[pre]()
    original.normalizer = normalizers.NFC() if pre == "qwen2" else None
    original.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rng = random.Random(0)
    original.train_from_iterator(["".join(rng.choices(CORPUS, k=3)) for _ in range(60)], trainer)
    original.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    original.add_tokens([AddedToken("<tool>", normalized=False)])
    keys = bpe_keys(original.to_str(), pre=pre, special=SPECIAL)
    at = keys["ggml.tokens"].index("<tool>")
    keys["ggml.token_type"][at] = 4
    keys["ggml.tokens"] += ["[PAD1]", "[PAD2]"]
    keys["ggml.token_type"] += [5, 5]
    ends = {"ggml.eos_token_id": at - 3, "ggml.bos_token_id": at - 1}
    path = _with_tokenizer(folder / f"{pre}.gguf", {**keys, **ends, "chat_template": "{{ messages[0].content }}!"})
    return original, load_tokenizer(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@settings(deadline=None, max_examples=150)
@given(pre=st.sampled_from(sorted(HOW)), text=TEXTS)
def test_byte_level(folder: Path, pre: str, text: str) -> None:
    original, read = _pair(pre, folder)
    plain, first = original.encode(text, add_special_tokens=False).ids, list(read.prefix_ids)
    ids = read.encode(text)
    assert ids == (plain if first and plain[:1] == first else first + plain)
    assert read.decode(ids) == original.decode(ids, skip_special_tokens=False)


def test_special_tokens_and_templates(folder: Path) -> None:
    for pre in HOW:
        original, read = _pair(pre, folder)
        start, end, text = (original.token_to_id(token) for token in SPECIAL)
        assert read.eos_ids == (start, end, text)  # the one the file names, and those that end a turn or a text
        assert read.bos_id == (text if pre == "llama-bpe" else None)
        assert read.prefix_ids == ((text,) if pre == "llama-bpe" else ())  # Llama 3's, whether the file says so or not
        assert read.vocab_size == original.get_vocab_size()  # what only fills up the matrix is no token
        assert read.chat([{"role": "user", "content": "hi"}]) == original.encode("hi!").ids


WORDS = [
    "\u2581",
    "t",
    "h",
    "e",
    "a",
    "n",
    "\u2581t",
    "he",
    "th",
    "\u2581the",
    "the",
    "an",
    "\u2581a",
    "\u2581an",
    "\u00e9",
]


def _spm_keys() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    return {
        "ggml.model": "llama",
        "ggml.tokens": tokens,
        "ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(WORDS))],
        "ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(WORDS),
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
    }


def _spm(folder: Path, **more: Any) -> HFTokenizer:
    return load_tokenizer(_with_tokenizer(folder / "spm.gguf", {**_spm_keys(), **more}))


def _by_scores(text: str) -> list[int]:
    """SentencePiece's way: merge the neighbours whose union has the best score, leftmost first; then bytes."""
    pieces = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    scores = {word: -i for i, word in enumerate(WORDS)}
    while True:
        best = max(
            ((scores[a + b], -i) for i, (a, b) in enumerate(zip(pieces, pieces[1:], strict=False)) if a + b in scores),
            default=None,
        )
        if best is None:
            break
        at = -best[1]
        pieces[at : at + 2] = ["".join(pieces[at : at + 2])]
    ids: list[int] = []
    for piece in pieces:
        ids += [259 + WORDS.index(piece)] if piece in scores else [3 + byte for byte in piece.encode()]
    return ids


@settings(deadline=None, max_examples=150)
@given(text=st.text(alphabet="thean \u00e9x\u4e16\n", max_size=14))
def test_sentencepiece(folder: Path, text: str) -> None:
    tokenizer = cache(_spm)(folder)
    bos, *ids = tokenizer.encode(text)
    assert (bos, ids) == (1, _by_scores(text))
    assert tokenizer.decode(ids) == text


def test_sentencepiece_options(folder: Path) -> None:
    tokenizer = _spm(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
    assert tokenizer.encode("<s>the</s>") == [1, *_by_scores("the"), 2]  # one BOS
    assert tokenizer.prefix_ids == (1,)
    plain = _spm(folder, **{"ggml.add_space_prefix": False, "ggml.add_bos_token": False})
    assert plain.bos_id is None and plain.prefix_ids == ()
    assert plain.encode("the") == [259 + WORDS.index("the")] and plain.decode(plain.encode(" the")) == " the"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"ggml.pre": "klingon"}, UnsupportedModel, "klingon"),
        ({"ggml.model": "bert"}, UnsupportedModel, "'bert' is not supported"),
        ({"ggml.model": None}, UnsupportedModel, "tokenizer model None"),
        ({"ggml.tokens": None}, InvalidInput, "no vocabulary"),
        ({"ggml.token_type": [1, 1]}, InvalidInput, "no vocabulary"),
        ({"ggml.merges": None}, InvalidInput, "lacks tokenizer.ggml.merges"),
        ({"ggml.merges": ["\u0120t \u0120\u0120zz"]}, InvalidInput, "merges do not fit"),
        ({"ggml.eos_token_id": 10**6}, InvalidInput, "eos token 1000000 is beyond"),
        ({"ggml.model": "llama"}, InvalidInput, "0 scores"),
    ],
)
def test_what_cannot_be_read(change: dict[str, Any], kind: Any, message: str, folder: Path, tmp_path: Path) -> None:
    original, _ = _pair("gpt-2", folder)
    keys = bpe_keys(original.to_str(), pre="gpt-2", special=SPECIAL)
    with pytest.raises(kind, match=message):
        load_tokenizer(_with_tokenizer(tmp_path / "model.gguf", {**keys, **change}))


KEYS = {
    **dict.fromkeys(("ggml.tokens", "ggml.merges", "ggml.scores", "ggml.token_type"), "a list"),
    **dict.fromkeys(("ggml.add_bos_token", "ggml.add_space_prefix"), "a truth value"),
    **dict.fromkeys(("ggml.pre", "chat_template", "chat_template.tool_use"), "a text"),
    **dict.fromkeys(("ggml.bos_token_id", "ggml.unknown_token_id", "ggml.eot_token_id"), "a number"),
}


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["x", 3, 2.5, True, [1, 2], ["a", "b"]])
def test_metadata_of_another_type_is_refused(model: str, key: str, value: Any, folder: Path, tmp_path: Path) -> None:
    if model == "gpt2":
        keys = bpe_keys(_pair("gpt-2", folder)[0].to_str(), pre="gpt-2", special=SPECIAL)
    else:
        keys = _spm_keys()
    path = _with_tokenizer(tmp_path / "model.gguf", {**keys, key: value})
    try:
        tokenizer = load_tokenizer(path)
    except PlaitError as error:
        assert "model.gguf" in str(error)
    else:
        assert tokenizer.decode(tokenizer.encode("the"))


def test_a_template_for_tools(folder: Path) -> None:
    templates = {"chat_template": "the", "chat_template.tool_use": "than {{ tools | length }}"}
    tokenizer = _spm(folder, **templates)
    assert tokenizer.chat([]) == tokenizer.encode("the")[1:]
    assert tokenizer.decode(tokenizer.chat([], [{}, {}])).strip() == "than 2"


def test_all_patterns_compile_and_lose_nothing() -> None:
    for splitting in _SPLITTINGS.values():
        if splitting.pattern is not None:
            for text in CORPUS:
                pieces = pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated").pre_tokenize_str(text)
                assert "".join(piece for piece, _ in pieces) == text and len(pieces) > 3


def test_a_file_without_tokenizer(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(InvalidInput, match="lacks llama.block_count"):
        load_tokenizer(tmp_path / "model.gguf")


def _real(name: str) -> tuple[HFTokenizer, HFTokenizer]:
    models = Path(os.environ.get("PLAIT_REAL_MODELS", "/nowhere"))
    if not (models / name / "tokenizer.json").is_file() or not (models / f"{name}.gguf").is_file():
        pytest.skip("PLAIT_REAL_MODELS holds no such model")
    return load_tokenizer(models / f"{name}.gguf"), load_tokenizer(models / name)


@pytest.mark.parametrize("name", ["smol135", "q05"])
def test_real_tokenizers_are_those_of_the_converted_folder(name: str) -> None:
    """The converted folders leave two things out that the models' own tokenizer.json have: Qwen2's normal form, and
    that SmolLM2 takes digits one by one."""
    read, converted = _real(name)

    @settings(deadline=None, max_examples=400, database=None)
    @given(TEXTS)
    def check(text: str) -> None:
        text = unicodedata.normalize("NFC", text)
        if name == "smol135":
            text = "".join(char for char in text if not char.isnumeric())
        ids = read.encode(text)
        assert ids == converted.encode(text)
        assert read.decode(ids) == converted.decode(ids)

    check()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code = path.read_text(encoding="utf-8")
        assert read.decode(read.encode(code)) == code
        if name == "q05":
            assert read.encode(code) == converted.encode(code)
    messages = [{"role": "user", "content": "hi"}]
    assert read.chat(messages) == converted.chat(messages)
    if name == "smol135":
        assert len(read.encode("2024")) == 4
