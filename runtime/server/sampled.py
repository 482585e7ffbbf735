"""`Sampled`: what `/v1/completions` and `/v1/chat/completions` run where no method is asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..engine import SamplingParams
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..methods.sequential import Sequential
from ..result import Finish, Generated, Outcome


class Sampled(Sequential):
    """n texts from one prefilled prompt, each with its tokens' log-probabilities.

    `details["choices"]` has `text`, `finish` and, if `top` is given, `tokens` of each, by the samples' order; with
    tools also `calls`.
    """

    method: Literal["sequential"] = "sequential"
    """The method's name."""
    n: int = Field(default=1, ge=1, le=128)
    """Samples."""
    marks: tuple[str, str] | None = None
    """`Tokenizer.tool_marks` of the model, for who reads its text as it comes."""
    top: int | None = Field(default=None, ge=0, le=20)
    """Likeliest tokens whose log-probabilities are wanted; 0: of the sampled token alone; None: none at all."""

    async def run(self, ctx: Context) -> Outcome:
        root = self.open(ctx, self.tokens(ctx.tokenizer))
        if self.n == 1:
            samples: list[Generated | None] = [await self._sample(ctx, root)]
            branches = [root]
        else:
            await root.generate(SamplingParams(max_tokens=0))
            branches = root.fork(self.n)
            samples = await ctx.parallel(self._sample, branches)
        # Those that the budget leaves nothing for are not begun.
        empty = Generated(text="", token_ids=[], finish=Finish.TOTAL_TOKENS)
        drawn = [sample or empty for sample in samples]
        details = {"choices": [self._choice(*pair, ctx) for pair in zip(drawn, branches, strict=True)]}
        return Outcome(text=drawn[0].text, answer=None, finish=drawn[0].finish, details=details)

    async def _sample(self, ctx: Context, branch: TracedBranch) -> Generated:
        top = self.top if ctx.capabilities.logprobs else None
        return await branch.generate(self.sampling(ctx, logprobs=top))

    def _choice(self, sample: Generated, branch: TracedBranch, ctx: Context) -> dict[str, Any]:
        choice = _choice(sample, ctx)
        if self.has_tools:
            said, calls = self.read_calls(sample.text, branch)
            choice |= {"text": said, "calls": [call.to_json() for call in calls]}
        return choice


def _choice(sample: Generated, ctx: Context) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": sample.text, "finish": sample.finish.value}
    if sample.logprobs is None:
        return choice
    decode, silent = ctx.tokenizer.decode, set(ctx.tokenizer.eos_ids)
    tops = sample.top_logprobs or [{} for _ in sample.token_ids]
    choice["tokens"] = [
        {"token": decode([token]), "logprob": logprob, "top": [[decode([id]), value] for id, value in top.items()]}
        for token, logprob, top in zip(sample.token_ids, sample.logprobs, tops, strict=True)
        if token not in silent
    ]
    return choice
