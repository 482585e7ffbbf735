"""What a worker's side of the protocol answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .messages import Report

Key = tuple[str, str]
"""Client and job."""


@dataclass(frozen=True, slots=True)
class Reply:
    key: Key
    report: Report


@dataclass(frozen=True, slots=True)
class Check:
    """Find out whether the job, which is long, can run here; what comes of it is told to the desk with the same
    epoch."""

    key: Key
    epoch: int
    job: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begin:
    """Run the job; what it does is told to the desk with the same epoch."""

    key: Key
    epoch: int
    job: dict[str, Any]
    watched: bool
    """Are its events to be told?"""


@dataclass(frozen=True, slots=True)
class Show:
    """Its events are to be told from now on."""

    key: Key
    epoch: int


@dataclass(frozen=True, slots=True)
class End:
    """Cancel the job, or its check."""

    key: Key
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Of what has been reported of the job, send no more."""

    key: Key


Action = Reply | Check | Begin | Show | End | Withdraw
