"""The vocabulary of the shipped model and its tokenizer in Hugging Face form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.processors import TemplateProcessing

from ...runtime.methods.apr import compact as lang
from ...runtime.methods.multiverse.grammar import TAGS
from .traces import DRILL, EOS

PAD, BOS, UNKNOWN = "<pad>", "<bos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)
_FIRST_MODES, _LATER_MODES = lang.MODES[:2], lang.MODES[2:]
_WORDS = (
    *(*_FIRST_MODES, DRILL, *lang.OPS, "=", ",", ";", ":", "|", lang.PRUNED, lang.UNMATCHED),
    *(lang.TRY, lang.HIT, lang.NONE, lang.ANSWER, lang.SPAWN, lang.JOIN, lang.END),
)
# As Multiverse numbers paths. An index that is one token, and no number, is found from afar: conclusions repeat the
# words of one path among those of others.
_INDICES = tuple(f"{i}:" for i in range(1, 11))
# Room for other languages without a new vocabulary; what came later took places of it.
_RESERVED = tuple(f"<reserved{i}>" for i in range(len(_LATER_MODES) + len(_INDICES), 16))
VOCABULARY = (*(str(n) for n in range(lang.CAP + 1)), *SPECIAL, *_WORDS, *TAGS, *_LATER_MODES, *_INDICES, *_RESERVED)
"""Numbers first: the id of a number is the number."""
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def build() -> Tokenizer:
    """One token per word; a colon needs no space in front, but behind an index of a path, which is one word with it.
    Decoding puts a space in front of every word, so decoded pieces can be concatenated."""
    tokenizer = word_level(VOCABULARY, SPECIAL, UNKNOWN)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("(?<!^[1-9])(?<!^10):"), behavior="isolated")]
    )
    return tokenizer


def word_level(vocabulary: Sequence[str], special: Sequence[str], unknown: str) -> Tokenizer:
    """One token per word between spaces; ids are places in `vocabulary`. Decoding puts a space in front of every
    word, so that decoded pieces can be concatenated."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Replace(Regex("^"), " ")
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json. Its special tokens are those of `SPECIAL`."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    # transformers 5 writes a class name that version 4 does not know; both read this one.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
