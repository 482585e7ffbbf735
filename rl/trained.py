"""`Trained`: how a run of any kind of training ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import end_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a run ended."""

    steps: int
    is_finished: bool
    """False: its time was up first."""
    losses: dict[int, float]
    """Step -> training loss, of all runs so far, where it was logged."""
    model: Path
    """The folder for `plait.Runtime`."""

    @classmethod
    def of(cls, state: Any, out: Path) -> Trained:
        """`state`: the trainer's."""
        return cls(
            steps=state.global_step,
            is_finished=state.global_step >= state.max_steps,
            losses={int(entry["step"]): float(entry["loss"]) for entry in state.log_history if "loss" in entry},
            model=out / "model",
        )

    def tell(self) -> None:
        """Leave the process group, and print a line in the first process."""
        if end_group():
            end = "done" if self.is_finished else "time is up, the same command goes on"
            print(f"{self.steps:,} steps, {end}; model: {self.model}")
