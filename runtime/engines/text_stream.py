"""`TextStream`: tokens to text, one at a time; `num_whole`: text to tokens again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from ..engine import Tokenizer

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no whole character yet."""


def num_whole(ends: Sequence[int], at: int) -> int:
    """Tokens whose text ends at `at` characters or before, without the first ones of a character that only a later one
    makes whole. `ends`: where the text of each token ends."""
    count = bisect_right(ends, at)
    last = ends[count - 1] if count else 0
    return bisect_left(ends, last) + 1 if last else 0


class TextStream:
    """Decodes a growing list of tokens piecewise: what `push` returned, joined, begins the text of all tokens.

    Text is given out once no later token can change it: bytes of an unfinished character wait for the rest, and so does
    a run of byte tokens (`Tokenizer.byte_ids`), which becomes one replacement character a byte if any part of it turns
    out not to be UTF-8. Only a short tail is decoded again for each token: the last piece given out tells how the next
    one is spelled (sentencepiece drops a leading space at the start of a text).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail: list[int] = []
        self._known = 0
        """Leading tokens of the tail whose text was given out."""
        self._before = ""
        """Their text."""
        self._count = 0

    def push(self, token: int) -> tuple[str, int]:
        """Text that is certain now, and how many tokens it stands for; ("", 0) while there is none."""
        self._tail.append(token)
        self._count += 1
        if token in self._tokenizer.byte_ids:
            return "", 0
        after = self._tokenizer.decode(self._tail)
        if after.endswith(REPLACEMENT):
            return "", 0
        fresh, count = after[len(self._before) :], self._count
        del self._tail[: self._known]
        self._known, self._count = len(self._tail), 0
        self._before = self._tokenizer.decode(self._tail)
        return fresh, count


def piecewise(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """How many characters of their text each of the tokens completed."""
    stream, chars, left = TextStream(tokenizer), [], len(text)
    for token in token_ids:
        chars.append(min(len(stream.push(token)[0]), left))
        left -= chars[-1]
    if chars:
        chars[-1] += left  # What was never finished.
    return chars
