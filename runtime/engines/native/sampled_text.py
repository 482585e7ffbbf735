"""`SampledText`: the text of a generation's tokens as it grows, and the stop strings in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...engine import Tokenizer
from ..text_stream import num_whole
from .tokenizer import IncrementalDecoder


@dataclass(frozen=True, slots=True)
class Match:
    """A stop string, and the character that it begins at."""

    stop: str
    at: int


class SampledText:
    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], *, include_stop: bool) -> None:
        """`include_stop`: does a stop string stay?"""
        self._tokenizer = tokenizer
        self._stops = stops
        self._include_stop = include_stop
        self._decoder = IncrementalDecoder(tokenizer)
        self._text = ""
        self._ends: list[int] = []
        """Characters up to the end of each token."""

    def push(self, token: int) -> Match | None:
        """The stop string that begins first, if this token completed one."""
        before = len(self._text)
        self._text += self._decoder.push(token)
        self._ends.append(len(self._text))
        found: Match | None = None
        for stop in self._stops:
            at = self._text.find(stop, max(0, before - len(stop)))
            if at >= 0 and (found is None or at < found.at):
                found = Match(stop, at)
        return found

    def num_kept(self, match: Match) -> int:
        """Tokens that stay at a stop."""
        if self._include_stop:
            return next(i + 1 for i, end in enumerate(self._ends) if end >= match.at + len(match.stop))
        return num_whole(self._ends, match.at)

    def cut(self, match: Match, kept: Sequence[int]) -> str:
        """The text up to a stop, where the tokens `kept` stay: as they are spelled in the end, cut inside the last one,
        or on into the next."""
        end = match.at + len(match.stop) if self._include_stop else match.at
        known = self._ends[len(kept) - 1] if kept else 0
        text = self._tokenizer.decode(kept)
        return text[: len(text) + min(end - known, 0)] + self._text[known : max(end, known)]

    def num_certain(self, num_known: int) -> int:
        """Tokens no stop string can reach back to any more, of which `num_known` were known."""
        pending = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._text)), pending, -1):
                if self._text.endswith(stop[:n]):
                    pending = n
                    break
        return max(num_known, num_whole(self._ends, len(self._text) - pending))
