"""Tokens to text, one at a time: as nothing can change it any more (`TextStream`), and as it reads so far
(`IncrementalDecoder`)."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Tokenizer

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no whole character yet."""


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


class IncrementalDecoder:
    """Text of a growing token sequence as it reads so far, in pieces that never hold half a character: what stop
    strings are looked for in. A byte token (`Tokenizer.byte_ids`) is read with those so far, whatever may follow it;
    what readers are shown is `TextStream`'s, which waits until nothing can change it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        """The tokens of the last two completed pieces and those since: enough for what a decoder makes of a token to
        depend on its neighbours (a leading space that only the first token loses)."""
        self._last_piece = 0
        """Where in the window the last completed piece begins."""
        self._emitted = 0
        """Characters of the window's text that were returned."""
        self.is_whole = True
        """Is all text returned so far? Else the last token may end inside a character, whatever it began with."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        piece = text.rstrip(REPLACEMENT)[self._emitted :]
        self.is_whole = not text.endswith(REPLACEMENT)
        if piece and self.is_whole:
            del self._window[: self._last_piece]
            self._last_piece = len(self._window)
            self._emitted = len(self._tokenizer.decode(self._window))
        else:
            self._emitted += len(piece)
        return piece


def unshown(text: str, shown: str) -> str:
    """What a text has behind what was shown of it; nothing where that is no beginning of it: it was not all of it then,
    but shown twice would be worse."""
    return text[len(shown) :] if text.startswith(shown) else ""


def piecewise(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """How many characters of their text each of the tokens completed."""
    stream, chars, left = TextStream(tokenizer), [], len(text)
    for token in token_ids:
        chars.append(min(len(stream.push(token)[0]), left))
        left -= chars[-1]
    if chars:
        chars[-1] += left  # What was never finished.
    return chars
