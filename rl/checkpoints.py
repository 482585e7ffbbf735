"""Checkpoints that a kill cannot spoil: written beside their place and moved there when they are whole."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.disk import sync_path
from ..runtime.errors import InvalidInput, PlaitError
from .processes import is_first

PREFIX = "checkpoint-"
STAGING = ".saving"
"""Folder in the output folder where what is being written is: a checkpoint, or a model."""
FULL = {"inline_container": "the disk takes no more", "iostream error": "the disk takes no more", "(os error ": ""}
"""What stands in the errors, none of them an `OSError`, of those who write files in C++ (torch) and Rust -> the reason,
where they do not give it."""

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class SafeCheckpoints(_Base):
    """A mixin for transformers' `Trainer`. A checkpoint is in the output folder whole or not at all, and the one
    before goes only when it is there. A run that goes on from behind its last step makes none.
    `train_loss` of one that goes on is the mean over all steps, too, or left out unless each loss was logged.

    Training and evaluating raise `PlaitError`, in every process, once a loss that is logged is not finite, or the
    weights where they would be written or given back are not."""

    _is_staging = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        self._check_weights()
        self._remove_old()  # One that goes on from behind its last step makes no checkpoint, and may find too many.
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):  # the mean over all processes
                raise self.diverged(f"the {name} is")
        if "train_loss" in logs and self._initial_global_step:
            # transformers takes the mean over the steps of this start.
            del logs["train_loss"]
            losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
            if len(losses) == self.state.global_step:
                logs["train_loss"] = sum(losses) / len(losses)
        super().log(logs, start_time)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        epochs, steps = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        self._note_best()
        # transformers asks how many steps there were only behind the next one.
        return (num_train_epochs if self.state.global_step >= max_steps else epochs), steps

    def _get_output_dir(self, trial: Any) -> str:
        assert self.args.output_dir is not None
        return str(Path(self.args.output_dir, STAGING)) if self._is_staging else self.args.output_dir

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        assert self.args.output_dir is not None
        out = Path(self.args.output_dir)
        name = f"{PREFIX}{self.state.global_step}"
        with saving(out) as staging:
            self._is_staging = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._is_staging = False
            self.accelerator.wait_for_everyone()
            self._note_best(name)
            if self.args.should_save:
                self.state.save_to_json(str(staging / name / "trainer_state.json"))
                publish(staging / name, out / name)
        self._remove_old()
        self.accelerator.wait_for_everyone()

    def _remove_old(self) -> None:
        """Keep so many checkpoints as are wanted, and the best one."""
        limit = self.args.save_total_limit
        if not self.args.should_save or limit is None or limit <= 0:
            return
        assert self.args.output_dir is not None
        found = checkpoints(Path(self.args.output_dir))
        best = Path(self.state.best_model_checkpoint or "").name
        for old in found[:-limit]:
            if old.name != best:
                remove(old)

    def _check_weights(self) -> None:
        import torch

        assert self.model is not None
        trained = (weight for weight in self.model.parameters() if weight.requires_grad)
        is_finite = all(bool(weight.isfinite().all()) for weight in trained)
        # Where the weights are divided among the processes, one alone may see it.
        if not self.accelerator.gather(torch.tensor([is_finite], device=self.accelerator.device)).all():
            raise self.diverged("weights are")

    def diverged(self, what: str) -> PlaitError:
        """The error for `what` is not finite."""
        assert self.args.output_dir is not None
        found = checkpoints(Path(self.args.output_dir))
        last = f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint"
        rate = f"with a learning_rate of {self.args.learning_rate:g}"
        return PlaitError(f"step {self.state.global_step}: {what} not finite any more, {rate}; {last}")

    def _note_best(self, written: str | None = None) -> None:
        """The best checkpoint is one of the output folder's. transformers takes it to be where it has just been
        `written`, and will not be, or where it was before the folder was moved."""
        assert self.args.output_dir is not None
        place = Path(self.args.output_dir, best := f"{PREFIX}{self.state.best_global_step}")
        if best == written or place.is_dir():
            self.state.best_model_checkpoint = str(place.absolute())


@contextmanager
def saving(out: Path) -> Iterator[Path]:
    """The folder in an output folder to write in what is then published; it goes in the end. Raises `InvalidInput`
    where the system does not let it be written: a disk is full, ..."""
    try:
        yield out / STAGING
    except Exception as error:
        said = str(error)
        reasons = [reason or said for mark, reason in FULL.items() if mark in said]
        if isinstance(error, OSError):
            reasons = [error.strerror or said]
        if not reasons:
            raise
        raise InvalidInput(f"cannot write {out}: {reasons[0]}") from error
    finally:
        if is_first():
            shutil.rmtree(out / STAGING, ignore_errors=True)


def publish(folder: Path, place: Path) -> None:
    """Move a folder to its place, in which nothing or an older one is, once all of it is on disk."""
    for path in (*folder.rglob("*"), folder):
        sync_path(path)
    if place.exists():
        remove(place)
    folder.replace(place)
    sync_path(place.parent)


def remove(folder: Path) -> None:
    """From an output folder, at once: a kill leaves nothing there that is not whole."""
    gone = folder.with_name(STAGING) / f"{folder.name}.gone"
    gone.parent.mkdir(exist_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)
    shutil.rmtree(gone)
    with suppress(OSError):  # There is something else in it.
        gone.parent.rmdir()


def checkpoints(out: Path) -> list[Path]:
    """Of an output folder, oldest first."""
    found = [p for p in out.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit() and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))
