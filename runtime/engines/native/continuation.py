"""Tokens of a text that stands behind other text.

A tokenizer encodes whole texts. Sentencepiece-like ones put a space in front, and all of them see what stands before:
so the tokens of a fragment encoded on its own are not those it has in the midst of a text. Here a fragment is encoded
together with the end of what stands before it, and what belongs to that end is taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

ANCHORS = ("\n", "a", ".", "0", " ", "~")
"""Texts to put in front where the real one does not end at a token boundary: tokenizers break behind one of them."""

TAIL = 256
"""Tokens of the text before that are looked at, at most: far beyond what a tokenizer looks back by."""

Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
"""Token ids, and for each the characters it stands for: from, to."""
Decode = Callable[[Sequence[int]], str]


def encode_continuation(encode: Encode, decode: Decode, before: Sequence[int], text: str) -> list[int]:
    """The tokens of `text` behind the tokens `before`.

    Where a token boundary is possible between them, these are the tokens that the whole text would have there.
    Elsewhere (`text` goes on with the last word of `before`) they are those of a fragment that something else stands in
    front of. `encode` adds no special tokens.
    """
    if not text:
        return []
    size = 8
    while before:
        tail = list(before[-size:])
        left = decode(tail)
        ids, places = encode(left + text)
        cut = next((i for i, (_, end) in enumerate(places) if end > len(left)), len(ids))
        if size >= min(len(before), TAIL) or ids[:cut][-2:] == tail[-2:]:
            # What characters a token stands for is not always told to the letter (of leading spaces, above all).
            if decode(tail + ids[cut:]) == left + text:
                return ids[cut:]
            break
        # A tail that begins in the midst of a word or of a number may be cut otherwise than it was: look further back.
        size *= 2
    for anchor in ANCHORS:
        head, ids = encode(anchor)[0], encode(anchor + text)[0]
        if ids[: len(head)] == head:
            return ids[len(head) :]
    return encode(text)[0]
