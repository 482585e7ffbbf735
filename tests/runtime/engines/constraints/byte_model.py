"""A tiny random model that reads and writes bytes: it can write any text, and knows none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from plait.tests.runtime.engines.native.helpers import tiny

EOS = 256


def save_byte_model(*, seed: int = 0, **shape: Any) -> Path:
    """A folder; EOS is token 256, and a few tokens hold several bytes. `shape`: keys of its config."""
    _, folder = tiny("llama", vocab_size=272, seed=seed, eos_token_id=EOS, bos_token_id=None, **shape)
    letters = [*map(chr, (*range(33, 127), *range(161, 173), *range(174, 256)))]
    letters += [chr(0x100 + i) for i in range(256 - len(letters))]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = [('"', ":"), ("{", '"'), ("1", "2"), ("a", "b"), (",", "\u0120")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary) + 1
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken("<eos>", special=True)])
    data = json.loads(tokenizer.to_str())
    # The added token's id follows the vocabulary's; it is to be the one that the model ends with.
    data["added_tokens"][0]["id"] = EOS
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return folder
