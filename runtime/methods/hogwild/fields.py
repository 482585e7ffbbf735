"""What a job may set of `Hogwild`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..base import Decoding, Token
from ..sequential import AnswerRule
from .group import Layout
from .text import CONCLUSION, DEFAULT_NAMES, SELF_CHECK, build_prompt


def _names(value: Any) -> Any:
    """A number of workers stands for as many default names."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return tuple(DEFAULT_NAMES[i] if i < len(DEFAULT_NAMES) else f"Worker {i + 1}" for i in range(value))


class HogwildFields(Decoding):
    """The fields; see `method.Hogwild`."""

    method: Literal["hogwild"] = "hogwild"
    """The method's name."""
    bound: ClassVar[int] = 8192
    unconstrained: ClassVar[str | None] = "its workers' steps stand among each other's, without an end of their own"
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """Forward passes at most, which are tokens that each worker samples; None: 8192."""
    workers: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(default=DEFAULT_NAMES[:2], min_length=1)
    """Names, or how many."""
    layout: Layout = "combined"
    """`combined`: steps of all in common, unfinished ones live; `interleaved`: others are seen step by step only;
    `contiguous`: everybody's whole text side by side, without steps."""
    policy: Literal["package", "repo"] = "package"
    """`package`: an end of sequence ends the group. `repo`: number signs, BOS, EOS and `</think>` cannot be sampled, so
    that no worker can leave its thoughts or forge a heading. (The two published codes.)"""
    rules: bool = True
    """Put instructions for the team in front of a text or chat prompt."""
    headers: bool = True
    """Headings for past steps, the others' work and one's own; encoded on their own, without what stands before."""
    openers: tuple[str, ...] | None = None
    """What each worker's text begins with, its prefix included; None: a greeting."""
    self_check: str = SELF_CHECK
    """Text put behind a step from time to time, to make workers notice what others have done."""
    self_check_every: int | None = Field(default=1024, ge=1)
    """Tokens of all workers after which the next step to be finished is followed by `self_check`. None: never."""
    check_repeats: bool = True
    """Put `self_check` behind a step in which a worker repeats itself, whenever that is."""
    max_step: int | None = Field(default=512, ge=1)
    """Sampled tokens after which a step is ended by force; twice as many inside code and mathematics."""
    ban_impersonation: bool = False
    """End a worker's step by force where it begins to write under another worker's name."""
    overflow: Literal["stop", "drop"] = "stop"
    """When the context is full: stop, or drop the oldest steps."""
    join_at: dict[str, int] = Field(default_factory=dict)
    """Worker -> forward passes after which it joins; the others begin at once."""
    leave_at: dict[str, int] = Field(default_factory=dict)
    """Worker -> forward passes after which it leaves; its text stays in sight."""
    answer: AnswerRule = "boxed"
    """`text`, `boxed`, `countdown` or `regex:PATTERN`. A finished step with an answer ends the group (not `text`)."""
    conclusion: str | None = CONCLUSION
    """Text that makes the model answer when nobody has: everything is encoded anew as one sequence and decoded
    greedily behind it. None: leave it."""
    conclusion_tokens: int = Field(default=64, ge=1)
    """New tokens after `conclusion` at most; kept back from the budget and the context for it."""
    resume: dict[str, tuple[Token, ...]] = Field(default_factory=dict)
    """Worker -> tokens it has sampled already (`sampled_tokens`). They are taken instead of sampling, so that the group
    goes on exactly as it would have: same passes, same views."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.workers)) < len(self.workers) or not all(self.workers):
            raise ValueError("workers need different names")
        for name in (*self.join_at, *self.leave_at, *self.resume):
            if name not in self.workers:
                raise ValueError(f"no worker is called {name!r}; there are {', '.join(self.workers)}")
        if all(self.join_at.get(name, 0) > 0 for name in self.workers):
            raise ValueError("somebody has to begin: join_at makes all workers wait")
        if any(passes < 1 for passes in (*self.join_at.values(), *self.leave_at.values())):
            raise ValueError("join_at and leave_at count forward passes, from 1")
        if self.openers is not None and len(self.openers) != len(self.workers):
            raise ValueError(f"{len(self.openers)} openers for {len(self.workers)} workers")
        return self

    def prompt_tokens(self, tokenizer: Any, names: tuple[str, ...]) -> list[int]:
        """The tokens that all workers share."""
        with_past = self.headers and self.layout != "contiguous"
        return build_prompt(self.prompt, self.messages, names, tokenizer, with_rules=self.rules, with_past=with_past)
