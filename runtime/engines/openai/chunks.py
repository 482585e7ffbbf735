"""`Chunk`: one piece of a streamed answer, read strictly enough that nothing odd gets past it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

_Count = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Logprobs(BaseModel):
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[dict[str, Any]] | None = None


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    index: int | None = None
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = None
    logprobs: _Logprobs | None = None


class _Details(BaseModel):
    cached_tokens: _Count | None = None


class Usage(BaseModel):
    """What the server counted; None: it did not."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class _Message(BaseModel):
    choices: list[_Choice] | None = None
    usage: Usage | None = None


class Malformed(Exception):
    """The server sent what is no part of an answer."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event of the stream adds."""

    text: str
    ids: list[int] | None
    pieces: list[str] | None
    """The texts of its tokens."""
    logprobs: list[float] | None
    """NaN: not told."""
    top_logprobs: list[dict[str, float]] | None
    finish: str | None
    stop: str | None
    """The stop string that the server ended at."""
    usage: Usage | None


class Whole:
    """Makes the texts of a stream ones of whole characters: halves (surrogates) that come one after another are joined,
    if in two chunks then in the second one, and those without the other half are U+FFFD."""

    def __init__(self) -> None:
        self._half = ""

    def take(self, chunk: Chunk) -> Chunk:
        """The chunk with a text that ends with a whole character. If that is not what the server sent, it tells no
        numbers: they were those of other tokens."""
        text, self._half = self._half + chunk.text, ""
        if text and "\ud800" <= text[-1] <= "\udbff" and chunk.finish is None:
            text, self._half = text[:-1], text[-1]
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return chunk if text == chunk.text else replace(chunk, text=text, pieces=None, logprobs=None, top_logprobs=None)


def read_chunk(data: object) -> Chunk:
    """Raises `Malformed`."""
    try:
        message = _Message.model_validate(data)
    except ValidationError as error:
        raise Malformed(f"{error.error_count()} fields are not those of a completion") from None
    choice = next((one for one in message.choices or () if not one.index), _Choice())  # one answer was asked for
    text = choice.text if choice.text is not None else (choice.delta.content if choice.delta else None)
    stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
    pieces, values, top = _logprobs(choice.logprobs)
    finish = choice.finish_reason or None  # some servers send "" until there is one
    return Chunk(text or "", choice.token_ids, pieces, values, top, finish, stop, message.usage)


def _logprobs(
    found: _Logprobs | None,
) -> tuple[list[str] | None, list[float] | None, list[dict[str, float]] | None]:
    if found is None:
        return None, None, None
    if found.content is not None:
        try:
            return (
                [str(one["token"]) for one in found.content],
                [math.nan if (value := one["logprob"]) is None else float(value) for one in found.content],
                [{str(t["token"]): float(t["logprob"]) for t in one.get("top_logprobs", ())} for one in found.content],
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise Malformed(f"log-probabilities of another form: {error}") from None
    values = [math.nan if value is None else value for value in found.token_logprobs or ()]
    top = None if found.top_logprobs is None else [one or {} for one in found.top_logprobs]
    return found.tokens, values if found.token_logprobs is not None else None, top
