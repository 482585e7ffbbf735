"""`make_trainer`: TRL's `SFTTrainer` for models that say words, transformers' `Trainer` for classifiers of tokens.

TRL 1.16 has no trainer of process reward models any more; its earlier one trained a classifier of tokens, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from ..adapters import check_adapter
from ..checkpoints import SafeCheckpoints
from ..deadline import Deadline
from ..samples import IGNORED
from ..trainer import make_trainer as make_word_trainer
from ..trainer import set_pad
from ..trainer_arguments import CheckedOptimizer
from .samples import Places, StepSample


class ClassifierTrainer(CheckedOptimizer, SafeCheckpoints, Trainer):
    """With checkpoints that a kill cannot spoil."""


def make_trainer(
    model: Any,
    args: TrainingArguments,
    tokenizer: Any,
    trained: Sequence[StepSample],
    lora: Any,
    max_minutes: float | None,
    eos_ids: Sequence[int],
    batch_of: Places,
    *,
    is_classifier: bool,
) -> SafeCheckpoints:
    """`trained`: in the order in which they are shown."""
    if not is_classifier:
        return make_word_trainer(model, args, tokenizer, trained, (), lora, max_minutes, eos_ids, batch_of)
    from datasets import Dataset

    pad = set_pad(tokenizer, eos_ids)
    if lora is not None:
        from peft import get_peft_model

        model = get_peft_model(model, lora)
        check_adapter(model)

    def gather(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        batch = batch_of([trained[row["number"]] for row in rows], pad)
        return {name: value for name, value in batch.items() if name != "shift_labels"}

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """All verdicts of a step weigh alike, however it is divided into batches: transformers' classifiers take the
        mean of each, and its trainer the sum of those."""
        logits, told = outputs["logits"].flatten(0, 1).float(), labels.flatten()
        count = (told != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        smoothing = args.label_smoothing_factor
        return cross_entropy(logits, told, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing) / count

    return ClassifierTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"number": range(len(trained))}),
        data_collator=gather,
        compute_loss_func=loss,
        callbacks=[] if max_minutes is None else [Deadline(max_minutes)],
    )
