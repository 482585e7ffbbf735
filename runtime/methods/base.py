"""`Method`: the base of all reasoning methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ..engine import Engine, SamplingParams, Tokenizer
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Outcome
from ..spec import Spec
from .contexts import WithContexts, check_room
from .prompt import Prompt, chat_messages, prompt_tokens


class Method(Spec):
    """A way to reason, as data: construct it, send it as JSON, run it anywhere.

    A subclass sets `method: Literal["name"] = "name"`, is decorated with `register`, and runs on the operations of
    `Context` alone, so that it runs on any engine and inside any other method. Wrong fields raise `InvalidJob`.
    """

    method: str
    """The method's name; subclasses give it as the default of a `Literal`."""

    @abstractmethod
    async def run(self, ctx: Context) -> Outcome:
        """Reason. Model output, however odd, is never an exception; running out of budget is an outcome."""

    def check(self, engine: Engine) -> None:
        """Raise what is wrong with running this on `engine`: `PromptTooLong`, `UnsupportedByEngine`, `InvalidInput`.

        Called before any work.
        """


class Decoding(WithContexts, Method):
    """Fields of methods that decode from one prompt, which may come with contexts."""

    prompt: Prompt = Field(min_length=1)
    """What the model reads first: text as it stands, chat messages (`role`, `content`), or token ids as they are."""
    chat: bool = False
    """Put a text prompt as a user's message, through the model's chat template; messages always go through it."""
    system: str | None = None
    """System message in front of a chat; it makes a text prompt one."""
    max_tokens: int | None = Field(default=None, ge=1)
    """New tokens of one generation at most; None: as many as the context allows."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """0: off."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability; 1: off."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out tokens less likely than this share of the likeliest one; 0: off."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divides the logits of tokens that stand in the context already (multiplies negative ones); 1: off."""
    stop: tuple[str, ...] = ()
    """Strings that end a generation; they are cut off."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a generation, as an end of sequence does."""
    logprobs: bool = True
    """Record the model's log-probability of every sampled token in the trace, where the engine can."""
    context_limit: int | None = Field(default=None, ge=1)
    """Tokens one thread may span, prompt included; None: the engine's own limit."""

    def check(self, engine: Engine) -> None:
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
        layout = self.lay_out(self.prompt, tokens, engine.tokenizer, engine.capabilities, self.messages)
        limit = min(self.context_limit or engine.context_limit, engine.context_limit)
        check_room(layout, limit, engine.name, engine.context_limit)

    def open(self, ctx: Context, tokens: Sequence[int], *, label: str = "") -> TracedBranch:
        """A root branch that has read a prompt of these tokens and the method's contexts with it."""
        layout = self.lay_out(self.prompt, tokens, ctx.tokenizer, ctx.capabilities, self.messages)
        if self.contexts:
            ctx.state.details["contexts"] = layout.details
        return ctx.open(layout.tokens, label=label, context_limit=self.context_limit, contexts=layout.parallel)

    def sampling(self, ctx: Context, **changes: Any) -> SamplingParams:
        """The fields as engine parameters."""
        values: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "logprobs": 0 if self.logprobs and ctx.capabilities.logprobs else None,
        }
        return SamplingParams(**{**values, **changes})
