"""Arguments of transformers' and TRL's trainers: those that our fields decide, and what they are if nobody says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..runtime.errors import InvalidInput
from .config import TrainConfig, arguments

T = TypeVar("T")

OURS = (
    "output_dir seed data_seed resume_from_checkpoint num_train_epochs train_sampling_strategy group_by_length "
    "remove_unused_columns dataset_kwargs dataset_text_field dataset_num_proc max_length packing packing_strategy "
    "padding_free eval_packing assistant_only_loss completion_only_loss truncation_mode eos_token pad_token "
    "chat_template_path shuffle_dataset model_init_kwargs use_cpu"
).split()
"""Those that `[trainer]` must not have."""


def check_given(config: TrainConfig) -> None:
    """Raises `InvalidInput` for arguments that our fields decide."""
    if given := set(OURS) & set(config.trainer):
        raise InvalidInput(f"[trainer]: {', '.join(sorted(given))}: decided by the training's other fields")


def trainer_arguments(cls: type[T], config: TrainConfig, out: Path, *, batch: int, **ours: Any) -> T:
    """For samples in the order in which they are given. `batch`: samples of a step, if nobody says; `ours`: further
    arguments that are decided. Raises `InvalidInput`."""
    import torch

    has_gpu = torch.cuda.is_available()
    defaults = {
        "per_device_train_batch_size": batch,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 100,
        "save_total_limit": 2,
        "report_to": "none",
        "bf16": has_gpu,
        "gradient_checkpointing": has_gpu,
        "dataloader_pin_memory": has_gpu,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
    }
    decided = {
        "output_dir": str(out),
        "seed": config.seed,
        "data_seed": config.seed,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": not has_gpu,
        **ours,
    }
    return arguments(cls, "trainer", config.trainer, decided, defaults)
