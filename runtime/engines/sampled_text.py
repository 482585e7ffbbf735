"""`SampledText`: the text of a generation's tokens as it grows, and the stop strings in it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from ..engine import Tokenizer
from .text_stream import REPLACEMENT, IncrementalDecoder, decode_behind


class Match(NamedTuple):
    """A stop string, and the character that it begins at."""

    stop: str
    at: int


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> Match | None:
    """The stop string that begins first in the text from `start` on, of several the one listed first."""
    found = [Match(stop, at) for stop in stops if (at := text.find(stop, max(start, 0))) >= 0]
    return min(found, key=attrgetter("at"), default=None)


class SampledText:
    """What stays at a stop string is whole. The text is that of all tokens up to the stop: no character in front of it
    is halved. The branch keeps the tokens whose text lies in front of the stop, and none that ends inside a character
    of it; with `include_stop` as many as spell it, though the last may hold more."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], *, include_stop: bool, behind: bool = False) -> None:
        """`include_stop`: does a stop string stay? `behind`: does other text stand in front?"""
        self._tokenizer = tokenizer
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._include_stop = include_stop
        self._behind = behind
        self._decoder = IncrementalDecoder(tokenizer, behind=behind)
        self._text = ""
        self._ends: list[int] = []
        """Characters up to the end of each token."""
        self._whole_ends: list[int] = []
        """The same; a token that may end inside a character adds nothing."""

    def push(self, token: int) -> Match | None:
        """The stop string that begins first, if this token completed one."""
        before = len(self._text)
        self._text += self._decoder.push(token)
        self._ends.append(len(self._text))
        whole = self._whole_ends[-1] if self._whole_ends else 0
        self._whole_ends.append(len(self._text) if self._decoder.is_whole else whole)
        return find_stop(self._text, self._stops, before - self._longest)

    def num_kept(self, match: Match, tokens: Sequence[int]) -> int:
        """How many of the tokens, all that were pushed, stay at a stop."""
        if self._include_stop:
            return next(i + 1 for i, end in enumerate(self._ends) if end >= match.at + len(match.stop))
        count, certain = bisect_right(self._ends, match.at), self._num_whole(match.at)
        # What looked like the bytes of an unfinished character may have been one that the model wrote: U+FFFD.
        text = self.cut(match, tokens)
        while count > certain and not text.startswith(self._spell(tokens[:count])):
            count -= 1
        return count

    def cut(self, match: Match, tokens: Sequence[int]) -> str:
        """The text of the tokens, all that were pushed, up to a stop: as they are spelled in the end."""
        end = match.at + len(match.stop) if self._include_stop else match.at
        text = self._spell(tokens).rstrip(REPLACEMENT)
        # Counted from its end: byte tokens of which some turn out not to be UTF-8 are more characters than they were.
        return text[: len(text) - (len(self._text) - end)]

    def num_certain(self, num_known: int) -> int:
        """Tokens no stop string can reach back to any more, of which `num_known` were known."""
        pending = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._text)), pending, -1):
                if self._text.endswith(stop[:n]):
                    pending = n
                    break
        return max(num_known, self._num_whole(len(self._text) - pending))

    def _spell(self, tokens: Sequence[int]) -> str:
        return decode_behind(self._tokenizer, tokens, behind=self._behind)

    def _num_whole(self, at: int) -> int:
        """Tokens whose text ends at `at` characters or before, without the first ones of a character that only a later
        one makes whole."""
        count = bisect_right(self._whole_ends, at)
        last = self._whole_ends[count - 1] if count else 0
        return bisect_left(self._whole_ends, last) + 1 if last else 0
