"""What a job may set of `TreeSearch`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ..runtime.methods.base import Decoding, Method, Temperature, Text
from ..runtime.methods.registry import parse_method
from ..runtime.methods.voting import Voting
from .aggregation import Aggregate, Vote
from .embeddings import HIDDEN, parse_embedding
from .rewards import parse_reward
from .strategies import ETS, parse_strategy


def _parse_generator(value: object) -> object:
    return parse_method(value) if isinstance(value, dict) else value


class SearchFields(Voting):
    """The fields; see `tree_search.TreeSearch`."""

    method: Literal["tree_search"] = "tree_search"
    """The method's name."""
    strategy: Annotated[Any, BeforeValidator(parse_strategy)] = ETS()
    """`ets`, `rebase`, `beam`, `dvts`, `best_of_n`, by name or as an object with its parameters."""
    width: int = Field(default=16, ge=1)
    """Finished trajectories wanted."""
    reward: Annotated[Any, BeforeValidator(parse_reward)]
    """A reward object, `prm:MODEL`, or a function `f(prompt, steps) -> float`; see `rewards`."""
    embedding: Annotated[Any, BeforeValidator(parse_embedding)] = HIDDEN
    """What strategies tell different steps by: `hidden` (the mean of the hidden states the policy wrote the step
    from), `sentence-transformers:MODEL`, or a function `f(texts) -> vectors`."""
    delimiters: tuple[Text, ...] = Field(default=("\n\n",), min_length=1)
    """Strings that end a step; they stay in its text."""
    step_tokens: int = Field(default=256, ge=1)
    """Tokens of one step at most; a step that is cut goes on as the next one."""
    bound: ClassVar[int] = 1024
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """Tokens of one trajectory at most; None: 1024."""
    max_depth: int = Field(default=25, ge=1)
    """Steps of one trajectory at most."""
    temperature: Temperature | None = 1.0
    """At 0 all samples of a step are the same; None: the model's own."""
    vote: Vote = "weighted"
    """How finished trajectories vote for their answers; see `aggregation`."""
    aggregate: Aggregate = "last"
    """What the scores of its steps make a trajectory worth."""
    merge: bool = True
    """Keep equal steps below the same parent as one node that counts as often as it was sampled."""
    generator: Annotated[SerializeAsAny[Method] | None, BeforeValidator(_parse_generator)] = None
    """A method that writes each step instead of plain decoding. Its prompt is replaced by the trajectory so far, its
    text becomes the step; the trajectory is finished when its outcome ends by EOS."""

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        if self.constraint is not None and self.generator is not None:
            raise ValueError("the generator writes the steps: no constraint can hold for all of them as one text")
        return self

    def continuing(self, tokens: list[int]) -> Method:
        """The generator, set to go on behind these tokens. Raises `InvalidJob` if it takes no prompt."""
        assert self.generator is not None
        values: dict[str, Any] = {**self.generator.model_dump(), "prompt": tokens}
        if isinstance(self.generator, Decoding):
            values |= {"chat": False, "system": None}  # the tokens are a chat already, if it is one
        return type(self.generator)(**values)
