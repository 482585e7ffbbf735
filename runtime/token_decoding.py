"""Limits and stop conditions applied to a stream of tokens: what `TokenGeneration`s of sampled text go through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from .engine import Completion, FinishReason
from .token_engine import TokenGeneration


async def decode(generation: TokenGeneration, source: AsyncIterator[int]) -> Completion:
    """Take tokens from `source` until the generation's parameters end it."""
    params, branch = generation.params, generation.branch
    tokenizer = branch.engine.tokenizer
    room = branch.context_limit - branch.position
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    at_limit = FinishReason.LENGTH if limit == params.max_tokens else FinishReason.CONTEXT
    if limit == 0:
        return _completion(generation, at_limit)
    async for token in source:
        generation.append([token])
        if token in params.stop_token_ids:
            return _completion(generation, FinishReason.STOP, token)
        if token in tokenizer.eos_ids and not params.ignore_eos:
            return _completion(generation, FinishReason.EOS, token)
        count = len(generation.new)
        if params.stop:
            text = tokenizer.decode(generation.new)
            if found := find_stop(text, params.stop):
                return _stopped_at(generation, text, *found)
            if pending := pending_stop(text, params.stop):
                count = _tokens_within(generation, len(text) - pending)
        if len(generation.new) >= limit:
            return _completion(generation, at_limit)
        generation.show(count)
    return _completion(generation, FinishReason.EOS)


def find_stop(text: str, stops: Sequence[str]) -> tuple[str, int] | None:
    """The stop string that begins first in the text, and where."""
    found = [(text.index(stop), stop) for stop in stops if stop in text]
    return (min(found)[1], min(found)[0]) if found else None


def pending_stop(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that may yet turn out to begin a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def _tokens_within(generation: TokenGeneration, chars: int) -> int:
    """The most new tokens whose text has at most `chars` characters."""
    decode, new = generation.branch.engine.tokenizer.decode, generation.new
    return max(n for n in range(len(new) + 1) if len(decode(new[:n])) <= chars)


def _stopped_at(generation: TokenGeneration, text: str, stop: str, at: int) -> Completion:
    sampled = len(generation.new)
    if generation.params.include_stop:
        at += len(stop)
        keep = _tokens_within(generation, at - 1) + 1
    else:
        keep = _tokens_within(generation, at)
    generation.keep(keep)
    completion = _completion(generation, FinishReason.STOP, stop)
    completion.text, completion.rolled_back = text[:at], sampled - keep
    return completion


def _completion(generation: TokenGeneration, reason: FinishReason, stop: str | int | None = None) -> Completion:
    tokens = generation.new
    return Completion(
        token_ids=tokens,
        text=generation.branch.engine.tokenizer.decode(tokens[:-1] if isinstance(stop, int) else tokens),
        finish_reason=reason,
        stop=stop,
        logprobs=None if generation.params.logprobs is None else [-0.5] * len(tokens),
    )
