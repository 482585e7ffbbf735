"""Limits and stop conditions applied to a stream of tokens: what `TokenGeneration`s of sampled text go through."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import itemgetter

from ..engine import Completion, FinishReason, SamplingParams
from .text_stream import TextStream, num_whole
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
    if limit == 0:
        return _completion(generation, at_limit)
    eos_ids = () if params.ignore_eos else branch.engine.tokenizer.eos_ids
    stream, text = TextStream(branch.engine.tokenizer), ""
    ends: list[int] = []
    """Where the text of each new token ends."""
    longest = max(map(len, params.stop), default=0)
    async for token in source:
        generation.append([token])
        if token in params.stop_token_ids:
            return _completion(generation, FinishReason.STOP, token)
        if token in eos_ids:
            return _completion(generation, FinishReason.EOS, token)
        text += stream.push(token)[0]
        if found := find_stop(text, params.stop, (ends[-1] if ends else 0) - longest):
            return _stopped_at(generation, text, [*ends, len(text)], *found)
        ends.append(len(text))
        if len(ends) == limit:
            return _completion(generation, at_limit)
        generation.show(num_whole(ends, len(text) - pending_stop(text, params.stop)))
    return _completion(generation, FinishReason.EOS)


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> tuple[str, int] | None:
    """The stop string that begins first in the text from `start` on (of several the one listed first), and where."""
    found = [(stop, at) for stop in stops if (at := text.find(stop, max(start, 0))) >= 0]
    return min(found, key=itemgetter(1), default=None)


def pending_stop(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that may yet turn out to begin a stop string."""
    return max(
        (n for stop in stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0
    )


def _stopped_at(generation: TokenGeneration, text: str, ends: list[int], stop: str, at: int) -> Completion:
    if generation.params.include_stop:
        at += len(stop)
        keep = bisect_left(ends, at) + 1
    else:
        keep = num_whole(ends, at)
    generation.keep(keep)
    completion = _completion(generation, FinishReason.STOP, stop)
    completion.text, completion.rolled_back = text[:at], len(ends) - keep
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
