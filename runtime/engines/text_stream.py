"""Tokens to text: of a part of a text (`decode_behind`), and one at a time, as nothing can change it any more
(`TextStream`) and as it reads so far (`IncrementalDecoder`).

Sentencepiece-like decoders drop the space that a text begins with. What stands behind other text keeps it: its tokens
are decoded behind an anchor, whose text is taken off again. That is the same anchor whatever stands there, so that the
text of a piece depends on its own tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol
from weakref import WeakKeyDictionary

from ..engine import Tokenizer

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no whole character yet."""


class _Written(Protocol):
    """Of a branch."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def length(self) -> int: ...


def is_behind(tokenizer: Tokenizer, branch: _Written, at: int | None = None) -> bool:
    """Does text stand in front of a branch's token `at` (None: of the next one)? What the tokenizer puts in front of
    every text is none."""
    prefix, length = tokenizer.prefix_ids, branch.length if at is None else at
    return length > len(prefix) or (length > 0 and tuple(branch.tokens[:length]) != tuple(prefix))


def decode_behind(tokenizer: Tokenizer, token_ids: Sequence[int], *, behind: bool = True) -> str:
    """The text of tokens as it reads behind other text; `behind`: does any stand there?"""
    anchor = _anchor(tokenizer) if behind else []
    text = tokenizer.decode([*anchor, *token_ids])
    return text[len(tokenizer.decode(anchor)) :] if anchor else text


_anchors: WeakKeyDictionary[Tokenizer, list[int]] = WeakKeyDictionary()


def _anchor(tokenizer: Tokenizer) -> list[int]:
    """Empty where a text is the same at any place, and where the tokenizer does not tell."""
    with suppress(TypeError):  # one that has no hash, or no weak references
        if tokenizer not in _anchors:
            _anchors[tokenizer] = _find_anchor(tokenizer)
        return _anchors[tokenizer]
    return _find_anchor(tokenizer)


def _find_anchor(tokenizer: Tokenizer) -> list[int]:
    for text in "a0.":
        try:
            anchor = tokenizer.encode_continuation((), text)
            word = tokenizer.encode_continuation(anchor, f" {text}")
            alone, behind = tokenizer.decode(word), tokenizer.decode([*anchor, *word])
        except Exception:  # no token for it, or a recording from before there were anchors
            continue
        if behind == f"{text} {text}":
            return [] if alone == f" {text}" else anchor
    return []


class TextStream:
    """Decodes a growing list of tokens piecewise: what `push` returned, joined, begins the text of all tokens.

    Text is given out once no later token can change it: bytes of an unfinished character wait for the rest, and so does
    a run of byte tokens (`Tokenizer.byte_ids`), which becomes one replacement character a byte if any part of it turns
    out not to be UTF-8. Only a short tail is decoded again for each token: the last piece given out tells how the next
    one is spelled (sentencepiece drops a leading space at the start of a text).
    """

    def __init__(self, tokenizer: Tokenizer, *, behind: bool = False) -> None:
        """`behind`: does other text stand in front?"""
        self._tokenizer = tokenizer
        self._tail = list(_anchor(tokenizer)) if behind else []
        self._known = len(self._tail)
        """Leading tokens of the tail whose text was given out, or is the anchor's."""
        self._before = tokenizer.decode(self._tail) if self._tail else ""
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

    def __init__(self, tokenizer: Tokenizer, *, behind: bool = False) -> None:
        """`behind`: does other text stand in front?"""
        self._tokenizer = tokenizer
        self._window = list(_anchor(tokenizer)) if behind else []
        """The tokens of the last two completed pieces and those since: enough for what a decoder makes of a token to
        depend on its neighbours (a leading space that only the first token loses)."""
        self._last_piece = 0
        """Where in the window the last completed piece begins."""
        self._emitted = len(tokenizer.decode(self._window)) if self._window else 0
        """Characters of the window's text that were returned, or are the anchor's."""
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


def piecewise(tokenizer: Tokenizer, token_ids: Sequence[int], text: str, *, behind: bool = False) -> list[int]:
    """How many characters of their text each of the tokens completed."""
    stream, chars, left = TextStream(tokenizer, behind=behind), [], len(text)
    for token in token_ids:
        chars.append(min(len(stream.push(token)[0]), left))
        left -= chars[-1]
    if chars:
        chars[-1] += left  # What was never finished.
    return chars
