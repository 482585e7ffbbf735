"""`SelfConsistency`: several samples of one prompt, and a vote (arXiv 2203.11171)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..engine import SamplingParams
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Generated, Outcome
from .answers import extract, majority
from .base import Temperature
from .voting import Voting


class SelfConsistency(Voting):
    """Sample n answers from one prefilled prompt; the answer given most often wins, ties by the first given.

    Answers that are equal (`equal`) are one, in the spelling most often given. Samples without an answer do not vote.
    """

    method: Literal["self_consistency"] = "self_consistency"
    """The method's name."""
    n: int = Field(default=8, ge=1)
    """Samples that vote."""
    temperature: Temperature | None = 1.0
    """At 0 all samples are the same; None: the model's own."""

    async def run(self, ctx: Context) -> Outcome:
        root = self.open(ctx, self.tokens(ctx.tokenizer))
        with ctx.phase("prefill"):
            await root.generate(SamplingParams(max_tokens=0))
        with ctx.phase("samples"):
            samples = await ctx.parallel(self._sample, root.fork(self.n))
        texts = [sample[0] for sample in samples if sample]
        answers = [extract(self.answer, text) for text in texts]
        (answer, votes), notes = await self.settle(answers, lambda equal: majority(answers, equal))
        chosen = answers.index(answer)
        last = samples[chosen]
        assert last is not None
        details = {"votes": dict(votes), "samples": self.n, **notes}
        return Outcome(text=texts[chosen], answer=answer, finish=last[1].finish, details=details)

    async def _sample(self, part: Context, branch: TracedBranch) -> tuple[str, Generated]:
        return await self.decode(part, branch)
