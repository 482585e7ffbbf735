"""`Judge`: a chat model, the policy itself or another one, is asked whether a solution is right so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ...runtime.engine import Completion, Engine, SamplingParams, Tokenizer
from ...runtime.errors import InvalidInput
from ...runtime.jobs.context import Context
from .base import Reward, Scorer
from .frames import Frame
from .tree import TreeScorer

LIKELIEST = 20
"""Tokens among which the judge's words are looked for; what servers give at most."""


class Judge(Reward):
    """The probability that a chat model answers yes rather than no (arXiv 2408.15240), at every step. Weaker
    than a model that was trained for it, but there wherever the policy is."""

    shorthand = "model"

    reward: Literal["judge"] = "judge"
    """The kind's name."""
    model: str | None = Field(default=None, min_length=1)
    """As for `Runtime`; None: the policy judges itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the other model's engine, as for `Runtime`."""
    request: str = Field(
        default="Is every step so far correct, and does it lead towards the answer? Reply with Yes or No only.",
        min_length=1,
    )
    """What it is asked behind the question and the steps."""
    good: str = Field(default="Yes", min_length=1)
    """The reply that speaks for a step."""
    bad: str = Field(default="No", min_length=1)
    """The one that speaks against it."""

    def check(self, engine: Engine) -> None:
        if self.options and self.model is None:
            raise InvalidInput("the judge is the policy itself: options are for another model")
        if self.good.strip().lower() == self.bad.strip().lower():
            raise InvalidInput(f"the judge's words are the same: {self.good!r} and {self.bad!r}")

    async def open(self, ctx: Context, question: str) -> Scorer:
        engine = ctx.engine if self.model is None else await ctx.companion(self.model, **self.options)
        length = max(len(engine.tokenizer.encode_continuation((), word)) for word in (self.good, self.bad))
        reader = Reply(self.good, self.bad, length, engine.tokenizer, knows=engine.capabilities.logprobs)
        return TreeScorer.of(ctx, engine, _Request(self.request), reader, question)


@dataclass(frozen=True, slots=True)
class _Request(Frame):
    """Question, steps and request as a user's message, or as text for models without chats."""

    request: str

    def tokens(
        self, tokenizer: Tokenizer, before: Sequence[int], question: str, steps: Sequence[str], is_complete: bool
    ) -> list[int]:
        state = "It ends here." if is_complete else "It is not finished yet."
        solution = "".join(steps).strip()
        text = f"Problem:\n{question}\n\nSolution:\n{solution}\n\n{state} {self.request}"
        try:
            return tokenizer.chat([{"role": "user", "content": text}])
        except InvalidInput:
            return tokenizer.encode(f"{text}\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """Reads the probability of one word against that of the other among the likeliest tokens; from an engine that does
    not tell them, 1 or 0 by what is written. One half where neither word is found."""

    good: str
    bad: str
    length: int
    """Tokens of the longer one."""
    tokenizer: Tokenizer
    knows: bool
    """Does the engine give log-probabilities?"""

    @property
    def params(self) -> SamplingParams:
        if self.knows:
            return SamplingParams(max_tokens=1, logprobs=min(LIKELIEST, self.tokenizer.vocab_size))
        return SamplingParams(max_tokens=self.length)

    def score(self, completion: Completion) -> float:
        if completion.top_logprobs:
            shares = {self.tokenizer.decode([token]): p for token, p in completion.top_logprobs[0].items()}
        else:
            shares = {completion.text: 0.0}
        good, bad = (
            math.fsum(math.exp(p) for text, p in shares.items() if _says(text, word)) for word in (self.good, self.bad)
        )
        return good / (good + bad) if good + bad > 0 else 0.5


def _says(text: str, word: str) -> bool:
    """Does the text begin the word, or begin with it?"""
    text, word = text.strip().lower(), word.strip().lower()
    if not text or word.startswith(text):
        return bool(text)
    return text.startswith(word) and not text[len(word)].isalnum()
