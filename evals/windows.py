"""What a job gives in a smaller context window, taken from its run in a larger one where that is exact.

Three cases are exact (arXiv 2504.15466 draws its curves over context windows from one run each, counting as failed what
does not fit; that is exact only where nothing that does not fit can still succeed):

- independent lines (`Sequential`, `SelfConsistency`) without a forced conclusion or a generator: sampling depends on
  seed, branch and position alone, so the smaller window's text is a prefix;
- those, and `APR`, which stayed within the window, with room for a conclusion: they would have run the same, and so
  would methods of these three inside them;
- `Hogwild` whose workers and conclusion would have had room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime.engine import Tokenizer
from ..runtime.engines.text_stream import decode_behind
from ..runtime.methods.answers import extract, majority
from ..runtime.methods.apr.method import APR
from ..runtime.methods.base import Decoding, Method
from ..runtime.methods.hogwild.method import Hogwild
from ..runtime.methods.nesting import all_methods
from ..runtime.methods.self_consistency import SelfConsistency
from ..runtime.methods.sequential import Answering, Sequential
from ..runtime.result import Finish, Result
from ..runtime.trace.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """The outcome in the smaller window. Times and memory are not known, unless nothing was cut."""

    answer: str | None
    text: str
    finish: Finish
    total_tokens: int
    critical_tokens: int
    is_same: bool
    """Did everything fit, so that the run would have been the very same?"""
    details: dict[str, Any] = field(default_factory=dict)
    """The method's, where the run is the same."""


def narrow(method: Method, result: Result, window: int, tokenizer: Tokenizer | None) -> Narrowed | None:
    """The outcome with `context_limit=window`, or None where only running it tells: without a tokenizer, that is
    wherever something is cut. May block: answers vote."""
    usage = result.usage
    parts = list(all_methods(method))
    if result.finish_reason.is_budget or any(isinstance(part, Decoding) and part.contexts for part in parts):
        return None
    inner = parts[1:]
    if not all(isinstance(part, (Sequential, SelfConsistency, APR)) for part in inner):
        return None
    if isinstance(method, Hogwild):
        fits = result.details["context"] <= window
    else:
        fits = longest_context(result.trace) + usage.rolled_back_tokens + _kept_back(parts) < window
    if fits:
        if isinstance(method, (Sequential, SelfConsistency, APR, Hogwild)):
            return Narrowed(
                answer=result.answer,
                text=result.text,
                finish=result.finish_reason,
                total_tokens=usage.total_tokens,
                critical_tokens=usage.critical_tokens,
                is_same=True,
                details=result.details,
            )
        return None
    # Where another method gives the samples, the text and the answer are what it makes of its own.
    if tokenizer is None or inner:
        return None
    # Tokens behind a stop string were dropped, and in the smaller window some might not have come.
    if isinstance(method, (Sequential, SelfConsistency)) and method.conclusion is None and not usage.rolled_back_tokens:
        return _cut(method, result.trace, window, tokenizer)
    return None


def _kept_back(parts: Sequence[Method]) -> int:
    """Tokens at most that a text leaves free for its conclusion, whether it comes or not; none is less than a byte."""
    conclusions = [part for part in parts if isinstance(part, Answering) and part.conclusion is not None]
    return max((part.conclusion_tokens + len((part.conclusion or "").encode()) for part in conclusions), default=0)


def longest_context(trace: Trace) -> int:
    """Tokens of the longest context any branch had, prompt included."""
    return max((sum(span.length or 0 for span in s.view) + len(s) for s in trace.segments), default=0)


def _cut(method: Sequential | SelfConsistency, trace: Trace, window: int, tokenizer: Tokenizer) -> Narrowed | None:
    texts: list[str] = []
    finishes: list[Finish] = []
    lengths: list[int] = []
    # Segments stand in the order in which lines ended, branches in the order of the vote.
    for branch in trace.branches:
        for segment in trace.segments_of(branch):
            start = sum(span.length or 0 for span in segment.view)
            for piece in segment.pieces:
                room = window - start
                if room <= 0:
                    return None
                if piece.kind == "sampled":
                    kept = piece.token_ids[:room]
                    fits = len(kept) == len(piece.token_ids)
                    finish = Finish(piece.finish or Finish.FAILED) if fits else Finish.CONTEXT
                    # The token that ends a generation is no part of its text.
                    spelled = kept if finish.is_truncated else kept[:-1]
                    texts.append(decode_behind(tokenizer, spelled, behind=start > len(tokenizer.prefix_ids)))
                    finishes.append(finish)
                    lengths.append(len(kept))
                start += len(piece.token_ids)
    answers = [extract(method.answer, text) for text in texts]
    chosen = 0
    if isinstance(method, SelfConsistency):
        (answer, _), _ = method.settle_now(answers, lambda equal: majority(answers, equal))
        chosen = answers.index(answer)
    return Narrowed(
        answer=answers[chosen],
        text=texts[chosen],
        finish=finishes[chosen],
        total_tokens=sum(lengths),
        critical_tokens=max(lengths),
        is_same=False,
    )
