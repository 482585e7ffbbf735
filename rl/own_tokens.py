"""Are token ids those of the model that is trained? Another model's would be read as other texts, without a word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ..runtime.engine import Tokenizer
from ..runtime.engines.text_stream import REPLACEMENT
from ..runtime.errors import InvalidInput
from ..runtime.trace.record import Piece
from ..runtime.trace.trace import Trace

LOOKED_AT = 64
"""Pieces of a trace."""


def check_ids(token_ids: Sequence[int], size: int) -> None:
    """Raises `InvalidInput` for ids that a model of `size` tokens has not."""
    if len(token_ids) and not 0 <= min(token_ids) <= max(token_ids) < size:
        wrong = min(token_ids) if min(token_ids) < 0 else max(token_ids)
        raise InvalidInput(f"token id {wrong} is outside the vocabulary of {size:,}: it is of another model")


def check_spelling(trace: Trace, tokenizer: Tokenizer) -> None:
    """Raises `InvalidInput` if most of what the job's own model read and wrote is spelled otherwise by this tokenizer.

    Most, as engines differ in how they spell special tokens, the blank in front of a text, and halves of characters.
    """
    own = (segment for segment in trace.segments if trace.model_of(segment.branch) is None)
    spelled = (piece for segment in own for piece in segment.pieces if _letters(piece.text))
    agree = [_is_spelled(piece, tokenizer) for piece in islice(spelled, LOOKED_AT)]
    if 2 * sum(agree) < len(agree):
        raise InvalidInput("its token ids spell other texts with this model's tokenizer: it is of another model")


def _is_spelled(piece: Piece, tokenizer: Tokenizer) -> bool:
    rest = iter(_letters(tokenizer.decode(piece.token_ids)))
    return all(letter in rest for letter in _letters(piece.text))  # each of them behind the one before


def _letters(text: str) -> str:
    return "".join(text.replace(REPLACEMENT, "").split())
