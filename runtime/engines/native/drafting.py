"""`Drafter`: tokens that a branch may write next, copied from where its last tokens stand in its view already.

A pass that reads the weights for one row has them for sixteen, so what is drafted is verified in the pass that would
have computed one token (Aggressive Decoding, arXiv 2205.10350; prompt lookup). Each row is sampled as ever, and the
first that does not get the token that was drafted is the last that counts: tokens, seeds and log-probabilities are, bit
for bit, those without drafts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from .view import View

ROWS = 16
"""Of a step that drafts, shared by the branches that decode: beyond that arithmetic costs more than memory."""
_PRICE = 0.1
"""What a row more costs, in passes of one row: 0.07 to 0.18 on processors with AVX-512, by the type of the weights."""
_STAKE, _TITHE = 1.0, 0.02
"""Passes that a generation may lose by drafts that fail: at first, and for each token of it."""
_LENGTHS = (3, 2)
"""Tokens at the end of the text that are looked up."""
_FEWEST = 3
"""Tokens of the first draft, and of those after one that failed."""


class Drafter:
    """For one generation, whose view stays as it is but for the tokens that are sampled."""

    def __init__(self, view: View) -> None:
        assert view.own is not None
        self._own = view.own.tokens
        self._num_own = 0
        self._at: int | None = None
        """What `_find` finds in the text as it is; None: not looked for, since most steps are asked for twice."""
        self._text: list[int] = []
        self._bytes = bytearray()
        """Of `_text`, for the search."""
        for span in view.spans:
            self._add(span.segment.tokens[span.start : span.end])
        self._add_own()
        self._begin = len(self._text)
        self._length = _FEWEST
        self._lost = 0.0
        """Passes that drafts have cost, less those that they saved."""

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens that may come behind the newest one; none where there is nothing to go by, or where
        drafts have cost too much for what they brought."""
        self._add_own()
        text = self._text
        count = min(most, self._length)
        if count < 1 or self._lost > _STAKE + _TITHE * (len(text) - self._begin):
            return []
        if self._at is None:
            self._at = self._find()
        at, draft = self._at, list[int]()
        for place in range(at, at + count) if at else ():
            # What repeats itself up to the end goes on repeating itself.
            draft.append(text[place] if place < len(text) else draft[place - len(text)])
        return draft

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """What became of a draft."""
        self._lost += _PRICE * num_drafted - num_accepted
        is_whole = num_accepted == num_drafted
        self._length = min(2 * num_drafted, ROWS - 1) if is_whole else max(num_accepted, _FEWEST)

    def _add(self, tokens: Iterable[int]) -> None:
        tokens = array("i", tokens)
        self._text.extend(tokens)
        self._bytes += tokens.tobytes()

    def _add_own(self) -> None:
        if self._num_own < len(self._own):
            self._add(self._own[self._num_own :])
            self._num_own = len(self._own)
            self._at = None

    def _find(self) -> int:
        """Where the latest place ends at which the end of the text stands before; 0: there is none."""
        size, whole = array("i").itemsize, self._bytes
        for length in _LENGTHS:
            key = whole[-size * length :]
            end = len(whole) - size
            while (at := whole.rfind(key, 0, end)) >= 0:
                if at % size == 0:
                    return at // size + length
                end = at + len(key) - 1  # it lay across tokens
        return 0
