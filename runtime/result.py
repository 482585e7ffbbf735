"""What comes out of a generation (`Generated`), a method (`Outcome`) and a job (`Result`, `Usage`)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .errors import InvalidInput
from .plain import check_plain

if TYPE_CHECKING:
    from .trace.trace import Trace


class Finish(StrEnum):
    """Why a generation, a thread or a job ended. The first six are the engine's own (`engine.FinishReason`)."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    CONTEXT = "context"
    MEMORY = "memory"
    GANG = "gang"
    TOTAL_TOKENS = "total_tokens"
    """The budget's total, or this part's share of it, is used up."""
    CRITICAL_TOKENS = "critical_tokens"
    """The budget's critical path is used up."""
    DEADLINE = "deadline"
    """The budget's seconds are over."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """The engine raised an error."""

    @property
    def is_budget(self) -> bool:
        return self in (Finish.TOTAL_TOKENS, Finish.CRITICAL_TOKENS, Finish.DEADLINE)

    @property
    def is_truncated(self) -> bool:
        """Did something other than the model end it?"""
        return self not in (Finish.EOS, Finish.STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What one `TracedBranch.generate` produced; fields as in `engine.Completion`."""

    text: str
    token_ids: list[int]
    finish: Finish
    stop: str | int | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None
    hidden_state: list[float] | None = None
    certainty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method returns; the job adds usage and trace."""

    text: str
    """The text behind the prompt as it stands in the end: without what was rewound, with what was joined."""
    answer: str | None
    """None: the method found none."""
    finish: Finish
    details: dict[str, Any] = field(default_factory=dict)
    """JSON values particular to the method (votes, rounds)."""


def check_outcome(method: str, outcome: object) -> Outcome:
    """The outcome. Raises `InvalidInput`, naming the method, for what is none, or details that JSON cannot hold."""
    gave = f"the method {method!r} gave"
    if not isinstance(outcome, Outcome):
        raise InvalidInput(f"{gave} a {type(outcome).__name__}: it must be an Outcome")
    for name, kinds in _OUTCOME.items():
        if not isinstance(value := getattr(outcome, name), kinds):
            raise InvalidInput(f"{gave} an Outcome whose {name} is a {type(value).__name__}")
    try:
        # What a model wrote is in all of it, votes by answer too: half a surrogate pair is no fault of the method.
        check_plain({"details": outcome.details}, finite=False, whole=False)
        json.dumps(outcome.details)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{gave} an Outcome that JSON cannot hold: {error}") from None
    return outcome


_OUTCOME = {"text": str, "answer": str | None, "finish": Finish, "details": dict}
"""What the fields are."""


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a job cost."""

    prompt_tokens: int = 0
    """Tokens that root branches were opened with: the prompt and the children's messages."""
    generated_tokens: int = 0
    """Sampled tokens that stayed."""
    injected_tokens: int = 0
    """Tokens the runtime put into contexts after their prompt."""
    critical_tokens: int = 0
    """Generated and injected tokens on the longest dependent chain."""
    prefilled_tokens: int = 0
    """Tokens whose KV was computed from given text."""
    reused_tokens: int = 0
    """Tokens whose KV the engine found in its prefix index; KV shared by forks is not counted."""
    preemptions: int = 0
    """Times that a generation had to wait for KV blocks which older ones needed; it went on from where it stood."""
    drafted_tokens: int = 0
    """Guesses that the engine verified together with the token before them."""
    accepted_tokens: int = 0
    """Of those, the tokens that were sampled, each of which saved a forward pass."""
    rolled_back_tokens: int = 0
    """Tokens sampled past a stop string and dropped."""
    branches: int = 0
    peak_kv_blocks: int = 0
    """Most unique KV blocks seen held by the job; sampled when a generation ends, so a lower bound."""
    mean_kv_blocks: float = 0.0
    """Time-weighted mean of the same samples."""
    seconds: float = 0.0
    """Wall time from start to end."""
    phases: dict[str, float] = field(default_factory=dict)
    """Wall seconds during which a phase of the method was active somewhere; phases may overlap."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the method had to put up with: malformed sections, truncated or failed children, and generations that the
    model gave no numbers for (`non_finite_logits`)."""

    @property
    def total_tokens(self) -> int:
        """Generated plus injected: what `Budget.total_tokens` limits."""
        return self.generated_tokens + self.injected_tokens

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "counts": dict(self.counts), "total_tokens": self.total_tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `await job` gives."""

    text: str
    """As in `Outcome`."""
    answer: str | None
    finish_reason: Finish
    usage: Usage
    trace: Trace
    details: dict[str, Any] = field(default_factory=dict)
    """What the method adds: votes, rounds; `bound`, if its own bound on new tokens ended a text (`Decoding.bound`)."""

    def to_json(self) -> dict[str, Any]:
        """Everything but the trace."""
        return {
            "text": self.text,
            "answer": self.answer,
            "finish_reason": self.finish_reason.value,
            "usage": self.usage.to_json(),
            "details": self.details,
        }
