"""A method that runs another one inside, registered once however often the tests that use it are imported."""

from __future__ import annotations

from typing import Literal

from plait import Context, Finish, Method, Multiverse, Outcome, Sequential, register


@register
class Nested(Method):
    """A parent that spawns what runs as a job of another method."""

    method: Literal["test_samples_nested"] = "test_samples_nested"

    async def run(self, ctx: Context) -> Outcome:
        branch = ctx.open(ctx.tokenizer.encode("parent: "))
        params = Sequential(prompt="x", max_tokens=8, temperature=1.0).sampling(ctx, max_tokens=8, ignore_eos=True)
        await branch.generate(params)

        async def child(part: Context, prompt: str) -> Outcome:
            return await part.run(Multiverse(prompt=prompt))

        done = await ctx.parallel(child, ["Q", "Q"])
        branch.extend(ctx.tokenizer.encode("joined " * len(done)))
        call = await branch.generate(params)
        return Outcome(text=call.text, answer=None, finish=Finish.STOP)
