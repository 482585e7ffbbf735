"""`SampleTrainer`: TRL's `SFTTrainer` on samples, with checkpoints that a kill cannot spoil and a limit in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from .checkpoints import SafeCheckpoints
from .deadline import Deadline
from .samples import Sample, collate


class SampleTrainer(SafeCheckpoints, SFTTrainer):
    """`num_tokens` counts tokens, where TRL would count the cells of a mask that are true."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        before = self._total_train_tokens
        count = inputs.pop("num_tokens")
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        assert self.model is not None
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens = before + int(self.accelerator.gather_for_metrics(count).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in checkpoints: it asks the hub about the model each time."""

    def _send_telemetry(self) -> None:
        """None: whoever trains here has not asked for it."""


def make_trainer(
    model: Any,
    args: Any,
    tokenizer: Any,
    trained: Sequence[Sample],
    held_out: Sequence[Sample],
    lora: Any,
    max_minutes: float | None,
    eos_ids: Sequence[int],
) -> SampleTrainer:
    """`trained`: in the order in which they are shown."""
    from datasets import Dataset

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (eos_ids or (0,))[0]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)

    # What TRL sees are numbers: samples stay as they are.
    samples = [*trained, *held_out]
    numbers = Dataset.from_dict({"number": range(len(samples))})

    def gather(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        batch = [samples[row["number"]] for row in rows]
        return {**collate(batch, pad), "num_tokens": torch.tensor([sum(map(len, batch))])}

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
    for module in trainer.accelerator.unwrap_model(trainer.model).modules():
        if type(module).__name__ == "TrainableTokensWrapper":
            module.register_parameter("bias", None)  # TRL's head asks for it, and peft's wrapper has none.
    return trainer
