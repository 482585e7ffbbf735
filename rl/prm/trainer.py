"""`make_trainer`: TRL's `SFTTrainer` for models that say words, transformers' `Trainer` for classifiers of tokens.

TRL 1.16 has no trainer of process reward models any more; its earlier one trained a classifier of tokens, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Trainer, TrainingArguments

from ..checkpoints import SafeCheckpoints
from ..deadline import Deadline
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
) -> Trainer:
    """`trained`: in the order in which they are shown."""
    if not is_classifier:
        return make_word_trainer(model, args, tokenizer, trained, (), lora, max_minutes, eos_ids, batch_of)
    from datasets import Dataset

    pad = set_pad(tokenizer, eos_ids)
    if lora is not None:
        from peft import get_peft_model

        model = get_peft_model(model, lora)

    def gather(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        batch = batch_of([trained[row["number"]] for row in rows], pad)
        return {name: value for name, value in batch.items() if name != "shift_labels"}

    return ClassifierTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"number": range(len(trained))}),
        data_collator=gather,
        callbacks=[] if max_minutes is None else [Deadline(max_minutes)],
    )
