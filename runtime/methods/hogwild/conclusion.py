"""`Conclusions`: what a Hogwild! group's text answers, at the end of its run and at smaller budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...engine import SamplingParams
from ...engines.text_stream import decode_behind
from ...jobs.context import Context
from ...result import Finish, Generated
from .fields import HogwildFields
from .finishers import FINISHERS, find
from .policy import special_ids
from .rules import without_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A group after so many forward passes."""

    passes: int
    tokens: tuple[int, ...]
    """All that was written, as one sequence."""
    finish: Finish
    """Why it ended there, or would have."""
    total_tokens: int
    """Tokens sampled and put in so far."""
    critical_tokens: int


class Conclusions:
    """Answers of one run's snapshots, asked for where nobody has given one."""

    def __init__(self, method: HogwildFields, ctx: Context, limit: int) -> None:
        self._method = method
        self._ctx = ctx
        self._limit = limit
        self._prompt = method.prompt_tokens(ctx.tokenizer)
        self._forced = ctx.tokenizer.encode_continuation((), method.conclusion or "")
        reserve = method.conclusion_tokens if method.conclusion is not None else 0
        self.room = len(self._forced) + reserve
        """Tokens of the context that a conclusion may take."""
        self.kept = reserve * (1 + len(method.answer_at))
        """Tokens of the budget that are kept back for all conclusions."""
        self._snapshots: dict[int, Snapshot] = {}

    def keep(self, snapshot: Snapshot) -> None:
        """One of `answer_at`."""
        self._snapshots[snapshot.passes] = snapshot

    async def all(self, last: Snapshot, ended: tuple[str, str | None, int]) -> list[dict[str, Any]]:
        """The answers of `answer_at`; where the run had ended before, `ended`: what it gave, its last state being
        `last`."""

        async def one(part: Context, snapshot: Snapshot) -> tuple[str, str | None, int]:
            return await self.conclude(part, snapshot)

        early = list(self._snapshots.values())
        given = await self._ctx.parallel(one, early)
        found = {s.passes: (s, g) for s, g in zip(early, given, strict=True) if g is not None}
        answers = []
        for passes in sorted(set(self._method.answer_at)):
            snapshot, (_, answer, tokens) = found.get(passes, (last, ended))
            answers.append(
                {
                    "passes": passes,
                    "answer": answer,
                    "finish": snapshot.finish.value,
                    "total_tokens": snapshot.total_tokens + tokens,
                    "critical_tokens": snapshot.critical_tokens + tokens,
                }
            )
        return answers

    async def conclude(self, ctx: Context, snapshot: Snapshot) -> tuple[str, str | None, int]:
        """The whole text, its answer, and how many tokens were decoded for it."""
        method, tokens = self._method, snapshot.tokens
        text = decode_behind(ctx.tokenizer, tokens)
        before = ctx.tokenizer.decode(self._prompt) if method.published.encodes_again else ""
        answer = find(method.answer, before + text, method.accepts)
        asks = snapshot.finish.is_truncated if method.answer == "text" else answer is None
        if method.conclusion is None or not asks or ctx.is_late:
            return text, answer, 0
        # Dropped steps make it longer than any view was; the oldest text gives way.
        kept = tokens[max(len(tokens) - self._limit + len(self._prompt) + self.room, 0) :]
        branch = method.open(ctx, self._sequence(kept), label="conclusion")
        text += method.conclusion
        left = method.conclusion_tokens
        finisher = None if method.published.encodes_again else FINISHERS.get(method.answer)
        while left > 0 and answer is None:
            result = await branch.generate(self._params(ctx, left))
            text += self._said(ctx, result)
            left -= len(result.token_ids)
            answer = find(method.answer, before + text, method.accepts)
            if finisher is None or result.stop != finisher.ends:
                break
        ctx.count("concluded")
        return text, answer, method.conclusion_tokens - left

    def _said(self, ctx: Context, result: Generated) -> str:
        """What a conclusion's text goes on with: without the method's own stop strings, but with what stands behind a
        finisher's end in its token, since more may follow."""
        if not isinstance(result.stop, str):
            return result.text
        if result.stop in self._method.stop:
            return result.text.removesuffix(result.stop)
        return decode_behind(ctx.tokenizer, result.token_ids)

    def _sequence(self, tokens: Sequence[int]) -> list[int]:
        """Prompt, text and conclusion as one sequence."""
        whole = [*self._prompt, *tokens, *self._forced]
        if self._method.published.encodes_again:
            text = self._ctx.tokenizer.decode([*self._prompt, *tokens]) + (self._method.conclusion or "")
            again = without_prefix(self._ctx.tokenizer, text, self._prompt)
            if len(again) <= max(len(whole), self._limit - self._method.conclusion_tokens):
                return again
        return whole

    def _params(self, ctx: Context, tokens: int) -> SamplingParams:
        method = self._method
        values: dict[str, Any] = {"max_tokens": tokens, "temperature": 0.0, "repetition_penalty": 1.0}
        if method.published.encodes_again:
            eos = special_ids(ctx.tokenizer).get("eos_token")
            return method.sampling(
                ctx,
                **values,
                ignore_eos=True,
                stop_token_ids=(*method.stop_token_ids, *(() if eos is None else (eos,))),
            )
        finisher = FINISHERS.get(method.answer)
        stops = method.stop if finisher is None else (*method.stop, finisher.ends)
        return method.sampling(ctx, **values, stop=stops, include_stop=finisher is not None)
