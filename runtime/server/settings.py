"""`ServerSettings`: what a server allows, and for how long it waits."""

from __future__ import annotations

from random import uniform

from pydantic import Field, field_validator

from ..budget import Budget
from ..errors import InvalidInput
from ..methods.registry import METHODS
from ..spec import Spec

SAFE_METHODS = ("sequential", "self_consistency", "apr", "multiverse", "hogwild")
"""Those that do nothing but decode with the model that is served."""
SPREAD = 0.1
"""Part of a time limit by which it is longer at most."""


class ServerSettings(Spec):
    """Limits of `plait serve`. Wrong fields raise `InvalidInput`."""

    refusal = InvalidInput

    methods: tuple[str, ...] = SAFE_METHODS
    """Methods that clients may use. Others may run programs or load files: allow them to clients you trust."""
    max_body: int = Field(default=1 << 20, ge=1)
    """Bytes of a request's body at most."""
    max_running: int = Field(default=32, ge=1)
    """Jobs that run at the same time; more wait."""
    max_queued: int = Field(default=256, ge=0)
    """Jobs that wait at most; more are refused."""
    jobs_per_key: int = Field(default=16, ge=1)
    """Running and waiting jobs of one key, where its line does not say."""
    limits: Budget = Field(default_factory=lambda: Budget(total_tokens=100_000, seconds=600.0))
    """What one job may spend at most; less where it asks for less."""
    max_samples: int = Field(default=1024, ge=1)
    """Branches that a method's fields may ask for side by side (`n`, `width`, `workers`, `num_paths`), times those of a
    method inside it."""
    keep_jobs: int = Field(default=256, ge=0)
    """Ended jobs of `/v1/jobs` that are kept, the latest."""
    keep_seconds: float = Field(default=3600.0, ge=0)
    """For how long they are kept."""
    header_seconds: float = Field(default=10.0, gt=0)
    """In which a client has to send a request's headers."""
    body_seconds: float = Field(default=30.0, gt=0)
    """In which it has to send the body."""
    send_seconds: float = Field(default=30.0, gt=0)
    """In which it has to take the next part of an answer."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """For which running jobs may go on after SIGTERM."""
    max_connections: int = Field(default=2000, ge=1)
    """Open connections. One more takes the place of that which has waited longest for a request; is there none, it is
    answered 503."""

    @field_validator("methods")
    @classmethod
    def _know(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for name in methods:
            if METHODS.find(name) is None:
                raise ValueError(METHODS.unknown(name))
        return methods


def spread(seconds: float) -> float:
    """A time limit, or somewhat more: clients that came together are then not all turned away in one turn of the loop,
    and do not come again together."""
    return seconds * uniform(1, 1 + SPREAD)
