"""What a job may set of `TreeSearch`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..runtime.engine import Tokenizer
from ..runtime.methods.answers import check_rule, matches
from ..runtime.methods.base import Decoding, Temperature, Text
from ..runtime.methods.nesting import Inner
from ..runtime.methods.prompt import context_text
from ..runtime.methods.voting import MAX_SAMPLES, Voting
from ..runtime.spec import Several
from .aggregation import Aggregate, Vote
from .embeddings import parse_embedding
from .rewards import SelfCertainty, parse_reward
from .strategies import ETS, parse_strategy

_REGEX = "regex:"


def _parse_embedding(value: object) -> str | None:
    return None if value is None else parse_embedding(value)


def _phrases(value: object) -> object:
    """One rule stands for a tuple of it. Raises `InvalidInput` for a pattern that is none."""
    value = (value,) if isinstance(value, str) else value
    for rule in value if isinstance(value, (tuple, list)) else ():
        if isinstance(rule, str) and rule.startswith(_REGEX):
            check_rule(rule)
    return value


class SearchFields(Voting):
    """The fields; see `tree_search.TreeSearch`."""

    method: Literal["tree_search"] = "tree_search"
    """The method's name."""
    strategy: Annotated[Any, BeforeValidator(parse_strategy)] = ETS()
    """`ets`, `rebase`, `beam`, `dvts`, `best_of_n`, by name or as an object with its parameters."""
    width: int = Field(default=16, ge=1, le=MAX_SAMPLES)
    """Finished trajectories wanted."""
    reward: Annotated[Any, BeforeValidator(parse_reward)] = SelfCertainty()
    """A reward object, `prm:MODEL`, `judge`, `self_certainty`, or a function `f(question, steps) -> float`; see
    `rewards`."""
    question: str | None = Field(default=None, min_length=1)
    """What the reward is told was asked. None: the prompt, or of a chat the users' messages."""
    embedding: Annotated[Any, BeforeValidator(_parse_embedding)] = None
    """What strategies tell different steps by: `hidden` (the mean of the hidden states the policy wrote the step
    from), `sentence-transformers:MODEL`, or a function `f(texts) -> vectors`. None: what the strategy says, which is
    `hidden` but for ETS as its paper ran it."""
    delimiters: Several[Text] = Field(default=("\n\n",), min_length=1)
    """Strings that end a step; they stay in its text."""
    finished: Annotated[Several[Text], BeforeValidator(_phrases)] = ()
    """What ends a trajectory with the step that holds it: texts, or `regex:PATTERN`; looked for in what the policy
    writes, not in the prompt. A pattern whose search takes too long finds nothing. Its own end and `stop` end it in any
    case."""
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
    generator: Inner | None = None
    """A method that writes each step instead of plain decoding. Its prompt is replaced by the trajectory so far, its
    text becomes the step; the trajectory is finished when its outcome ends by EOS."""

    @property
    def fan_out(self) -> int:
        return self.width

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        if self.constrains_conclusion:
            raise ValueError("the constraint holds for the steps, and conclusion puts text behind them: give one")
        if self.constraint is not None and self.generator is not None:
            raise ValueError("the generator writes the steps: no constraint can hold for all of them as one text")
        if self.contexts and self.generator is not None:
            raise ValueError("the generator reads a trajectory as tokens, without contexts: give them to the generator")
        inner = self.generator if self.messages else None
        while isinstance(inner, Decoding):
            if inner.contexts:
                raise ValueError(
                    "the generator reads the chat as tokens, where contexts have no place: put them into it"
                )
            inner = getattr(inner, "generator", None)
        return self

    @property
    def step_embedding(self) -> str:
        """The embedding's name."""
        chosen: str = self.embedding or self.strategy.embedding
        return chosen

    def finishes(self, text: str) -> bool:
        """Does `finished` find something in the text?"""
        return any(
            matches(rule.removeprefix(_REGEX), text) if rule.startswith(_REGEX) else rule in text
            for rule in self.finished
        )

    def asked(self, tokenizer: Tokenizer) -> str:
        """What the reward is told was asked."""
        if self.question is not None:
            return self.question
        if said := [message["content"] for message in self.messages if message["role"] == "user"]:
            return "\n\n".join(said)
        return self.prompt if isinstance(self.prompt, str) else context_text(self.tokens(tokenizer), tokenizer)
