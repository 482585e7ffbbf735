"""`SampleTrainer`: TRL's `SFTTrainer` on samples, with checkpoints that a kill cannot spoil and a limit in minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, TypeVar

import torch
from transformers.trainer_pt_utils import LabelSmoother
from trl.trainer.sft_trainer import SFTTrainer

from ..runtime.errors import InvalidInput
from .adapters import check_adapter
from .checkpoints import SafeCheckpoints
from .deadline import Deadline
from .muon import MuonWithAdamW
from .quiet import Quiet
from .trainer_arguments import CheckedOptimizer, refused

S = TypeVar("S", bound=Sized)


class SampleTrainer(Quiet, CheckedOptimizer, SafeCheckpoints, SFTTrainer):
    """`num_tokens` counts tokens, where TRL would count the cells of a mask that are true. The trainer's state has
    the count, so that it is in checkpoints."""

    muon = False
    """Is Muon the optimizer?"""

    def create_optimizer(self, model: Any = None) -> Any:
        if not self.muon:
            return super().create_optimizer(model)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise InvalidInput("muon: it needs whole matrices, and FSDP and DeepSpeed divide them")
        args: Any = self.args
        with refused("trainer"):
            self.optimizer = MuonWithAdamW(
                self.accelerator.unwrap_model(self.model),
                lr=args.learning_rate,
                weight_decay=args.weight_decay,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
            )
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        count = inputs.pop("num_tokens")
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        assert self.model is not None
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self.state.num_input_tokens_seen += int(self.accelerator.gather_for_metrics(count).sum())
        self._metrics[mode]["num_tokens"] = [self.state.num_input_tokens_seen]
        return loss

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """They are counted with the loss."""


class SmootherInPlace(LabelSmoother):
    """Our labels stand where they are to come out; TRL has its smoother shift them."""

    def __call__(
        self, model_output: Any, labels: Any, shift_labels: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return super().__call__(model_output, labels, False, num_items_in_batch)  # type: ignore[no-untyped-call]


def make_trainer(
    model: Any,
    args: Any,
    tokenizer: Any,
    trained: Sequence[S],
    held_out: Sequence[S],
    lora: Any,
    max_minutes: float | None,
    eos_ids: Sequence[int],
    batch_of: Callable[[Sequence[S], int], dict[str, Any]],
    *,
    muon: bool = False,
) -> SampleTrainer:
    """`trained`: in the order in which they are shown. `batch_of`: a batch of samples, given the token to pad with."""
    from datasets import Dataset

    pad = set_pad(tokenizer, eos_ids)
    # What TRL sees are numbers: samples stay as they are.
    samples = [*trained, *held_out]
    numbers = Dataset.from_dict({"number": range(len(samples))})

    def gather(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        batch = [samples[row["number"]] for row in rows]
        return {**batch_of(batch, pad), "num_tokens": torch.tensor([sum(map(len, batch))])}

    trainer = SampleTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=numbers.select(range(len(trained))),
        eval_dataset=numbers.select(range(len(trained), len(samples))) if held_out else None,
        data_collator=gather,
        peft_config=lora,
        callbacks=[] if max_minutes is None else [Deadline(max_minutes)],
    )
    if lora is not None:
        check_adapter(trainer.accelerator.unwrap_model(trainer.model))
    trainer.muon = muon
    if trainer.label_smoother is not None:
        trainer.label_smoother = SmootherInPlace(epsilon=args.label_smoothing_factor)
    for module in trainer.accelerator.unwrap_model(trainer.model).modules():
        if type(module).__name__ == "TrainableTokensWrapper":
            module.register_parameter("bias", None)  # TRL's head asks for it, and peft's wrapper has none.
    return trainer


def set_pad(tokenizer: Any, eos_ids: Sequence[int]) -> int:
    """Give the tokenizer a token to pad with, if it has none; its id."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens((*eos_ids, 0)[0])
    return int(tokenizer.pad_token_id)
