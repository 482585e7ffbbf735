"""`Look`: accuracy on held-out problems while a training runs, decoded greedily."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...evals.benchmark import Sample
from ...evals.stats import wilson
from ...runtime.disk import replace_file, writing
from ...runtime.errors import PlaitError
from ..processes import is_first
from .config import HELD_OUT, HeldOut
from .rollouts import Request, Rollouts, failures

logger = logging.getLogger(__name__)


class Look(TrainerCallback):
    """Looks before the first step, each `every` steps, and after the last; by the first process alone."""

    def __init__(
        self, config: HeldOut, samples: Sequence[Sample], rollouts: Rollouts, metrics: dict[str, list[float]], out: Path
    ) -> None:
        """`metrics`: of the trainer, for its next log."""
        self.config = config
        self.samples = samples
        self.rollouts = rollouts
        self.metrics = metrics
        self.file = out / HELD_OUT

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if is_first() and self.file.exists():
            # What was looked at after the checkpoint is looked at again; a crash may have cut the last line.
            lines = self.file.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")] if state.global_step else []
            kept = [line for line in whole if json.loads(line)["step"] <= state.global_step]
            with writing(self.file):
                replace_file(self.file, b"".join(kept), sync=True)
        if state.global_step == 0:
            self._look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.config.every == 0 or state.global_step == state.max_steps:
            self._look(state.global_step)

    def _look(self, step: int) -> None:
        """Raises `PlaitError` if nothing could be judged, as a step does."""
        if not is_first():
            return
        began = time.perf_counter()
        self.rollouts.engine.refresh()
        benchmark = self.config.benchmark
        made = self.rollouts.run(
            [Request(benchmark=benchmark, sample=sample, seed=0, is_greedy=True) for sample in self.samples]
        )
        failed = failures(made)
        outcomes = [rollout.outcome for rollout in made if rollout.outcome is not None]
        if not outcomes:
            raise PlaitError(f"step {step}, held out: {failed}")
        if failed:
            logger.warning("step %d, held out: %s", step, failed)
        usages = [rollout.usage for rollout in made if rollout.usage is not None]
        right = int(sum(outcomes))
        found = {
            "accuracy": right / len(outcomes),
            "total_tokens": sum(usage.total_tokens for usage in usages) / max(len(usages), 1),
            "critical_tokens": sum(usage.critical_tokens for usage in usages) / max(len(usages), 1),
            "branches": sum(usage.branches for usage in usages) / max(len(usages), 1),
            "seconds": time.perf_counter() - began,
        }
        for name, value in found.items():
            self.metrics.setdefault(f"held_out/{name}", []).append(value)
        line = {"step": step, "right": right, "of": len(outcomes), "interval": wilson(right, len(outcomes)), **found}
        with writing(self.file), self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
