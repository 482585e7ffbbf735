"""The bytes that each token of a tokenizer stands for."""

from __future__ import annotations

import json
import re
from itertools import count
from typing import Any

import tokenizers

from ...errors import UnsupportedByEngine

_KNOWN = {"ByteLevel", "ByteFallback", "Metaspace"}
"""Kinds of decoders whose tokens spell themselves what they stand for."""
_LOOKED_AT = 64
"""Tokens of the vocabulary, at equal distances: its first ones may be letters, of which any text is made."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""What sentencepiece writes for a space."""


def token_bytes(tokenizer: tokenizers.Tokenizer) -> list[tuple[bytes, bool]]:
    """By id: the token's bytes in the midst of a text, and whether it is a special one (its name, then). Ids that stand
    for nothing have no bytes. Raises `UnsupportedByEngine` where a text is not its tokens' put together."""
    spelling: list[tuple[bytes, bool]] = [(b"", False)] * _size(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    kinds = _kinds(json.loads(tokenizer.decoder.__getstate__())) if tokenizer.decoder is not None else set()
    for token, id in tokenizer.get_vocab(with_added_tokens=True).items():
        if id in added:
            spelling[id] = added[id].content.encode(), added[id].special
        elif "ByteLevel" in kinds:
            spelling[id] = _byte_level(token), False
        elif kinds & {"ByteFallback", "Metaspace"}:
            byte = _BYTE.fullmatch(token)
            spelling[id] = bytes.fromhex(byte[1]) if byte else token.replace(_SPACE, " ").encode(), False
        else:
            spelling[id] = tokenizer.decode([id], skip_special_tokens=False).encode(), False
    ids = [id for id in range(len(spelling)) if id not in added]
    ids = ids[:: max(1, len(ids) // _LOOKED_AT)]
    if not kinds & _KNOWN and tokenizer.decode(ids).encode() != b"".join(spelling[id][0] for id in ids):
        raise UnsupportedByEngine("no constraints with this tokenizer: its texts are not those of its tokens in a row")
    return spelling


def _size(tokenizer: tokenizers.Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _kinds(decoder: Any) -> set[str]:
    """Of a decoder and those it is made of."""
    return {decoder["type"]}.union(*map(_kinds, decoder.get("decoders", ())))


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:  # no byte-level token, though it is among them
        return token.encode()


def _byte_table() -> dict[int, int]:
    """Character -> byte, as GPT-2's byte-level BPE has it: printable bytes stand for themselves, the others for the
    characters from U+0100 on, in order."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = count(0x100)
    return {byte if byte in plain else next(others): byte for byte in range(256)}


_BYTES = _byte_table()
