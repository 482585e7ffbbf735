"""What a job may set of `Hogwild`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...engine import Tokenizer
from ...spec import Several
from ..base import Decoding, Token
from ..prompt import chat_messages
from .finishers import CONCLUSION, FINISHERS, Accepts, TeamAnswer
from .policy import POLICIES, Layout, Policy
from .rules import Place, Rules, build_prompt
from .text import DEFAULT_NAMES, SELF_CHECK

MAX_WORKERS = 1000


def _names(value: Any) -> Any:
    """A number of workers stands for as many default names."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value > MAX_WORKERS:
        raise ValueError(f"{MAX_WORKERS} workers at most")
    return tuple(DEFAULT_NAMES[i] if i < len(DEFAULT_NAMES) else f"Worker {i + 1}" for i in range(value))


def _rules(value: Any) -> Any:
    """A path stands for the text of its file. A job in JSON holds the text: it cannot name files."""
    if not isinstance(value, Path):
        return value
    try:
        return value.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{value} cannot be read: {error}") from None


class HogwildFields(Decoding):
    """The fields; see `method.Hogwild`."""

    method: Literal["hogwild"] = "hogwild"
    """The method's name."""
    bound: ClassVar[int] = 8192
    unconstrained: ClassVar[str | None] = "its workers' steps stand among each other's, without an end of their own"
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """Forward passes at most, which are tokens that each worker samples; None: 8192."""
    workers: Annotated[Several[str], BeforeValidator(_names)] = Field(
        default=DEFAULT_NAMES[:2], min_length=1, max_length=MAX_WORKERS
    )
    """Names, or how many."""
    layout: Layout = "combined"
    """`combined`: steps of all in common, unfinished ones live; `interleaved`: others are seen step by step only;
    `contiguous`: everybody's whole text side by side, without steps."""
    policy: Literal["package", "repo"] = "package"
    """Which of the two published codes this runs as. `package`: an end of sequence ends the group. `repo`: a number
    sign, BOS, EOS and `</think>` cannot be sampled, so that no worker can leave its thoughts; a blank line ends a step
    inside code too; and other fields have other defaults: `self_check_every` 256, `max_step` None, `check_repeats` and
    `ban_impersonation` False, `accepts` "number", `conclusion_tokens` 16 (`policy.POLICIES`)."""
    rules: Annotated[bool | str, BeforeValidator(_rules)] = True
    """Instructions for the team: ours, which describe the layout in use; none; or a text of your own (in Python, also
    the path of its file), in which `{names}`, `{first}` (the first name), `{count}`, `{layout}` (how the text is laid
    out) and `{problem}` are filled in. Without `{problem}`, the problem follows behind a blank line."""
    rules_in: Place = "user"
    """Where they stand. `user`: in front of the problem; `system`: in a system message, which makes a text prompt a
    chat; `reply`: behind the prompt, where the reply begins."""
    headers: bool = True
    """Headings for past steps, the others' work and one's own; encoded on their own, without what stands before."""
    openers: Several[str] | None = None
    """What each worker's text begins with, its prefix included; None: a greeting, behind a blank line from the second
    worker on where there are more than two."""
    self_check: str = SELF_CHECK
    """Text put behind a step from time to time, to make workers notice what others have done."""
    self_check_every: int | None = Field(default=1024, ge=1)
    """Tokens of all workers after which the next step to be finished is followed by `self_check`. None: never."""
    check_repeats: bool = True
    """Put `self_check` behind a step in which a worker repeats itself, whenever that is."""
    max_step: int | None = Field(default=512, ge=1)
    """Sampled tokens after which a step is ended by force; twice as many inside code and mathematics."""
    ban_impersonation: bool = True
    """Where a worker begins to write another's step or workspace, or a heading, take that back and end its step by
    force; if it had said nothing yet, or there are no steps, let it say something else."""
    overflow: Literal["stop", "drop"] = "stop"
    """When the context is full: stop, or drop the oldest steps."""
    join_at: dict[str, int] = Field(default_factory=dict)
    """Worker -> forward passes after which it joins, or sooner where nobody else is left; the others begin at once."""
    leave_at: dict[str, int] = Field(default_factory=dict)
    """Worker -> forward passes after which it leaves, more than those of `join_at`; its text stays in sight."""
    answer: TeamAnswer = "boxed"
    """`boxed`, `code` (the last fenced block that compiles), `choice` (a letter), or another rule of `answers`: `text`,
    `countdown`, `regex:PATTERN`, ... A finished step with an answer ends the group (not `text`)."""
    accepts: Accepts = "mathematics"
    """What a box must hold to be an answer; others are passed over, and the rightmost that is left counts.
    `mathematics`: anything but prose, placeholders and dots; `number`: what Python reads as one; `any`."""
    conclusion: str | None = CONCLUSION
    """Text that makes the model answer when nobody has: everything is encoded anew as one sequence and decoded
    greedily behind it. None: leave it. `code` and `choice` have defaults of their own."""
    conclusion_tokens: int = Field(default=64, ge=1)
    """New tokens after `conclusion` at most (`code`: 1024, `choice`: 16); kept back from the budget and the context."""
    answer_at: Several[Annotated[int, Field(ge=1, strict=True)]] = ()
    """Forward passes after which to take an answer too, as the run would have given it with these `max_tokens`:
    `Result.details["answers"]`. Each may need a conclusion, for which budget is kept back."""
    resume: dict[str, tuple[Token, ...]] = Field(default_factory=dict)
    """Worker -> tokens it has sampled already (`sampled_tokens`). They are taken instead of sampling, so that the group
    goes on exactly as it would have: same passes, same views."""

    @property
    def fan_out(self) -> int:
        return len(self.workers)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Those of the policy and of the kind of answer."""
        if not isinstance(data, dict):
            return data
        values: dict[str, Any] = {}
        kind = data.get("answer")
        if isinstance(kind, str) and kind in FINISHERS and kind != "boxed":
            finisher = FINISHERS[kind]
            values = {"conclusion": finisher.conclusion, "conclusion_tokens": finisher.tokens}
        policy = POLICIES.get(str(data.get("policy")))
        return {**(policy.defaults if policy is not None else {}), **values, **data}

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
        for name, passes in self.leave_at.items():
            if passes <= self.join_at.get(name, 0):
                raise ValueError(f"leave_at: {name} joins after {self.join_at[name]} passes; it has to leave later")
        if self.openers is not None and len(self.openers) != len(self.workers):
            raise ValueError(f"{len(self.openers)} openers for {len(self.workers)} workers")
        if self.openers is not None and not self.headers and not all(self.openers):
            raise ValueError("without headers a worker with an empty opener has no text to go on from")
        if self.answer_at and max(self.answer_at) > self.limit:
            raise ValueError(f"answer_at: {max(self.answer_at)} is more than max_tokens, {self.limit}")
        self._check_rules()
        return self

    def _check_rules(self) -> None:
        if not isinstance(self.rules, str):
            return
        if not self.rules.strip():
            raise ValueError("rules: the text is empty; rules=False leaves the instructions out")
        if "{problem}" in self.rules and self.rules_in != "user":
            raise ValueError("rules: {problem} is filled in where the problem stands, so rules_in has to be 'user'")
        if not isinstance(self.prompt, str) and not self.messages:
            raise ValueError("rules: the prompt is token ids, which are taken as they are; put the rules into them")

    @property
    def messages(self) -> list[dict[str, str]]:
        """Those of a chat, with the rules in them."""
        chat = self.chat or (bool(self.rules) and self.rules_in == "system")
        return self._told.in_chat(chat_messages(self.prompt, chat=chat, system=self.system))

    @property
    def published(self) -> Policy:
        """What the published code does that the job runs as."""
        return POLICIES[self.policy]

    @property
    def has_steps(self) -> bool:
        return self.layout != "contiguous"

    def prompt_tokens(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens that all workers share."""
        return build_prompt(self.prompt, self.messages, self._told, tokenizer)

    @property
    def _told(self) -> Rules:
        return Rules(
            text=self.rules,
            place=self.rules_in,
            names=self.workers,
            layout=self.layout,
            has_headers=self.headers,
            has_past=self.published.has_past and self.headers and self.has_steps,
            answer=self.answer,
        )
