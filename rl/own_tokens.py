"""Are token ids those of the model that is trained? Another model's would be read as other texts, without a word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..runtime.engine import Tokenizer
from ..runtime.engines.text_stream import REPLACEMENT
from ..runtime.errors import InvalidInput
from ..runtime.trace.record import Piece
from ..runtime.trace.trace import Trace

if TYPE_CHECKING:
    from datasets import Dataset

LOOKED_AT = 64
"""Pieces of a trace."""
ROWS = 1000
"""Of a data set, read at a time."""
PIECES = "trace_pieces"
"""Column of a data set of samples: in the first row of each trace, what tells whose token ids these are."""


def check_ids(token_ids: Sequence[int], size: int) -> None:
    """Raises `InvalidInput` for ids that a model of `size` tokens has not."""
    if len(token_ids) and not 0 <= min(token_ids) <= max(token_ids) < size:
        wrong = min(token_ids) if min(token_ids) < 0 else max(token_ids)
        raise InvalidInput(f"token id {wrong} is outside the vocabulary of {size:,}: it is of another model")


def check_spelling(trace: Trace, tokenizer: Tokenizer) -> None:
    """Raises `InvalidInput` if most of what the job's own model read and wrote is spelled otherwise by this tokenizer.

    Most, as engines differ in how they spell special tokens, the blank in front of a text, and halves of characters.
    """
    _check_pieces(_looked_at(trace), tokenizer)


def pieces_column(trace: Trace) -> list[dict[str, Any]]:
    """What `check_spelling` looks at, as a value of the column `PIECES`."""
    return [{"token_ids": piece.token_ids, "text": piece.text} for piece in _looked_at(trace)]


def check_column(rows: Dataset, tokenizer: Tokenizer) -> None:
    """Raises `InvalidInput` as `check_spelling` does of the traces of a data set, as far as it holds their `PIECES`."""
    if PIECES not in rows.column_names:
        return
    # Most rows hold none: in batches they cost next to nothing.
    batches = rows.select_columns([PIECES]).iter(ROWS)
    held = ((number, row) for number, row in enumerate(row for batch in batches for row in batch[PIECES]) if row)
    for number, row in held:
        try:
            _check_pieces([_piece(value) for value in row], tokenizer)
        except (TypeError, KeyError):
            raise InvalidInput(f"sample {number}: `{PIECES}` holds no pieces of a trace") from None
        except InvalidInput as error:
            raise InvalidInput(f"sample {number}: {error}") from None


def _piece(value: Any) -> Piece:
    token_ids, text = value["token_ids"], value["text"]
    if not isinstance(text, str) or not all(isinstance(one, int) and 0 <= one < 2**31 for one in token_ids):
        raise TypeError
    return Piece(kind="prompt", token_ids=token_ids, text=text)


def _looked_at(trace: Trace) -> list[Piece]:
    own = (segment for segment in trace.segments if trace.model_of(segment.branch) is None)
    spelled = (piece for segment in own for piece in segment.pieces if _letters(piece.text))
    return list(islice(spelled, LOOKED_AT))


def _check_pieces(pieces: Sequence[Piece], tokenizer: Tokenizer) -> None:
    if 2 * sum(_is_spelled(piece, tokenizer) for piece in pieces) < len(pieces):
        raise InvalidInput("its token ids spell other texts with this model's tokenizer: it is of another model")


def _is_spelled(piece: Piece, tokenizer: Tokenizer) -> bool:
    rest = iter(_letters(tokenizer.decode(piece.token_ids)))
    return all(letter in rest for letter in _letters(piece.text))  # each of them behind the one before


def _letters(text: str) -> str:
    return "".join(text.replace(REPLACEMENT, "").split())
