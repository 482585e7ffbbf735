"""`plait train prm`: a process reward model from steps with verdicts, in the form that the reward `PRM` loads.

The output folder is that of `plait train sft` with `verdicts.json`, how held-out steps are judged before and after, in
place of `probe.json`; `model/` holds `prm.json`, so that `TreeSearch(reward="prm:FOLDER")` needs nothing else.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from ...runtime.disk import write_whole
from ...runtime.errors import InvalidInput
from ...runtime.tokenizer import Tokenizer
from ...search.rewards.frames import check_tag
from ...search.rewards.prm import MARK
from ..adapters import check_modules, check_patterns, lora_config, train_rows
from ..checkpoints import SafeCheckpoints, checkpoints
from ..curriculum import shuffled
from ..models import check_positions, load, publish_model, serving_tokenizer
from ..run_folder import RunFolder
from ..trained import Trained
from ..trainer_arguments import check_given, refused, trainer_arguments
from .config import PRMConfig
from .reading import read_trajectories
from .samples import Places, StepSample, collate, count, step_samples
from .verdicts import judge, scores

VERDICTS = "verdicts.json"
OUTCOMES = (VERDICTS, "trainer_state.json")
"""Of `RunFolder`."""
MAY_CHANGE = ("max_minutes", "threads")
"""Fields that a run that goes on may have other values of."""


def run(fields: dict[str, Any], out: Path, fresh: bool) -> None:
    """The command."""
    train(PRMConfig(**fields), out, fresh=fresh).tell()


def train(config: PRMConfig, out: Path, *, fresh: bool = False) -> Trained:
    """Train, going on from the last checkpoint in `out`. `fresh`: begin anew.

    Raises `InvalidInput` before any work for what is wrong with the configuration, its data, or a folder that another
    configuration, other data or another number of processes made.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, set_seed

    from .trainer import make_trainer

    check_given(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    is_classifier = config.head == "classifier"
    folder = RunFolder(out=out, config=config, may_change=MAY_CHANGE, outcomes=OUTCOMES, fresh=fresh)
    anew = folder.begins_anew
    if anew and any(source.delimiters for source in config.data if source.kind != "traces"):
        raise InvalidInput("`delimiters` says where steps of traces end: `steps` are divided already; leave it out")
    args = _arguments(config, out, anew)
    lora = lora_config(config, "TOKEN_CLS" if is_classifier else "CAUSAL_LM")
    is_main = args.process_index == 0
    if is_main:
        folder.check()
    set_seed(config.seed)
    kind: Any = AutoModelForTokenClassification if is_classifier else AutoModelForCausalLM
    options = {"num_labels": 2, "id2label": {0: "bad", 1: "good"}} if is_classifier else {}
    tags = [config.step_tag] if config.tags and config.step_tag else []
    model, hf_tokenizer, added = load(config, kind, tags, **options)
    if lora is not None:
        if added:
            train_rows(lora, model, added)
        if anew:
            check_modules(lora, model)
    tokenizer = serving_tokenizer(model, hf_tokenizer)
    labels = (0, 1) if is_classifier else _word_ids(config, tokenizer)
    batch_of = collate(labels)
    trained, held_out = _samples(config, tokenizer)
    check_positions(model, max(map(len, [*trained, *held_out])) - 1)
    if is_main:
        told, good = count(trained)
        print(f"{told:,} steps to learn from, {good / told:.0%} good; {count(held_out)[0]:,} held out", flush=True)
    order = [trained[i] for i in shuffled(len(trained), config.epochs, config.seed)]
    with refused("trainer", "lora"):
        trainer = make_trainer(
            model, args, hf_tokenizer, order, lora, config.max_minutes, tokenizer.eos_ids, batch_of,
            is_classifier=is_classifier,
        )  # fmt: skip
    if lora is not None and anew:
        check_patterns(trainer.accelerator.unwrap_model(trainer.model))
    with args.main_process_first():
        if is_main:
            folder.claim(args.world_size, map(bytes, [*order, *held_out]))
        found = checkpoints(out)
    if is_main and not (out / VERDICTS).exists():
        _judge(out, "before", trainer, held_out, labels, batch_of)
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    if is_main:
        _judge(out, "after", trainer, held_out, labels, batch_of)
    publish_model(trainer, out, hf_tokenizer, is_main, {MARK: json.dumps(config.mark) + "\n"})
    return Trained.of(trainer.state, out)


def _arguments(config: PRMConfig, out: Path, anew: bool) -> Any:
    """TRL's, or for a classifier transformers'."""
    from transformers import TrainingArguments
    from trl.trainer.sft_config import SFTConfig

    why = "what is held out is judged before and after the training only"
    if config.head == "classifier":
        return trainer_arguments(TrainingArguments, config, out, batch=8, unevaluated=why, anew=anew)
    ours: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
    return trainer_arguments(SFTConfig, config, out, batch=8, unevaluated=why, anew=anew, **ours)


def _word_ids(config: PRMConfig, tokenizer: Tokenizer) -> tuple[int, int]:
    """Of bad and good. Raises `InvalidInput` for words that are not one token each."""
    ids = []
    for word in config.words:
        tokens = tokenizer.encode(word)[len(tokenizer.prefix_ids) :]
        if len(tokens) != 1:
            raise InvalidInput(f"{word!r} must be one token to tell good steps from bad, it is {len(tokens)}")
        ids += tokens
    bad, good = ids
    if bad == good:
        raise InvalidInput(f"{config.words[0]!r} and {config.words[1]!r} are the same token")
    return bad, good


def _samples(config: PRMConfig, tokenizer: Tokenizer) -> tuple[list[StepSample], list[StepSample]]:
    """(Trained, held out)."""
    if config.step_tag:
        check_tag(tokenizer, config.step_tag)
    frame = config.frame
    parts: tuple[list[StepSample], list[StepSample]] = ([], [])
    dropped = 0
    for part, some in zip(parts, read_trajectories(config.data), strict=True):
        found = [sample for one in some for sample in step_samples(frame, tokenizer, one)]
        judged = [short for sample in found if (short := sample.cut(config.max_tokens)).verdicts]
        dropped += len(found) - len(judged)
        part += judged
    if not parts[0]:
        why = f"{dropped:,} texts had no verdict within {config.max_tokens:,} tokens, {len(parts[1]):,} are held out"
        raise InvalidInput(f"there is no step to train on; {why}")
    return parts


def _judge(
    out: Path,
    when: str,
    trainer: SafeCheckpoints,
    held_out: list[StepSample],
    labels: tuple[int, int],
    batch_of: Places,
) -> None:
    """Add a row to the file of verdicts, if steps are held out. Raises `PlaitError` where their loss is not finite."""
    if not held_out:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = judge(list(scores(model, held_out, labels, batch_of, 0)))
    if not math.isfinite(found.loss):
        raise trainer.diverged("the loss of held-out steps is")
    known = json.loads((out / VERDICTS).read_text(encoding="utf-8")) if (out / VERDICTS).exists() else {}
    write_whole(out / VERDICTS, json.dumps({**known, when: found.row()}, indent=1) + "\n", sync=True)
    auc = "" if found.auc is None else f", AUC {found.auc:.3f}"
    print(f"{when}: {found.accuracy:.1%} of {found.steps:,} held-out steps judged right{auc}", flush=True)
