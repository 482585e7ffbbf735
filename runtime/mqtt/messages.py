"""What is sent: one JSON object a message, the bytes of a chunk behind it on a line of their own.

Whatever arrives is hostile until `decode` has let it through.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from ..errors import InvalidInput
from ..mistakes import first_mistake
from ..plain import check_plain, whole
from ..printable import printable

MAX_ID = 64
MAX_CHUNKS = 100_000
MAX_EPOCH = 2**31
MAX_CAPACITY = 10_000
HELD_BYTES = 256
"""Of one job in a beat at most."""
MAX_MODEL = 100
"""Characters of the model's name in a beat, which has to fit into any packet."""
ID = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ID}}}")
"""What clients, workers and jobs may be called: a level of a topic without wildcards."""
UNSENDABLE = {"type": "unsendable"}
"""In the place of an event that no message can hold."""

Id = Annotated[str, Field(pattern=rf"^{ID.pattern}$")]
Number = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Place = Annotated[str, Field(max_length=2 * MAX_ID + 1)]
Epoch = Annotated[int, Field(ge=1, le=MAX_EPOCH, strict=True)]


class Malformed(InvalidInput):
    """Bytes that are no message of ours."""


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    check_plain(value)
    return value


class OfJob(Message):
    epoch: Epoch


class Offer(OfJob):
    type: Literal["offer"] = "offer"
    job: Annotated[dict[str, Any], AfterValidator(_plain)]
    """As `JobSpec` dumps it."""


class Grant(OfJob):
    type: Literal["grant"] = "grant"
    watched: bool = False
    """Does somebody read its events?"""


class Watch(OfJob):
    """Somebody reads its events now."""

    type: Literal["watch"] = "watch"


class Drop(OfJob):
    """Forget the job: its answer has arrived, or this worker is not to run it. Holds for older epochs too."""

    type: Literal["drop"] = "drop"


class Cancel(OfJob):
    type: Literal["cancel"] = "cancel"
    reason: Annotated[str, Field(max_length=1000)] = "cancelled"


class Resend(OfJob):
    type: Literal["resend"] = "resend"
    first: Number
    """The first event that is missing; all from there on are."""
    chunks: Annotated[tuple[Number, ...], Field(max_length=1000)] = ()
    """Missing chunks of the answer."""


class Report(OfJob):
    worker: Id


class Queued(Report):
    type: Literal["queued"] = "queued"


class Claim(Report):
    type: Literal["claim"] = "claim"


class Returned(Report):
    type: Literal["returned"] = "returned"


class Declined(Report):
    """It cannot run this job: its engine or its packages do not have what the job asks for."""

    type: Literal["declined"] = "declined"
    body: bytes = Field(default=b"", exclude=True)
    """The job's answer if no worker can run it."""


class Events(Report):
    type: Literal["events"] = "events"
    first: Number
    """Number of the first of these."""
    events: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Chunk(Report):
    type: Literal["chunk"] = "chunk"
    index: Number
    count: Annotated[int, Field(ge=1, le=MAX_CHUNKS, strict=True)]
    events: Number
    """Of the whole epoch."""
    body: bytes = Field(default=b"", exclude=True)


class Held(Message):
    """A job that a worker has."""

    client: Id
    job: Id
    epoch: Epoch
    events: Number = 0
    """Sent so far."""
    watched: bool = False
    chunks: Number = 0
    """Of the answer; 0: not there yet."""

    @property
    def place(self) -> str:
        """Of all jobs in order."""
        return f"{self.client}/{self.job}"


class Beat(Message):
    type: Literal["beat"] = "beat"
    capacity: Annotated[int, Field(ge=0, le=MAX_CAPACITY, strict=True)]
    """Jobs that run at once; 0: it takes no more."""
    free: Number
    model: str
    jobs: list[Held] = Field(default_factory=list)
    begin: Place = ""
    end: Place | None = None
    """`jobs` are all it has from the place `begin` on and before `end`: others are in other messages."""

    @model_serializer(mode="wrap")
    def _as_known(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A beat that is not divided is one that a client of an older version reads."""
        is_whole = not self.begin and self.end is None
        return {name: one for name, one in serialize(self).items() if not (is_whole and name in ("begin", "end"))}

    def covers(self, client: str, job: str) -> bool:
        """Would the worker list this job here if it had it?"""
        place = f"{client}/{job}"
        return self.begin <= place and (self.end is None or place < self.end)


M = TypeVar("M")
Order = Grant | Watch | Drop | Cancel | Resend | Offer
"""An offer to one worker: others have declined it."""
ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="type")])
REPORT: TypeAdapter[Queued | Claim | Returned | Declined | Events | Chunk] = TypeAdapter(
    Annotated[Queued | Claim | Returned | Declined | Events | Chunk, Field(discriminator="type")]
)
OFFER: TypeAdapter[Offer] = TypeAdapter(Offer)
BEAT: TypeAdapter[Beat] = TypeAdapter(Beat)


def encode(message: Message) -> bytes:
    head = message.model_dump_json().encode()
    return head + b"\n" + message.body if isinstance(message, Chunk | Declined) else head


def decode(kind: TypeAdapter[M], payload: bytes) -> M:
    """Raises `Malformed`."""
    head, _, body = payload.partition(b"\n")
    try:
        message = kind.validate_json(head)
    except ValidationError as error:
        # It may name fields and types of a stranger's.
        said = printable(" ".join(first_mistake(error).split()))
        raise Malformed(f"malformed message: {said[:200]}") from None
    if isinstance(message, Chunk):
        return message.model_copy(update={"body": body})
    if isinstance(message, Declined):
        return message.model_copy(update={"body": body})
    if body:
        raise Malformed("malformed message: there is something behind it")
    return message


def is_id(text: str) -> bool:
    return ID.fullmatch(text) is not None


def sendable(event: dict[str, Any], limit: int) -> tuple[dict[str, Any], int]:
    """What a message holds of an event that its reader takes, in at most `limit` bytes of JSON, and how many they are:
    the event, or that with its texts cut, or else something in its place, since events are numbered. Whole, it stands
    in the trace."""
    for is_cut in (False, True):
        said = _short(event, limit) if is_cut else event
        try:
            check_plain(said, only_json=True)
        except ValueError:
            continue
        size = len(json.dumps(said))
        if size <= limit:
            return said, size
    return UNSENDABLE, len(json.dumps(UNSENDABLE))


def _short(event: dict[str, Any], limit: int) -> dict[str, Any]:
    room = max(limit // 24, 16)
    cut = {name: whole(value[:room]) if isinstance(value, str) else value for name, value in event.items()}
    if isinstance(cut.get("arguments"), dict):
        cut["arguments"] = {}
    return cut
