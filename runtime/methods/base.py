"""`Method`: the base of all reasoning methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from ..engine import Engine, SamplingParams, Tokenizer
from ..errors import InvalidInput
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..plugins import blaming
from ..result import Outcome
from ..sampling import MAX_PENALTY, check_stop, check_temperature
from ..spec import Several, Spec
from .constraints import AnyConstraint
from .contexts import WithContexts, check_room
from .prompt import Prompt, chat_messages, prompt_tokens

Temperature = Annotated[float, Field(ge=0, strict=True), AfterValidator(check_temperature)]
"""As `SamplingParams` takes it: 0, or at least 1e-6."""
Text = Annotated[str, Field(min_length=1, strict=True)]
Token = Annotated[int, Field(ge=0, strict=True)]


def check_tokens(name: str, tokens: Sequence[int], engine: Engine) -> None:
    """Raise `InvalidInput` for tokens that the engine's model does not have."""
    size = engine.tokenizer.vocab_size
    if (bad := next((token for token in tokens if not 0 <= token < size), None)) is not None:
        raise InvalidInput(f"{name}: token id {bad} is outside the vocabulary of {size}")


class Method(Spec):
    """A way to reason, as data: construct it, send it as JSON, run it anywhere.

    A subclass sets `method: Literal["name"] = "name"`, is decorated with `register`, and runs on the operations of
    `Context` alone, so that it runs on any engine and inside any other method. Wrong fields raise `InvalidJob`.
    """

    method: str
    """The method's name; subclasses give it as the default of a `Literal`."""

    @property
    def fan_out(self) -> int:
        """Branches that the fields ask for side by side, whatever the model writes; what limits a server's clients."""
        return 1

    def most_tokens(self, engine: Engine) -> int | None:
        """Tokens that it can spend on `engine` at most, by its fields alone; None: they do not say."""
        return None

    @abstractmethod
    async def run(self, ctx: Context) -> Outcome:
        """Reason. Model output, however odd, is never an exception; running out of budget is an outcome."""

    def check(self, engine: Engine) -> None:
        """Raise what is wrong with running this on `engine`: `PromptTooLong`, `OutOfBlocks`, `UnsupportedByEngine`,
        `InvalidInput`.

        Called before any work.
        """

    def settings(self, engine: Engine) -> dict[str, Any]:
        """What comes of the fields on `engine`: JSON values for the settings in the trace's header."""
        return {}

    def inputs(self) -> Mapping[str, Any]:
        """What decides about answers beside the fields, such as what is in files that they name, by name: an evaluation
        goes on only while it stays. The same for every problem. Raises `InvalidInput` when it cannot be read."""
        return {}


def blaming_method(method: Method) -> AbstractContextManager[None]:
    """`blaming`, of what a method's own code is asked before it runs."""
    return blaming(f"the method {method.method!r} cannot be run")


class Decoding(WithContexts, Method):
    """Fields of methods that decode from one prompt, which may come with contexts."""

    prompt: Prompt = Field(min_length=1)
    """What the model reads first: text as it stands, chat messages (`role`, `content`), or token ids as they are.
    A `developer` speaks as `system` to a chat template that does not know the role; messages of `system`, `developer`
    and `tool` that it leaves out are refused."""
    chat: bool = False
    """Put a text prompt as a user's message, through the model's chat template; messages always go through it."""
    system: str | None = None
    """System message in front of a chat; it makes a text prompt one."""
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """New tokens of one generation at most; None: the method's own bound (`bound`), or what the context allows where
    that is less."""
    temperature: Temperature | None = None
    """0 is greedy; None: the model's own (its generation_config.json), as for the next four."""
    top_k: int | None = Field(default=None, ge=0, strict=True)
    """Sample from the k likeliest tokens; 0: off."""
    top_p: float | None = Field(default=None, gt=0, le=1, strict=True)
    """Sample from the likeliest tokens that together have this probability; 1: off."""
    min_p: float | None = Field(default=None, ge=0, le=1, strict=True)
    """Leave out tokens less likely than this share of the likeliest one; 0: off."""
    repetition_penalty: float | None = Field(default=None, ge=1 / MAX_PENALTY, le=MAX_PENALTY, strict=True)
    """Divides the logits of tokens that stand in the context already (multiplies negative ones); 1: off."""
    stop: Annotated[Several[Text], AfterValidator(check_stop)] = ()
    """Strings that end a generation; they are cut off."""
    stop_token_ids: Several[Token] = ()
    """Tokens that end a generation, as an end of sequence does."""
    constraint: AnyConstraint | None = None
    """What the model's text must look like: a JSON schema, regular expression, list of choices or grammar (see
    `constraints`). Limits and stop strings may end it before it is complete."""
    logprobs: bool = True
    """Record the model's log-probability of every sampled token in the trace, where the engine can."""
    context_limit: int | None = Field(default=None, ge=1)
    """Tokens one thread may span, prompt included, also of methods inside this one that have this field, whose own
    limits hold where they are less; None: the engine's own limit."""

    bound: ClassVar[int] = 4096
    """Takes the place of `max_tokens` where that is None, so that no job runs on to the end of a long context by
    itself. What it ended has `Finish.LENGTH`, and `Result.details["bound"]` says so."""

    unconstrained: ClassVar[str | None] = None
    """Why a constraint makes no sense of the method's texts; None: it does, for each generation's own text."""

    @property
    def constrains_conclusion(self) -> bool:
        """Does the constraint hold for what stands behind a conclusion alone?"""
        return False

    @model_validator(mode="after")
    def _check_unconstrained(self) -> Self:
        if self.constraint is not None and self.unconstrained is not None and not self.constrains_conclusion:
            raise ValueError(f"{self.method} takes no constraint: {self.unconstrained}")
        return self

    @property
    def limit(self) -> int:
        """New tokens of one generation at most."""
        return self.bound if self.max_tokens is None else self.max_tokens

    def note_bound(self, ctx: Context) -> None:
        """A text ended at `limit`: say so in `Result.details` if nobody asked for that limit."""
        if self.max_tokens is None:
            ctx.state.details["bound"] = self.bound

    def check(self, engine: Engine) -> None:
        check_tokens("stop_token_ids", self.stop_token_ids, engine)
        if self.constraint is not None:
            engine.check_constraint(self.constraint.plain())
        self.check_prompt(self.tokens(engine.tokenizer), engine)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """What the root is opened with, but for contexts. Raises `InvalidInput` for a chat that cannot be rendered."""
        return prompt_tokens(self.prompt, tokenizer, chat=self.chat, system=self.system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """Those of a chat; empty for other prompts."""
        return chat_messages(self.prompt, chat=self.chat, system=self.system)

    def check_prompt(self, tokens: Sequence[int], engine: Engine) -> None:
        """Raise what is wrong with a prompt of these tokens and the method's contexts."""
        if not isinstance(self.prompt, str):
            check_tokens("prompt", tokens, engine)
        layout = self.lay_out(self.prompt, tokens, engine, self.messages)
        limit = min(self.context_limit or engine.context_limit, engine.context_limit)
        check_room(layout, limit, engine)

    def open(self, ctx: Context, tokens: Sequence[int], *, label: str = "") -> TracedBranch:
        """A root branch that has read a prompt of these tokens and the method's contexts with it."""
        layout = self.lay_out(self.prompt, tokens, ctx.engine, self.messages)
        if self.contexts:
            ctx.state.details["contexts"] = layout.details
        return ctx.open(layout.tokens, label=label, context_limit=self.context_limit, contexts=layout.parallel)

    def settings(self, engine: Engine) -> dict[str, Any]:
        return {"sampling": {**self._shape(engine), "max_tokens": self.limit}}

    def sampling(self, ctx: Context, **changes: Any) -> SamplingParams:
        """The fields as engine parameters, the model's own where they are None."""
        values: dict[str, Any] = {
            **self._shape(ctx.engine),
            "max_tokens": self.limit,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "constraint": None if self.constraint is None else self.constraint.plain(),
            "logprobs": 0 if self.logprobs and ctx.capabilities.logprobs else None,
        }
        return SamplingParams(**{**values, **changes})

    def _shape(self, engine: Engine) -> dict[str, Any]:
        """What shapes the distribution."""
        defaults = engine.sampling_defaults
        own = {one.name: getattr(self, one.name) for one in fields(defaults)}
        return {name: getattr(defaults, name) if value is None else value for name, value in own.items()}
