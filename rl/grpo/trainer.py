"""`ThreadTrainer`: TRL's `GRPOTrainer` over rollouts of any method, any number of sequences each.

What is TRL's own stays: its loop, optimiser, loss, metrics, logging and checkpoints. Private methods are replaced
(hence the exact version in `pyproject.toml`): where the batches come from, how log-probabilities are computed, which
tokens count as uncertain and which calls as off the policy, and what of a reference model is saved.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from ...evals.benchmark import Benchmark, Sample
from ...runtime.errors import InvalidInput, PlaitError
from ..checkpoints import SafeCheckpoints
from ..quiet import Quiet
from ..trainer_arguments import CheckedOptimizer
from . import credit
from .batch import Shape, chunks, credited, padded, scale_of
from .forest import Forest
from .packed import Layout, score
from .rollouts import Request, Rollout, Rollouts, failures, rollout_seed

logger = logging.getLogger(__name__)

REFERENCE = "reference.pt"
"""In a checkpoint, with `sync_ref_model`: the reference model's weights."""


class ThreadTrainer(Quiet, CheckedOptimizer, SafeCheckpoints, GRPOTrainer):
    """The data set only says how much there is: which problems a step takes follows from its number (`problems`), so
    that a run that goes on takes those that it would have taken."""

    def __init__(
        self,
        *args: Any,
        rollouts: Rollouts,
        benchmark: Benchmark,
        samples: Sequence[Sample],
        mode: credit.Mode,
        scale: credit.Scale,
        negative: float = 1.0,
        weights: credit.Weights = "calls",
        shape: Shape,
        traces: Path,
        traces_every: int,
        **kwargs: Any,
    ) -> None:
        """`traces`: folder of those of each `traces_every`-th step; 0: none."""
        kwargs["reward_funcs"] = _grade
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            own: Any = None if model is None else self.accelerator.unwrap_model(model).config.get_text_config()
            if hasattr(own, "output_router_logits"):
                own.output_router_logits = False  # They serve a loss that no mask of rows goes with.
        self._rollouts = rollouts
        self._benchmark = benchmark
        self._samples = samples
        self._mode = mode
        self._scale = scale
        self._negative = negative
        self._weights = weights
        self._shape = shape
        self._traces = traces
        self._traces_every = traces_every
        arguments: Any = self.args
        self._group: int = arguments.num_generations
        self._has_moving_reference: bool = arguments.sync_ref_model
        self._count: int = arguments.steps_per_generation
        self._period: int = self._count * self.num_iterations
        """Passes backward between two generations."""
        self._chunks: list[dict[str, Any]] = []
        self._layout: Any = None
        self._scored: Tensor | None = None

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        place = self._step % self._period
        # What the generator's state would be depends on whether the run has gone on since: dropout and noise must not.
        part = f"{self.args.seed} {self.state.global_step} {place % self._count} {self.accelerator.process_index}"
        torch.manual_seed(random.Random(part).getrandbits(63))
        if place == 0 or not self._chunks:
            self._chunks = self._roll_out(len(generation_batch) // self._group)
        return self._chunks[place % len(self._chunks)]

    def _roll_out(self, count: int) -> list[dict[str, Any]]:
        """A group of rollouts of each of `count` problems, as chunks that an optimiser step adds up. Raises
        `PlaitError`, in every process, if none of a step could be judged or recorded what it sampled: there is nothing
        to learn from."""
        began = time.perf_counter()
        self._rollouts.engine.refresh()
        step, seed = self.state.global_step, self.args.seed
        everybody = self.accelerator.num_processes
        place = (step // self.num_iterations * everybody + self.accelerator.process_index) * count
        requests = [
            Request(benchmark=self._benchmark, sample=sample, seed=rollout_seed(seed, at, sample.id, member))
            for at, sample in enumerate(problems(self._samples, seed, place, count), place)
            for member in range(self._group)
        ]
        made = self._rollouts.run(requests)
        everywhere = self._judged(made, step)
        groups = [made[at : at + self._group] for at in range(0, len(made), self._group)]
        generated = time.perf_counter()
        forest = Forest()
        calls = credited(forest, groups, self._mode, self._scale, self._negative, self._weights)
        total = sum(len(one.call.tokens) for one in calls)
        if not self._everywhere([total])[0]:
            raise PlaitError(
                f"step {step}: no rollout has a token with a log-probability: there is nothing to learn from"
            )
        if self.beta == 0.0 and not self._entropy_bonus_enabled:
            # Nothing is learnt where the advantage is 0; such rollouts count in the mean all the same.
            calls = [one for one in calls if one.advantage]
        (scale,) = self._most([scale_of(calls)])
        parts = chunks(forest, calls, self._count, everywhere, self._shape, scale)
        if self.accelerator.num_processes > 1:
            # What TRL gathers of each row has to be as long everywhere.
            own = torch.tensor([len(part["completion_ids"]) for part in parts], device=self._shape.device)
            longest = self.accelerator.gather(own).view(-1, len(parts)).amax(0).tolist()
            parts = [padded(part, count) for part, count in zip(parts, longest, strict=True)]
        if self.ref_model is not None:
            for part in parts:
                part["ref_per_token_logps"] = self.reference_logps(part["layout"])
        self._note(groups)
        self._note_totals(total, sum(len(one.call.tokens) for one in calls), parts)
        self._note_seconds({"rollouts": generated - began, "packing": time.perf_counter() - generated})
        if self._traces_every and step % self._traces_every == 0 and self.accelerator.is_main_process:
            self._keep(groups[0], step)
        return parts

    def _judged(self, made: Sequence[Rollout], step: int) -> float:
        """How many rollouts all processes made; says what failed of our own."""
        failed = failures(made)
        everywhere, judged = self._everywhere([len(made), sum(one.outcome is not None for one in made)])
        if not judged:
            raise PlaitError(f"step {step}: {failed}")
        if failed:
            logger.warning("step %d: %s", step, failed)
        return float(everywhere)

    def _everywhere(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, each of which has to ask."""
        own = torch.tensor(values, dtype=torch.float64, device=self._shape.device)
        found: list[float] = self.accelerator.reduce(own).tolist()
        return found

    def _most(self, values: Sequence[float]) -> list[float]:
        """As `_everywhere`, the maxima."""
        own = torch.tensor([values], dtype=torch.float64, device=self._shape.device)
        found: list[float] = self.accelerator.gather(own).amax(0).tolist()
        return found

    @torch.no_grad()
    def reference_logps(self, layout: Layout) -> Tensor:
        """Log-probabilities of a layout's tokens under the model that the run started from."""
        assert self.ref_model is not None
        return score(self.ref_model, layout)[0]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._layout = inputs["layout"]
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        # Only while the weights are still those that sampled.
        if self._step % self._period < self._count:
            assert self._scored is not None
            gap = (self._scored - inputs["old_per_token_logps"]).abs()[inputs["completion_mask"] > 0]
            total, count = self._everywhere([float(gap.sum()), len(gap)])
            (most,) = self._most([float(gap.max()) if len(gap) else 0.0])
            if count:
                self._metrics["train"]["importance/gap_mean"].append(total / count)
                self._metrics["train"]["importance/gap_max"].append(most)
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor, None]:
        with self.accelerator.autocast():
            logps, entropies = score(model, self._layout)
        self._scored = logps.detach()
        return logps, entropies, None

    # Masks are 0 and 1 in TRL; in ours are the tokens' weights, which say how much a token counts, not which.

    def get_high_entropy_mask(self, entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
        return super().get_high_entropy_mask(entropies, mask > 0, threshold)

    @staticmethod
    def get_off_policy_mask(
        advantages: Tensor,
        per_token_logps: Tensor,
        sampling_per_token_logps: Tensor,
        mask: Tensor,
        off_policy_threshold: float,
    ) -> Tensor:
        return GRPOTrainer.get_off_policy_mask(
            advantages, per_token_logps, sampling_per_token_logps, mask > 0, off_policy_threshold
        )

    # -- the reference model, where it follows the one that is trained ----------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._has_moving_reference and self.args.should_save:
            torch.save(self.accelerator.unwrap_model(self.ref_model).state_dict(), Path(output_dir, REFERENCE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[no-untyped-call]
        if self._has_moving_reference and checkpoint is not None:
            file = Path(checkpoint, REFERENCE)
            if not file.is_file():
                raise InvalidInput(f"{checkpoint} holds no reference model to go on with: --fresh begins anew")
            state = torch.load(file, map_location=self.accelerator.device, weights_only=True)
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(state)

    # -- what is told ------------------------------------------------------------------------------------------

    # The first process tells it, of all.

    def _note(self, groups: Sequence[Sequence[Rollout]]) -> None:
        """Means over rollouts or groups."""
        rollouts = [rollout for group in groups for rollout in group]
        usages = [rollout.usage for rollout in rollouts if rollout.usage is not None]
        values: dict[str, Sequence[float]] = {
            "accuracy": [rollout.outcome for rollout in rollouts if rollout.outcome is not None],
            "reward": [rollout.reward for rollout in rollouts if rollout.reward is not None],
            "rollout/generated_tokens": [usage.generated_tokens for usage in usages],
            "rollout/critical_tokens": [usage.critical_tokens for usage in usages],
            "rollout/branches": [usage.branches for usage in usages],
            "told_truth": [t.verdict for rollout in rollouts for t in rollout.told.values() if t.verdict is not None],
            "failed": [rollout.outcome is None for rollout in rollouts],
            "even_groups": [len({one.reward for one in group if one.reward is not None}) < 2 for group in groups],
        }
        totals = self._everywhere([sum(some) for some in values.values()])
        counts = self._everywhere([len(some) for some in values.values()])
        for name, total, count in zip(values, totals, counts, strict=True):
            if count:
                self._metrics["train"][name].append(total / count)

    def _note_totals(self, sampled: int, scored: int, parts: Sequence[dict[str, Any]]) -> None:
        totals = self._everywhere([sampled, scored, sum(part["layout"].num_tokens for part in parts)])
        names = ("rollout/sampled_tokens", "packing/scored_tokens", "packing/computed_tokens")
        for name, total in zip(names, totals, strict=True):
            self._metrics["train"][name].append(total)

    def _note_seconds(self, seconds: dict[str, float]) -> None:
        """Of the process that the others wait for."""
        for name, spent in zip(seconds, self._most(list(seconds.values())), strict=True):
            self._metrics["train"][f"seconds/{name}"].append(spent)

    def _keep(self, group: Sequence[Rollout], step: int) -> None:
        for number, rollout in enumerate(group[:2]):
            rollout.trace.save(self._traces / f"step-{step:05d}" / f"{number}.jsonl.gz")


def problems(samples: Sequence[Sample], seed: int, start: int, count: int) -> list[Sample]:
    """Numbers `start` to `start + count` of an endless sequence that goes through all samples, each time in an order of
    its own."""
    found: list[Sample] = []
    while len(found) < count:
        epoch, place = divmod(start + len(found), len(samples))
        order = list(samples)
        random.Random(f"{seed} {epoch}").shuffle(order)
        found += order[place : place + count - len(found)]
    return found


def _grade(**_: Any) -> list[float]:
    """TRL wants a function; rewards come with the rollouts."""
    raise AssertionError("rollouts are graded by their benchmark")
