"""What a job may set of `Multiverse`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ...engine import Tokenizer
from ...errors import InvalidInput
from ..sequential import Answering
from .dialects import DIALECTS, Dialect, DialectName, Positions, fitting
from .prompts import QUESTION

MAX_PATHS = 1000
"""Of `num_paths`."""


def _check_preset(preset: str | None) -> str | None:
    if preset not in (None, "parallel", "sequential") and QUESTION not in preset:
        raise ValueError(f"{preset!r} is neither `parallel` nor `sequential` nor a text with {QUESTION} in it")
    return preset


class MultiverseFields(Answering):
    """The fields; see `method.Multiverse`."""

    method: Literal["multiverse"] = "multiverse"
    """The method's name."""
    bound: ClassVar[int] = 16384
    unconstrained: ClassVar[str | None] = "its lines write the tags that it is steered by; behind a conclusion it does"
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """Tokens along the critical path at most; None: 16384, blocks and all."""
    mode: Literal["trained", "guided"] = "trained"
    """`trained`: the model writes the tags itself. `guided`: for any instruct model, the runtime asks for the outlines,
    forks once and asks for the conclusion."""
    dialect: DialectName = "multiverse"
    """Whose tags the model writes; see `dialects`. `auto`: what the tokenizer's tags tell."""
    preset: Annotated[str | None, AfterValidator(_check_preset)] = None
    """Put the question as the dialect's authors do, in the chat template where the model has one: `parallel` or
    `sequential`, or a text of your own with `{question}` in it. None: the prompt as it stands."""
    positions: Positions | None = None
    """The rule of the released training code, or that of the released engine; see `method`. None: the dialect's:
    `train`, and `engine` for `parallel_r1`."""
    depth: int = Field(default=6, ge=0)
    """Levels of nested blocks; 0: tags are plain text."""
    width: int | None = Field(default=None, ge=1)
    """Paths of one block that run at the same time, the others wait; None: all. It does not change the output."""
    max_paths: int | None = Field(default=None, ge=1)
    """A block with more outlines is not forked. None: the dialect's: 32, `npr` 5, `threadweaver` 50."""
    num_paths: int = Field(default=2, ge=1, le=MAX_PATHS)
    """Paths of a block in `parallel_r1`, which has no outlines."""
    max_branches: int = Field(default=256, ge=0)
    """Paths of the whole job; each line hands on equal shares of what it may open."""
    reserve: int | None = Field(default=None, ge=0)
    """Tokens kept back from the paths for conclusion and answer; at most half of what is left. None: the dialect's:
    256, `npr` 1024."""
    retries: int = Field(default=1, ge=0)
    """Fresh starts of a path whose generation raised an error."""
    outline_tokens: int = Field(default=512, ge=1)
    """Guided: new tokens for the outlines at most."""

    @property
    def fan_out(self) -> int:
        return self.num_paths

    @model_validator(mode="after")
    def _guides_by_itself(self) -> Self:
        if self.mode == "guided" and (self.preset is not None or self.dialect != "multiverse"):
            raise ValueError("guided: it has a prompt and tags of its own: leave out `preset` and `dialect`")
        return self

    def table(self, tokenizer: Tokenizer) -> Dialect:
        """The dialect on a model with this tokenizer. Raises `InvalidInput` where `auto` finds none or several."""
        if self.dialect != "auto":
            return DIALECTS[self.dialect]
        found = fitting(tokenizer)
        if len(found) == 1:
            return DIALECTS[found[0]]
        which = f"the tags of {' and '.join(found)}" if found else "no dialect's tags as tokens"
        raise InvalidInput(f"this model's tokenizer has {which}: give dialect=, one of {', '.join(DIALECTS)}")

    def check_tags(self, tokenizer: Tokenizer) -> str | None:
        """What is to be said of the tags where they are text to this tokenizer; None: nothing. Raises `InvalidInput`
        where it has those of another dialect."""
        dialect, found = self.table(tokenizer), fitting(tokenizer)
        if self.mode == "guided" or dialect.name in found:
            return None
        if len(found) == 1:
            raise InvalidInput(f"this model's tokenizer has the tags of {found[0]}: give dialect={found[0]!r}")
        return f"the tags of {dialect.name} are no tokens of this tokenizer: the model was hardly trained on them"
