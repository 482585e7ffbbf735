"""`Deadline`: ends a training when its minutes are over."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Deadline(TrainerCallback):
    """Ends the training with a checkpoint; the first process decides for all."""

    def __init__(self, minutes: float, every: int = 1) -> None:
        """`every`: only behind a step whose number is a multiple of it."""
        self.minutes = minutes
        self.every = every
        self.began = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every:
            return
        is_over = time.monotonic() - self.began > 60 * self.minutes
        if torch.distributed.is_initialized():
            told = [is_over]
            torch.distributed.broadcast_object_list(told)
            is_over = told[0]
        if is_over:
            control.should_save = control.should_training_stop = True
