"""`SelfConsistency`: several samples of one prompt, and a vote (arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from ..engine import Engine, SamplingParams
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Outcome
from .answers import majority
from .base import Method, Temperature
from .nesting import Inner, reading
from .voting import MAX_SAMPLES, Voting


class SelfConsistency(Voting):
    """Sample n answers from one prefilled prompt; the answer given most often wins, ties by the first given.

    Answers that are equal (`equal`) are one, in the spelling most often given. Samples without an answer do not vote.
    """

    method: Literal["self_consistency"] = "self_consistency"
    """The method's name."""
    n: int = Field(default=8, ge=1, le=MAX_SAMPLES)
    """Samples that vote."""
    temperature: Temperature | None = 1.0
    """At 0 all samples are the same; None: the model's own."""

    generator: Inner | None = None
    """A method that gives each sample instead of plain decoding: this prompt takes the place of its own, and its
    answers, by its own rule, vote. All else about the samples is said by its fields."""

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        if self.generator is not None and (self.constraint is not None or self.contexts or self.conclusion is not None):
            raise ValueError("the generator writes the samples: give constraint, contexts and conclusion to it")
        return self

    @property
    def fan_out(self) -> int:
        return self.n

    def check(self, engine: Engine) -> None:
        super().check(engine)
        if self.generator is not None:
            self._sampler(self.generator).check(engine)

    async def run(self, ctx: Context) -> Outcome:
        if self.generator is not None:
            return await self._vote(await self._run(ctx, self._sampler(self.generator)))
        root = self.open(ctx, self.tokens(ctx.tokenizer))
        with ctx.phase("prefill"):
            await root.generate(SamplingParams(max_tokens=0))
        with ctx.phase("samples"):
            samples = await ctx.parallel(self._sample, await root.fork_many(self.n))
        return await self._vote([sample for sample in samples if sample is not None])

    def _sampler(self, generator: Method) -> Method:
        return reading(generator, self.messages or self.prompt, self.context_limit)

    async def _vote(self, samples: Sequence[Outcome]) -> Outcome:
        answers = [sample.answer for sample in samples]
        (answer, votes), notes = await self.settle(answers, lambda equal: majority(answers, equal))
        chosen = samples[answers.index(answer)]
        details = {"votes": dict(votes), "samples": self.n, **notes}
        return Outcome(text=chosen.text, answer=answer, finish=chosen.finish, details=details)

    async def _run(self, ctx: Context, method: Method) -> list[Outcome]:
        async def sample(part: Context, _number: int) -> Outcome:
            return await part.run(method)

        with ctx.phase("samples"):
            return [outcome for outcome in await ctx.parallel(sample, range(self.n)) if outcome is not None]

    async def _sample(self, part: Context, branch: TracedBranch) -> Outcome:
        return await self.decode(part, branch)
