"""What `SweBench` holds while an evaluation runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ....agents.repository import Repository
from ....agents.sandbox.base import Sandbox
from .grading import Baseline, CannotGrade, Grade, LocalGrader


@dataclass(slots=True, kw_only=True)
class Prepared:
    """One instance, ready for jobs and grading."""

    repository: Repository
    sandbox: Sandbox
    """With the instance's environment."""
    grader: LocalGrader | None = None
    """None: the official harness grades."""
    baseline: Baseline = Baseline()
    grades: dict[str, Grade] = field(default_factory=dict)
    """By patch."""


class Work:
    """Of one event loop."""

    def __init__(self, gradings: int) -> None:
        self.prepared: dict[str, Prepared] = {}
        """By id of the instance."""
        self.unusable: dict[str, CannotGrade] = {}
        """Why one whose tests do not run here is not."""
        self.has_docker: bool | None = None
        """None: not known yet."""
        self.slots = asyncio.Semaphore(gradings)
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, name: str) -> asyncio.Lock:
        """The lock of this name: what takes long is done once, whoever asks for it."""
        return self._locks.setdefault(name, asyncio.Lock())
