"""Limits and stop conditions applied to a stream of tokens: what `TokenGeneration`s of sampled text go through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import blake2b

from ..engine import Completion, FinishReason, SamplingParams
from .sampled_text import Match, SampledText
from .text_stream import decode_behind
from .token_branch import TokenBranch, TokenGeneration


@dataclass(slots=True)
class Scores:
    """What is told of a generation's tokens, in order, those that are rolled back in the end as well."""

    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    certainty: list[float] = field(default_factory=list)

    def write(self, done: Completion, params: SamplingParams) -> None:
        """Into a completion, as far as its parameters ask for them."""
        count = len(done.token_ids)
        done.logprobs = None if params.logprobs is None else self.logprobs[:count]
        done.top_logprobs = self.top_logprobs[:count] if params.logprobs else None
        if params.certainty and count:
            done.certainty = sum(self.certainty[:count]) / count


def request_seed(branch: TokenBranch) -> int:
    """31 bits for a server that seeds requests, by the call's place in the job: branches draw differently."""
    place = f"{branch.seed}:{branch.path}:{branch.num_written}"
    return int.from_bytes(blake2b(place.encode(), digest_size=4).digest()) >> 1


def text_room(branch: TokenBranch) -> int:
    """Tokens that still fit where the model reads all of the branch from the left: merged branches lie side by side by
    their positions, but one behind another in its window."""
    return max(0, min(branch.context_limit - branch.position, branch.engine.context_limit - branch.length))


async def decode(generation: TokenGeneration, source: AsyncIterator[int], room: int | None = None) -> Completion:
    """Take tokens from `source` until the generation's parameters end it, or after `room` tokens: as many as positions
    leave, if nothing is said."""
    params, branch = generation.params, generation.branch
    if room is None:
        room = branch.context_limit - branch.position
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    at_limit = FinishReason.LENGTH if limit == params.max_tokens else FinishReason.CONTEXT
    tokenizer = branch.engine.tokenizer
    if limit == 0:
        return _completion(generation, at_limit)
    eos_ids = () if params.ignore_eos else tokenizer.eos_ids
    text = None
    if params.stop:
        text = SampledText(tokenizer, params.stop, include_stop=params.include_stop, behind=generation.behind)
    count = certain = 0
    async for token in source:
        generation.append([token])
        count += 1
        if token in params.stop_token_ids:
            return _completion(generation, FinishReason.STOP, token)
        if token in eos_ids:
            return _completion(generation, FinishReason.EOS, token)
        if text is None:
            certain = count
        else:
            if match := text.push(token):
                return _stopped_at(generation, text, match)
            certain = text.num_certain(certain)
        if count == limit:
            return _completion(generation, at_limit)
        generation.show(certain)
    return _completion(generation, FinishReason.EOS)


def _stopped_at(generation: TokenGeneration, text: SampledText, match: Match) -> Completion:
    tokens = generation.new
    keep = text.num_kept(match, tokens)
    generation.keep(keep)
    completion = _completion(generation, FinishReason.STOP, match.stop)
    completion.text, completion.rolled_back = text.cut(match, tokens), len(tokens) - keep
    return completion


def _completion(generation: TokenGeneration, reason: FinishReason, stop: str | int | None = None) -> Completion:
    tokens = generation.new
    spelled = tokens[:-1] if isinstance(stop, int) else tokens
    return Completion(
        token_ids=tokens,
        text=decode_behind(generation.branch.engine.tokenizer, spelled, behind=generation.behind),
        finish_reason=reason,
        stop=stop,
        logprobs=None if generation.params.logprobs is None else [-0.5] * len(tokens),
    )
