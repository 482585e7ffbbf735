"""`TextStream`: tokens to text, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Tokenizer

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no whole character yet."""


class TextStream:
    """Decodes a growing list of tokens piecewise; bytes of an unfinished character wait for the rest.

    Only a short tail is decoded again for each token: the last piece given out is the context that tells how the new
    one is spelled (sentencepiece drops a leading space at the start of a text).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail: list[int] = []
        self._known = 0
        """Leading tokens of the tail whose text was given out."""
        self._count = 0

    def push(self, token: int) -> tuple[str, int]:
        """Text that is certain now, and how many tokens it stands for; ("", 0) while a character is unfinished."""
        self._tail.append(token)
        self._count += 1
        before = self._tokenizer.decode(self._tail[: self._known])
        after = self._tokenizer.decode(self._tail)
        if after.endswith(REPLACEMENT) and len(self._tail) - self._known < 8:
            return "", 0
        del self._tail[: self._known]
        self._known = len(self._tail)
        count, self._count = self._count, 0
        return after[len(before) :], count


def piecewise(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """How many characters of their text each of the tokens completed."""
    stream, chars, left = TextStream(tokenizer), [], len(text)
    for token in token_ids:
        chars.append(min(len(stream.push(token)[0]), left))
        left -= chars[-1]
    if chars:
        chars[-1] += left  # A character that was never finished.
    return chars
