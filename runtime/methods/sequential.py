"""`Sequential`: one prompt, one line of decoding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Finish, Generated, Outcome
from .answers import check_rule, extract
from .base import Decoding

AnswerRule = Annotated[str, AfterValidator(check_rule)]
"""See `answers`."""


class Answering(Decoding):
    """Fields of methods whose answer is taken out of a text."""

    answer: AnswerRule = "text"
    """`text`, `boxed`, `countdown`, `path` or `regex:PATTERN`; see `answers`."""
    conclusion: str | None = None
    """Text put in when a generation ends without an answer, to make the model give one (`\\nFinal answer: \\boxed{`).
    None: leave it."""
    conclusion_tokens: int = Field(default=64, ge=1)
    """New tokens after `conclusion` at most; kept back from the budget and the context for it."""

    async def decode(self, ctx: Context, branch: TracedBranch) -> tuple[str, Generated]:
        """Decode, and conclude if need be. Returns the whole new text and the last generation."""
        encode = ctx.tokenizer.encode_continuation
        room = branch.room - len(encode(branch.tokens, self.conclusion or "")) - self.conclusion_tokens
        concludes = self.conclusion is not None and room > 0
        tokens = min(room, self.limit) if concludes else self.limit
        result = await branch.generate(self.sampling(ctx, max_tokens=tokens))
        if result.finish is Finish.LENGTH and tokens == self.limit:
            self.note_bound(ctx)
        text = result.text
        if self.conclusion is None or not concludes:
            return text, result
        forced = encode(branch.tokens, self.conclusion)
        if extract(self.answer, text) is None and not ctx.is_late and branch.room > len(forced):
            branch.extend(forced)
            result = await branch.generate(self.sampling(ctx, max_tokens=self.conclusion_tokens))
            text += self.conclusion + result.text
            ctx.count("concluded")
        return text, result


class Sequential(Answering):
    """Decode one answer; the baseline every other method is measured against."""

    method: Literal["sequential"] = "sequential"
    """The method's name."""

    async def run(self, ctx: Context) -> Outcome:
        branch = self.open(ctx, self.tokens(ctx.tokenizer))
        text, result = await self.decode(ctx, branch)
        return Outcome(text=text, answer=extract(self.answer, text), finish=result.finish)
