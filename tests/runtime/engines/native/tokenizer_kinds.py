"""Small tokenizers of the kinds that models have, trained here."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from plait.runtime.engines.native.tokenizer import HFTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen jugs.",
    "Answer: 12 + 345 = 357, so \\boxed{357}. Then 1/2 is 0.5; 100 % of 7 is 7.",
    "def solve(nums, target):\n    for a in nums:\n        if a == target:\n            return a\n\n",
    "### Past steps\n\n**Alice [1]:** Hi, I'm Alice. Let's begin.\n\n**Bob [2]:** I've seen it, don't worry.\n\n",
    "Ein schöner Tag. Привет, как дела? 你好,世界。 それは、 naïve café.",
] * 20
BOS, EOS = "<s>", "</s>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _put_in_front(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def _byte_level(pattern: str | None) -> Tokenizer:
    """GPT-2's; with a pattern Qwen's and Llama-3's. Nothing is put in front."""
    tokenizer = Tokenizer(models.BPE())
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=[BOS, EOS], initial_alphabet=alphabet)
    )
    return tokenizer


QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_fallback(prepend: bool) -> Tokenizer:
    """Llama-2's: a space in front, byte tokens for what the vocabulary lacks. `prepend`: by the normaliser, as its
    first files had it; else by the pre-tokenizer, as Mistral's have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prepend:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Trained word by word; pieces of several words would be of no use.
    words = [f"▁{word}" for text in CORPUS[:4] for word in text.split()]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", BOS, EOS, *BYTES])
    normalizer, tokenizer.normalizer = tokenizer.normalizer, None
    before, tokenizer.pre_tokenizer = tokenizer.pre_tokenizer, None
    tokenizer.train_from_iterator(words, trainer)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if before is not None:
        tokenizer.pre_tokenizer = before
    return _put_in_front(_as_pieces(tokenizer, BYTES))


def _as_pieces(tokenizer: Tokenizer, names: list[str]) -> Tokenizer:
    """The trainer adds its special tokens to the vocabulary; those of real files that stand for bytes are pieces like
    others, which nobody finds in a text that spells them."""
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(fields))


def _unigram() -> Tokenizer:
    """T5's and XLNet's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=[BOS, EOS, "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _put_in_front(tokenizer)


KINDS = {
    "byte-level": lambda: _byte_level(None),
    "byte-level, digits by three": lambda: _byte_level(QWEN),
    "byte-level with BOS": lambda: _put_in_front(_byte_level(QWEN)),
    "byte fallback, space by the normaliser": lambda: _byte_fallback(True),
    "byte fallback, space by the pre-tokenizer": lambda: _byte_fallback(False),
    "unigram": _unigram,
}


@cache
def raw(kind: str) -> Tokenizer:
    return KINDS[kind]()


@cache
def ours(kind: str) -> HFTokenizer:
    tokenizer = Tokenizer.from_str(raw(kind).to_str())
    eos = tokenizer.token_to_id(EOS)
    assert eos is not None
    return HFTokenizer(tokenizer, bos_id=tokenizer.token_to_id(BOS), eos_ids=(eos,))


def save(kind: str, folder: Path) -> Path:
    """A folder that transformers and the native engine load."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=raw(kind), bos_token=BOS, eos_token=EOS)
    fast.save_pretrained(folder)
    return folder
