"""What the client's side of the protocol answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .messages import Message


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a worker, or (`worker` is None) for whoever takes the job."""

    job: str
    message: Message
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Began:
    """Events of a new epoch follow: what was heard of the job before does not count."""

    job: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Happened:
    job: str
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    job: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Given up: too many workers ended while they ran it."""

    job: str
    epochs: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Given up: what its worker reports is no message, however often it is sent."""

    job: str


Action = Send | Began | Happened | Answered | Lost | Unreadable
