"""`Vocabulary`: what the tokens of a model spell, for llguidance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from ...errors import InvalidInput, UnsupportedByEngine


@runtime_checkable
class Spelling(Protocol):
    """A tokenizer that says what its tokens spell."""

    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    def token_bytes(self) -> Sequence[tuple[bytes, bool]]:
        """Of each token: its bytes in a text, or its name if it is a special one (True), which is no text."""
        ...


class Vocabulary:
    """The tokens, as llguidance has them (`tokens`); made once for a tokenizer, in about half a second for 150,000."""

    def __init__(self, spelling: Sequence[tuple[bytes, bool]], eos_ids: Sequence[int]) -> None:
        """Raises `InvalidInput` for a model without a token that ends a text."""
        from llguidance import LLTokenizer

        if not eos_ids:
            raise InvalidInput("this model has no end-of-sequence token: a text under a constraint could not end")
        self.size = len(spelling)
        self.eos_ids = tuple(eos_ids)
        letters = {text for text, special in spelling if len(text) == 1 and not special}
        self.is_open = not letters >= {bytes([letter]) for letter in range(32, 127)}
        """Are there texts that it cannot spell? Then a token that a text can begin with may lead nowhere."""
        words: Any = _Words(spelling, self.eos_ids)
        self.tokens = LLTokenizer(words, eos_token=list(self.eos_ids))

    @staticmethod
    def of(tokenizer: object, engine: str) -> Vocabulary:
        """Raises `UnsupportedByEngine` for a tokenizer that does not say what its tokens spell."""
        if not isinstance(tokenizer, Spelling):
            raise UnsupportedByEngine(
                f"engine {engine} takes no constraints: what its tokens spell is not known; native models do"
            )
        return Vocabulary(tokenizer.token_bytes(), tokenizer.eos_ids)

    @staticmethod
    @lru_cache(1)
    def of_bytes() -> Vocabulary:
        """One token a byte, and behind them (256) the end: for texts that are there already."""
        return Vocabulary([(bytes([i]), False) for i in range(256)] + [(b"<end>", True)], [256])


class _Words:
    """In the form in which llguidance takes the tokens of any tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, spelling: Sequence[tuple[bytes, bool]], eos_ids: Sequence[int]) -> None:
        self.tokens = [text for text, _ in spelling]
        self.special_token_ids = sorted({i for i, (_, special) in enumerate(spelling) if special} | set(eos_ids))
        self.eos_token_id = eos_ids[0]

    def __call__(self, text: bytes | str) -> list[int]:
        """Of a text; asked for forced text alone, of which there is none (`lark.py`)."""
        return []
