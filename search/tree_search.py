"""`TreeSearch`: search over steps of reasoning with a reward model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ..runtime.engine import Engine
from ..runtime.jobs.context import Context
from ..runtime.methods.base import Method
from ..runtime.methods.prompt import prompt_tokens
from ..runtime.methods.registry import parse_method
from ..runtime.methods.sequential import Answering
from ..runtime.result import Outcome
from .aggregation import Aggregate, Vote
from .embeddings import HIDDEN, check_embedding, parse_embedding
from .rewards import Scorer, parse_reward
from .run import SearchRun
from .strategies import ETS, parse_strategy


def _parse_generator(value: object) -> object:
    return parse_method(value) if isinstance(value, dict) else value


class TreeSearch(Answering):
    """Grow a tree of steps level by level, score every step, and continue what the strategy chooses.

    All strategies share this frame: the root gets `width` samples of a first step; each finished or exhausted
    trajectory takes one off; what the strategy gives no continuation is pruned and its KV freed at once. Finished
    trajectories vote. `conclusion` is put to the best unfinished trajectory if none has finished.
    """

    method: Literal["tree_search"] = "tree_search"
    strategy: Annotated[Any, BeforeValidator(parse_strategy)] = ETS()
    """`ets`, `rebase`, `beam`, `dvts`, `best_of_n`, by name or as an object with its parameters."""
    width: int = Field(default=16, ge=1)
    """Finished trajectories wanted."""
    reward: Annotated[Any, BeforeValidator(parse_reward)]
    """A reward object, `prm:MODEL`, or a function `f(prompt, steps) -> float`; see `rewards`."""
    embedding: Annotated[Any, BeforeValidator(parse_embedding)] = HIDDEN
    """What strategies tell different steps by: `hidden` (the mean of the hidden states the policy wrote the step
    from), `sentence-transformers:MODEL`, or a function `f(texts) -> vectors`."""
    delimiters: tuple[str, ...] = Field(default=("\n\n",), min_length=1)
    """Strings that end a step; they stay in its text."""
    step_tokens: int = Field(default=256, ge=1)
    """Tokens of one step at most; a step that is cut goes on as the next one."""
    max_tokens: int | None = Field(default=1024, ge=1)
    """Tokens of one trajectory at most."""
    max_depth: int = Field(default=25, ge=1)
    """Steps of one trajectory at most."""
    temperature: float = Field(default=1.0, ge=0)
    vote: Vote = "weighted"
    aggregate: Aggregate = "last"
    """What the scores of its steps make a trajectory worth."""
    merge: bool = True
    """Keep equal steps below the same parent as one node that counts as often as it was sampled."""
    generator: Annotated[SerializeAsAny[Method] | None, BeforeValidator(_parse_generator)] = None
    """A method that writes each step instead of plain decoding. Its prompt is replaced by the trajectory so far, its
    text becomes the step; the trajectory is finished when its outcome ends by EOS."""

    def check(self, engine: Engine) -> None:
        super().check(engine)
        self.reward.check()
        if self.strategy.uses_embeddings:
            check_embedding(self.embedding, engine)
        if self.generator is not None:
            self.continuing(prompt_tokens(self.prompt, engine.tokenizer)).check(engine)

    def continuing(self, tokens: list[int]) -> Method:
        """The generator, set to go on behind these tokens. Raises `InvalidJob` if it takes no prompt."""
        assert self.generator is not None
        values: dict[str, Any] = {**self.generator.model_dump(), "prompt": tokens}
        return type(self.generator)(**values)

    async def run(self, ctx: Context) -> Outcome:
        prompt = prompt_tokens(self.prompt, ctx.tokenizer)
        scorer: Scorer = await self.reward.open(ctx, prompt, ctx.tokenizer)
        try:
            return await SearchRun(self, ctx, scorer).run(prompt)
        finally:
            scorer.close()
