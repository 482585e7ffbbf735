"""The tokenizer that a GGUF file holds: byte-level BPE (`gpt2`), or BPE over characters as in SentencePiece (`llama`).

A file names the way text is split before merging (`tokenizer.ggml.pre`) but does not hold it; the patterns are those of
the models' own tokenizer.json files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from ...errors import InvalidInput, UnsupportedModel
from .gguf_file import GGUFFile
from .tokenizer import HFTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _words(digits: str) -> str:
    """GPT-4's pattern, with so many digits in a row."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Splitting:
    """What happens to text before merging."""

    pattern: str | None = None
    """None: GPT-2's own."""
    single_digits: bool = False
    compose: bool = False
    """Unicode normal form C first."""
    ignore_merges: bool = False
    """A piece that is a token as a whole stays one, whatever the merges say."""
    adds_bos: bool = False
    """Where the file does not say."""


_GPT2 = _Splitting()
_DIGITS = _Splitting(single_digits=True)
_LLAMA3 = _Splitting(pattern=_words("{1,3}"), ignore_merges=True, adds_bos=True)
_QWEN2 = _Splitting(pattern=_words(""), compose=True)
_GPT4O = _Splitting(pattern=_CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", "{1,3}"))

_SPLITTINGS = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "trillion", "granite-docling"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), _Splitting(pattern=_words("{1,3}"))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), _QWEN2),
    "tekken": _Splitting(pattern=_CASED % ("", "", ""), ignore_merges=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}


class _Kind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ENDS = tuple("<|im_end|> <|eot_id|> <|eom_id|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> </s>".split())
"""Control tokens that end a turn or a text in every model that has them. A file names one end, often not a turn's."""
_PADDING = re.compile(r"\[PAD\d+\]|<unused\d+>")
_SPACE = "\u2581"


def load_tokenizer(path: str | Path) -> HFTokenizer:
    """The tokenizer of a model folder or GGUF file. Raises `InvalidInput` or `UnsupportedModel`."""
    path = Path(path)
    return HFTokenizer.load(path) if path.is_dir() else _load(GGUFFile(path))


def _load(file: GGUFFile) -> HFTokenizer:
    model, pre = file.value("tokenizer.ggml.model"), _typed(file, "tokenizer.ggml.pre", str, "default")
    tokens: list[str] = _listed(file, "tokenizer.ggml.tokens", str)
    kinds: list[int] = _listed(file, "tokenizer.ggml.token_type", int) or [_Kind.NORMAL] * len(tokens)
    if not tokens or len(kinds) != len(tokens):
        raise InvalidInput(f"{file.path} holds no vocabulary: {len(tokens)} tokens of {len(kinds)} types")
    kept = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind != _Kind.UNUSED or not _PADDING.fullmatch(token)
    }
    if model == "gpt2":
        if pre not in _SPLITTINGS:
            raise UnsupportedModel(f"{file.path}: text splitting {pre!r} (tokenizer.ggml.pre) is not supported")
        is_bytes = all(len(token) == 1 for token, kind in zip(tokens, kinds, strict=True) if kind == _Kind.NORMAL)
        if not is_bytes and not file.value("tokenizer.ggml.merges"):
            raise InvalidInput(f"{file.path} lacks tokenizer.ggml.merges, without which every text is single bytes")
        adds_bos = _SPLITTINGS[pre].adds_bos
        tokenizer = _byte_level(file, kept, _SPLITTINGS[pre])
    elif model == "llama":
        adds_bos = True
        tokenizer = _sentencepiece(file, kept, tokens)
    else:
        raise UnsupportedModel(f"{file.path}: tokenizer model {model!r} is not supported; supported: gpt2, llama")
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_Kind.CONTROL, _Kind.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _Kind.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])

    def special(name: str) -> int | None:
        number: int | None = file.value(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise InvalidInput(f"{file.path}: the {name} token {number} is beyond the vocabulary of {len(tokens)}")
        return number

    named = {kind: special(kind) for kind in ("bos", "eos", "eot", "eom", "padding", "unknown")}
    ends = [named[kind] for kind in ("eos", "eot", "eom")]
    ends += [kept[token] for token in _ENDS if token in kept and kinds[kept[token]] == _Kind.CONTROL]
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    bos = named["bos"] if _typed(file, "tokenizer.ggml.add_bos_token", bool, adds_bos) else None
    if bos is not None:
        tokenizer.post_processor = _in_front(file, tokens[bos], bos)
    return HFTokenizer(
        tokenizer,
        bos_id=bos,
        eos_ids=list(dict.fromkeys(end for end in ends if end is not None)),
        chat_template=_typed(file, "tokenizer.chat_template", str),
        tool_template=_typed(file, "tokenizer.chat_template.tool_use", str),
        special={name: tokens[i] for name, kind in names.items() if (i := named[kind]) is not None},
    )


def _in_front(file: GGUFFile, token: str, id: int) -> TemplateProcessing:
    try:
        return TemplateProcessing(single=[token, "$A"], special_tokens=[(token, id)])
    except ValueError as error:
        raise InvalidInput(f"{file.path}: the bos token {token!r} cannot be put in front: {error}") from None


def _listed(file: GGUFFile, key: str, kind: type) -> list[Any]:
    """Metadata: a list of values of one type; empty if it is not there. Raises `InvalidInput`."""
    found = file.value(key)
    if not isinstance(found, list | None) or not all(isinstance(one, kind) for one in found or ()):
        raise InvalidInput(f"{file.path}: the metadata {key} is no list of {kind.__name__}")
    return found or []


def _typed(file: GGUFFile, key: str, kind: type, default: Any = None) -> Any:
    """Metadata: a value of one type. Raises `InvalidInput`."""
    found = file.value(key, default)
    if found is not None and not isinstance(found, kind):
        raise InvalidInput(f"{file.path}: the metadata {key} is no {kind.__name__}")
    return found


def _byte_level(file: GGUFFile, vocabulary: dict[str, int], splitting: _Splitting) -> tokenizers.Tokenizer:
    merges = [_pair(merge) for merge in _listed(file, "tokenizer.ggml.merges", str)]
    tokenizer = _tokenizer(file, vocabulary, merges, ignore_merges=splitting.ignore_merges)
    if splitting.compose:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = []
    if splitting.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile, vocabulary: dict[str, int], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    scores: list[float] = _listed(file, "tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise InvalidInput(f"{file.path}: {len(tokens)} tokens with {len(scores)} scores")
    unknown = _typed(file, "tokenizer.ggml.unknown_token_id", int, 0)
    tokenizer = _tokenizer(
        file,
        vocabulary,
        _merges(vocabulary, scores),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=tokens[unknown] if 0 <= unknown < len(tokens) else None,
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if _typed(file, "tokenizer.ggml.add_space_prefix", bool, True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _tokenizer(
    file: GGUFFile, vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: object
) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE(vocabulary, merges, **options))
    except Exception as error:  # the library raises bare Exception
        raise InvalidInput(f"{file.path}: the tokenizer's merges do not fit its vocabulary: {error}") from error


def _pair(merge: str) -> tuple[str, str]:
    """Of a merge as GPT-2's files have it; the space that parts them is never the first character."""
    at = merge.find(" ", 1)
    return merge[:at], merge[at + 1 :]


def _merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs that make a token, best token first: merging by these ranks is merging by scores."""

    def pairs() -> Iterator[tuple[float, int, int, str, str]]:
        for token, i in vocabulary.items():
            for at in range(1, len(token)):
                left, right = vocabulary.get(token[:at]), vocabulary.get(token[at:])
                if left is not None and right is not None:
                    yield -scores[i], left, right, token[:at], token[at:]

    return [(left, right) for *_, left, right in sorted(pairs())]
