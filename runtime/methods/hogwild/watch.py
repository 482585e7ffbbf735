"""`Watch`: strings that mean something in what Hogwild! workers say, wherever one call of the engine ends."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine import Tokenizer
from ...result import Generated
from .fields import HogwildFields
from .group import Worker
from .text import SEPARATOR, forgeries


class Watch:
    """The engine looks for stop strings in what one call samples, but a worker's call ends whenever another worker's
    does; so one token at a time is sampled where a string may have begun, and looked at here."""

    def __init__(self, method: HogwildFields, tokenizer: Tokenizer, names: Sequence[str], *, blanks: bool) -> None:
        """`blanks`: for blank lines too, which no single token tells."""
        self._tokenizer = tokenizer
        common = (*method.stop, *((SEPARATOR,) if blanks else ()))
        self._strings = {
            name: (*common, *(forgeries(name, names, has_steps=method.has_steps) if method.ban_impersonation else ()))
            for name in names
        }

    def strings(self, worker: Worker) -> tuple[str, ...]:
        """The job's own, how a forgery would begin, and blank lines."""
        return self._strings[worker.name]

    def is_midway(self, worker: Worker) -> bool:
        """May the worker's last words be the beginning of something, or must some token not follow?"""
        strings = self.strings(worker)
        # A character takes four bytes at most, and a token has one at least.
        said = self._tokenizer.decode(worker.said[-4 * max(map(len, strings), default=0) - 4 :])
        begun = any(said.endswith(text[:n]) for text in strings for n in range(1, len(text)))
        return begun or worker.place == len(worker.text)

    def met(self, worker: Worker, result: Generated) -> str | int | None:
        """What ended the worker's call, or was completed by its only token."""
        if result.stop is not None or len(result.token_ids) != 1:
            return result.stop
        said = self._tokenizer.decode(worker.said)
        before = len(self._tokenizer.decode(worker.said[:-1]))
        strings = self.strings(worker)
        return next((text for text in strings if text in said and said.rfind(text) + len(text) > before), None)
