"""`TreeSearch`: search over steps of reasoning with a reward model."""

from __future__ import annotations

from ..runtime.engine import Engine
from ..runtime.errors import InvalidInput, UnsupportedByEngine
from ..runtime.jobs.context import Context
from ..runtime.methods.nesting import reading
from ..runtime.result import Outcome
from .embeddings import check_embedding
from .fields import SearchFields
from .rewards import Scorer
from .run import SearchRun


class TreeSearch(SearchFields):
    """Grow a tree of steps level by level, score every step, and continue what the strategy chooses.

    All strategies share this frame: the root gets `width` samples of a first step; each finished or exhausted
    trajectory takes one off; what the strategy gives no continuation is pruned and its KV freed at once. Finished
    trajectories vote. `conclusion` is put to the best unfinished trajectory if none has finished.
    """

    def check(self, engine: Engine) -> None:
        super().check(engine)
        self.reward.check(engine)
        if self.constraint is not None and self.strategy.steps and not engine.capabilities.constrained:
            raise UnsupportedByEngine(
                f"engine {engine.name} begins anew with a constraint at every step; the native engine goes on with it"
            )
        if self.strategy.uses_embeddings:
            check_embedding(self.step_embedding, engine)
        if self.generator is not None:
            if self.reward.uses_certainty:
                raise InvalidInput(
                    f"the reward {self.reward.reward!r} judges by how the policy samples a step: with a generator "
                    "take another one"
                )
            reading(self.generator, self.tokens(engine.tokenizer), self.context_limit).check(engine)

    async def run(self, ctx: Context) -> Outcome:
        prompt = self.tokens(ctx.tokenizer)
        scorer: Scorer = await self.reward.open(ctx, self.asked(ctx.tokenizer))
        try:
            return await SearchRun(self, ctx, scorer).run(prompt)
        finally:
            scorer.close()
