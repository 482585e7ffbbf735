"""Arguments of transformers' and TRL's trainers: those that our fields decide, and what they are if nobody says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ..runtime.errors import InvalidInput, PlaitError
from .config import WRONG, TrainConfig, arguments

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

T = TypeVar("T")

OURS = (
    "output_dir seed data_seed resume_from_checkpoint num_train_epochs train_sampling_strategy group_by_length "
    "remove_unused_columns dataset_kwargs dataset_text_field dataset_num_proc max_length packing packing_strategy "
    "padding_free eval_packing assistant_only_loss completion_only_loss truncation_mode eos_token pad_token "
    "chat_template_path shuffle_dataset model_init_kwargs use_cpu ignore_data_skip save_only_model push_to_hub"
).split()
"""Those that `[trainer]` must not have: a run that goes on needs the optimizer and its place in the data, and what is
sent to a hub is first written over the output folder's `config.json`."""

IDLE = (
    "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token", "label_names",
    "length_column_name", "pad_to_multiple_of",
)  # fmt: skip
"""Those that would do nothing: nothing is sent to a hub, and batches are made here."""

EVALUATING = (
    "batch_eval_metrics", "bf16_full_eval", "do_eval", "eval_accumulation_steps", "eval_delay",
    "eval_do_concat_batches", "eval_steps", "eval_use_gather_object", "fp16_full_eval", "include_for_metrics",
    "per_device_eval_batch_size", "prediction_loss_only",
)  # fmt: skip
"""Those that do nothing where the trainer evaluates nothing."""

BEST = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")

LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "max_steps": 1,
    "logging_steps": 0,
    "eval_steps": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "adam_epsilon": 0,
    "neftune_noise_alpha": 0,
    "label_smoothing_factor": 0,
    "ddp_bucket_cap_mb": 1,
    "ddp_timeout": 1,
    "beta": 0,
    "epsilon": 0,
    "epsilon_high": 0,
    "delta": 1,
    "top_entropy_quantile": 0,
    "entropy_coef_delta": 0,
    "entropy_target": 0,
    "off_policy_mask_threshold": 0,
    "ref_model_sync_steps": 1,
    "ref_model_mixup_alpha": 0,
}
MOST = {"label_smoothing_factor": 1, "top_entropy_quantile": 1, "ref_model_mixup_alpha": 1}
"""Outside of these a trainer fails or trains something senseless, though the classes of arguments take it. What is an
argument's own default may be said."""


def check_given(config: TrainConfig) -> None:
    """Raises `InvalidInput` for arguments that our fields decide."""
    if given := set(OURS) & set(config.trainer):
        raise InvalidInput(f"[trainer]: {', '.join(sorted(given))}: decided by the training's other fields, or fixed")


def trainer_arguments(
    cls: type[T],
    config: TrainConfig,
    out: Path,
    *,
    batch: int,
    unevaluated: str,
    anew: bool,
    **ours: Any,
) -> T:
    """For samples in the order in which they are given. `batch`: samples of a step, if nobody says; `unevaluated`: why
    nothing is evaluated in between; empty: something may be; `anew`: does the run not go on? `ours`: further arguments
    that are decided. Raises `InvalidInput`."""
    import torch

    has_gpu = torch.cuda.is_available()
    defaults = {
        "per_device_train_batch_size": batch,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
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
    found: Any = checked_arguments(cls, config.trainer, decided, defaults)
    if unevaluated and (found.eval_strategy != "no" or found.eval_on_start):
        raise InvalidInput(f"[trainer]: eval_strategy, eval_on_start: {unevaluated}")
    if anew:
        check_idle(found, config.trainer, EVALUATING if unevaluated else ())
    return cast(T, found)


def checked_arguments(cls: type[T], given: dict[str, Any], ours: dict[str, Any], defaults: dict[str, Any]) -> T:
    """As `arguments` of `[trainer]`; raises `InvalidInput` also for what a trainer would fail by only later."""
    from transformers.utils.import_utils import is_liger_kernel_available

    found: Any = arguments(cls, "trainer", given, ours, defaults)
    hints = get_type_hints(cls)
    defaults_of = _defaults(cls)
    for name, value in given.items():
        if not _is_of(value, hints[name]):
            raise InvalidInput(f"[trainer]: {name}: {value!r} is no {getattr(hints[name], '__name__', hints[name])}")
        if isinstance(value, int | float) and value != defaults_of[name]:
            if name in LEAST and value < LEAST[name]:
                raise InvalidInput(f"[trainer]: {name} is {value}: {LEAST[name]} at least")
            if name in MOST and value > MOST[name]:
                raise InvalidInput(f"[trainer]: {name} is {value}: {MOST[name]} at most")
    if found.save_strategy == "steps" and found.save_steps <= 0:
        raise InvalidInput(f'[trainer]: save_steps is {found.save_steps}: save_strategy = "no" is for no checkpoints')
    _check_reports(getattr(found, "report_to", None) or [])
    if getattr(found, "use_liger_kernel", False) and not is_liger_kernel_available():
        raise InvalidInput("[trainer]: use_liger_kernel needs the package liger-kernel: pip install liger-kernel")
    _check_recomputing(found)
    return cast(T, found)


def check_idle(found: Any, given: dict[str, Any], idle: Collection[str]) -> None:
    """Raises `InvalidInput` for what would do nothing, beside `IDLE` those that are `idle`. For a run that begins: one
    that goes on may not leave out what it was begun with."""
    defaults_of = _defaults(type(found))
    changed = [name for name, value in given.items() if value != defaults_of[name]]
    best = [name for name in changed if name in BEST or (name == "save_strategy" and found.save_strategy == "best")]
    if best and found.eval_strategy == "no":
        raise InvalidInput(f"[trainer]: {', '.join(best)}: nothing is evaluated, so no checkpoint would be the best")
    if no_use := [name for name in changed if name in IDLE or name in idle]:
        raise InvalidInput(f"[trainer]: {', '.join(no_use)} would do nothing here; leave it out")
    if found.fp16 and found.use_cpu:
        raise InvalidInput("[trainer]: fp16 would do nothing on a CPU; leave it out")


def _defaults(cls: Any) -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(cls)
    }


def _check_recomputing(found: Any) -> None:
    """Raises `InvalidInput` for what torch would only be asked in the first step."""
    import torch
    from torch.utils.checkpoint import checkpoint

    known = {*signature(checkpoint).parameters, "preserve_rng_state"} - {"function", "args", "kwargs"}
    if unknown := set(found.gradient_checkpointing_kwargs or ()) - known:
        raise InvalidInput(f"[trainer]: gradient_checkpointing_kwargs: torch knows no {', '.join(sorted(unknown))}")
    if getattr(found, "activation_offloading", False) and not torch.cuda.is_available():
        raise InvalidInput("[trainer]: activation_offloading: there is no GPU to take anything from")


def _check_reports(names: list[str]) -> None:
    """Raises `InvalidInput` for what is not known, or not installed."""
    from transformers.integrations import integration_utils

    known: Any = integration_utils.get_reporting_integration_callbacks
    try:
        for callback in known(names):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InvalidInput(f"[trainer]: report_to: {error}") from None


@contextmanager
def refused(*tables: str) -> Iterator[None]:
    """What trainers say is wrong with arguments of these tables, by errors of many kinds, is `InvalidInput` here."""
    try:
        yield
    except PlaitError:
        raise
    except WRONG as error:
        raise InvalidInput(f"{', '.join(f'[{table}]' for table in tables)}: {error}") from error


class CheckedOptimizer(_Base):
    """A mixin for transformers' `Trainer`, which makes its batches, its optimizer and the schedule of its rate when it
    begins to train: what is wrong with the arguments of these, or not installed, is `InvalidInput`, and so are a pass
    over the samples without a batch, and a measure of the best checkpoint that there is not."""

    def get_train_dataloader(self) -> Any:
        with refused("trainer"):
            batches = super().get_train_dataloader()
            held_out = [] if self.eval_dataset is None else [self.get_eval_dataloader()]
        if not all(map(len, (batches, *held_out))):
            raise InvalidInput(
                "[trainer]: dataloader_drop_last, batches: all samples, or all that are held out, make no whole batch"
            )
        return batches

    def create_optimizer(self, model: Any = None) -> Any:
        with refused("trainer"):
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        with refused("trainer"):
            return super().create_scheduler(num_training_steps, optimizer)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        with refused("trainer"):
            return bool(super()._determine_best_metric(metrics, trial))


def _is_of(value: Any, hint: Any) -> bool:
    """Is a text, a number or a truth value what an argument is annotated with? Of all else nothing is said."""
    if type(value) not in (str, int, float, bool):
        return True
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    is_named = any(get_origin(kind) is Literal and value in get_args(kind) for kind in kinds)
    return is_named or type(value) in kinds or (type(value) is int and float in kinds)
