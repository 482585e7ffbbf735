"""Typed events of a job."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from .errors import InvalidInput
from .mistakes import mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    type: ClassVar[str]
    job: str
    time: float
    """Seconds since the job started."""

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEvent(Event):
    branch: str
    """The branch's path, as `0.1.2`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    type: ClassVar[Literal["started"]] = "started"
    method: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchStarted(BranchEvent):
    type: ClassVar[Literal["branch_started"]] = "branch_started"
    parent: str | None
    """The branch it was forked from or spawned by."""
    label: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(BranchEvent):
    """What a branch wrote, as it comes: whole tokens. Where a stop string is kept (`include_stop`), the last of them
    may go on behind it, as in the branch and the trace; `Generated.text` ends with the string."""

    type: ClassVar[Literal["text"]] = "text"
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(BranchEvent):
    """One generation of the branch ended."""

    type: ClassVar[Literal["stopped"]] = "stopped"
    reason: str
    """A `Finish` value."""
    tokens: int
    """Sampled by this generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked(BranchEvent):
    type: ClassVar[Literal["forked"]] = "forked"
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(BranchEvent):
    type: ClassVar[Literal["merged"]] = "merged"
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(BranchEvent):
    """Results of other branches were put into this one as text."""

    type: ClassVar[Literal["joined"]] = "joined"
    children: tuple[str, ...]
    found: tuple[str, ...]
    """Those of the children that handed back a result."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored(BranchEvent):
    type: ClassVar[Literal["scored"]] = "scored"
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(BranchEvent):
    """The branch was given up before it ended by itself."""

    type: ClassVar[Literal["pruned"]] = "pruned"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(BranchEvent):
    type: ClassVar[Literal["tool_started"]] = "tool_started"
    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished(BranchEvent):
    type: ClassVar[Literal["tool_finished"]] = "tool_finished"
    tool: str
    ok: bool
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled(BranchEvent):
    """The model asked for a tool; whoever gave it the tools may run it."""

    type: ClassVar[Literal["tool_called"]] = "tool_called"
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEntered(BranchEvent):
    """What the branch belongs to, a state machine, went over into another state."""

    type: ClassVar[Literal["state_entered"]] = "state_entered"
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUsed(Event):
    type: ClassVar[Literal["budget"]] = "budget"
    total_tokens: int
    critical_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    type: ClassVar[Literal["done"]] = "done"
    answer: str | None
    reason: str
    total_tokens: int
    critical_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The job ended without a result; `cancelled` tells a cancellation from an error."""

    type: ClassVar[Literal["failed"]] = "failed"
    error: str
    cancelled: bool


AnyBranchEvent: TypeAlias = (
    BranchStarted
    | Text
    | Stopped
    | Forked
    | Merged
    | Joined
    | Scored
    | Pruned
    | ToolStarted
    | ToolFinished
    | ToolCalled
    | StateEntered
)
AnyEvent: TypeAlias = Started | AnyBranchEvent | BudgetUsed | Done | Failed
"""What a job tells: `event.type`, `isinstance` and `match` all say to a type checker which one it is."""

EVENT_TYPES: dict[str, type[AnyEvent]] = {cls.type: cls for cls in get_args(AnyEvent)}


def parse_event(data: dict[str, Any]) -> AnyEvent:
    """The event that `to_json` wrote; raises `InvalidInput` for anything else."""
    if not isinstance(data, dict):
        raise InvalidInput(f"an event is a JSON object, not {type(data).__name__}")
    cls = EVENT_TYPES.get(str(data.get("type")))
    if cls is None:
        raise InvalidInput(f"unknown event type {data.get('type')!r}; known: {', '.join(EVENT_TYPES)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "type"}
    try:
        return cls(**dict(_shape(cls.type).model_validate(values)))
    except ValidationError as error:
        where, what = mistakes(error)[0]
        raise InvalidInput(f"malformed {cls.type!r} event: {where[:80]}: {what}") from None


@cache
def _shape(kind: str) -> type[BaseModel]:
    """What the fields of an event from elsewhere must be: a reader's queue puts texts and counts together."""
    cls = EVENT_TYPES[kind]
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {
        one.name: (
            hints[one.name],
            ... if one.default_factory is MISSING else Field(default_factory=one.default_factory),
        )
        for one in dataclass_fields(cls)
    }
    return create_model(cls.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)
