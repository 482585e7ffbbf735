"""`plait train sft`: supervised training by TRL's `SFTTrainer` on tree-packed samples of texts, chats and traces.

What is trained is what is served: masks, positions and labels are those of the decoding that wrote the text or would
have written it (`samples.py`), and only what the model writes is trained. The output folder:

    config.json      what the run was begun with
    checkpoint-N/    whole or not there; the same command goes on from the last one, to the same losses
    trainer_state.json  the metrics of every step
    probe.json       with `[probe]`: what the model made of held-out prompts, before and after; traces in probe/
    adapter/         with `[lora]`: what peft loads
    model/           what `plait.Runtime` loads, adapter merged
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..runtime.errors import InvalidInput, UnsupportedModel
from ..runtime.methods.multiverse.dialects import DIALECTS
from ..runtime.tokenizer import Tokenizer
from .checkpoints import checkpoints, replace_file
from .config import SFTConfig, arguments
from .curriculum import mixed, shuffled
from .frames import enable
from .models import load, lora_config, publish_model, rows, serving_tokenizer
from .probe import probe
from .processes import end_group
from .run_folder import claim
from .samples import Sample, collate
from .tags import save
from .texts import Samples, read_samples

if TYPE_CHECKING:
    from .trainer import SampleTrainer

PROBE = "probe.json"
MAY_CHANGE = ("max_minutes", "threads", "probe")
"""Fields that a run that goes on may have other values of."""
OURS = (
    "output_dir seed data_seed resume_from_checkpoint num_train_epochs train_sampling_strategy group_by_length "
    "remove_unused_columns dataset_kwargs dataset_text_field dataset_num_proc max_length packing packing_strategy "
    "padding_free eval_packing assistant_only_loss completion_only_loss truncation_mode eos_token pad_token "
    "chat_template_path shuffle_dataset model_init_kwargs use_cpu"
).split()
"""Arguments of TRL that our fields decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a run ended."""

    steps: int
    is_finished: bool
    """False: its time was up first."""
    losses: dict[int, float]
    """Step -> training loss, of all runs so far, where it was logged."""
    model: Path
    """The folder for `plait.Runtime`."""


def run(fields: dict[str, Any], out: Path, fresh: bool) -> None:
    """The command."""
    done = train(SFTConfig(**fields), out, fresh=fresh)
    if not end_group():
        return
    end = "done" if done.is_finished else "time is up, the same command goes on"
    print(f"{done.steps:,} steps, {end}; model: {done.model}")


def train(config: SFTConfig, out: Path, *, fresh: bool = False) -> Trained:
    """Train, going on from the last checkpoint in `out`. `fresh`: begin anew.

    Raises `InvalidInput` before any work for what is wrong with the configuration, its data, or a folder that another
    configuration made.
    """
    given = set(OURS) & set(config.trainer)
    if given:
        raise InvalidInput(f"[trainer]: {', '.join(sorted(given))}: decided by the training's other fields")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    args = _arguments(config, out)
    lora = lora_config(config, "CAUSAL_LM")
    is_main = args.process_index == 0
    if is_main:
        claim(config, out, may_change=MAY_CHANGE, outcomes=[PROBE], fresh=fresh)
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(config.seed)
    names = dict.fromkeys(tag for data in config.data for tag in DIALECTS[data.dialect].tags) if config.tags else ()
    model, hf_tokenizer, tags = load(config, AutoModelForCausalLM, list(names))
    tokenizer = serving_tokenizer(model, hf_tokenizer)
    trained, held_out, dropped = _samples(config, tokenizer)
    longest = _check_lengths(model, [*trained, *held_out])
    if any(sample.mask.is_moving for sample in (*trained, *held_out)):
        enable(model)
    if is_main:
        counts = f"{len(trained):,} samples to show, {len(held_out):,} held out, {dropped:,} too long"
        print(f"{counts}; {longest:,} tokens at most", flush=True)
    if lora is not None and tags:
        lora.trainable_token_indices = rows(model, tags)
    ask = _asked(config, held_out)
    if ask and is_main and not (out / PROBE).exists():
        _probe(config, out, "before", ask, model=model, tokenizer=hf_tokenizer)
    from .trainer import make_trainer

    with args.main_process_first():
        found = checkpoints(out)
    trainer = make_trainer(
        model, args, hf_tokenizer, trained, held_out, lora, config.max_minutes, tokenizer.eos_ids, collate
    )
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    done = _finish(trainer, out, hf_tokenizer, is_main)
    if ask and is_main:
        _probe(config, out, "after", ask)
    trainer.accelerator.wait_for_everyone()
    return done


def _samples(config: SFTConfig, tokenizer: Tokenizer) -> tuple[list[Sample], list[Sample], int]:
    """(in the order of training, held out, how many were too long)."""
    all_trained, all_held, dropped = Samples(), Samples(), 0
    for source in config.data:
        trained, held = read_samples(source, tokenizer, config.max_tokens).split(source.held_out)
        dropped += trained.dropped
        for whole, part in ((all_trained, trained), (all_held, held)):
            whole.parallel += part.parallel
            whole.sequential += part.sequential
    if not len(all_trained):
        raise InvalidInput(f"there is no sample to train on; {dropped:,} had more than {config.max_tokens:,} tokens")
    if config.curriculum:
        order = mixed(len(all_trained), config.curriculum, config.seed)
    else:
        order = [(i, True) for i in shuffled(len(all_trained), config.epochs, config.seed)]
    forms = {True: all_trained.parallel, False: all_trained.sequential}
    return [forms[is_parallel][i] for i, is_parallel in order], all_held.parallel, dropped


def _check_lengths(model: Any, samples: list[Sample]) -> int:
    """Tokens of the longest. Raises where a model's windows would hide what a mask shows."""
    longest = max(map(len, samples))
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    if window and "sliding_attention" in kinds and longest > window:
        raise UnsupportedModel(f"the model's layers see {window:,} tokens, a sample has {longest:,}: set max_tokens")
    return longest


def _arguments(config: SFTConfig, out: Path) -> Any:
    """TRL's. What it warns of by printing is left to it."""
    from trl.trainer.sft_config import SFTConfig as Arguments

    has_gpu = torch.cuda.is_available()
    defaults = {
        "per_device_train_batch_size": 1,
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
    ours = {
        "output_dir": str(out),
        "seed": config.seed,
        "data_seed": config.seed,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "use_cpu": not has_gpu,
    }
    return arguments(Arguments, "trainer", config.trainer, ours, defaults)


def _asked(config: SFTConfig, held_out: list[Sample]) -> list[list[int]]:
    """Prompts of held-out samples."""
    if config.probe is None:
        return []
    if not held_out:
        raise InvalidInput("[probe] needs prompts: let a source of [[data]] have `held_out`")
    asked = held_out[: config.probe.prompts]
    return [sample.mask.token_ids[: int(sample.mask.is_sampled.argmax())] for sample in asked]


def _probe(
    config: SFTConfig, out: Path, when: str, asked: list[list[int]], model: Any = None, tokenizer: Any = None
) -> None:
    """Add a row to the file of probes. `model`: one that is not saved yet."""
    assert config.probe is not None
    with tempfile.TemporaryDirectory(prefix="plait-") as temporary:
        folder = out / "model"
        if model is not None:
            folder = Path(temporary)
            save(model, tokenizer, folder)
        found = probe(config.probe, folder, asked, out / "probe" / when, seed=config.seed)
    known = json.loads((out / PROBE).read_text(encoding="utf-8")) if (out / PROBE).exists() else {}
    replace_file(out / PROBE, json.dumps({**known, when: found.row()}, indent=1) + "\n")
    share = f"{found.answered} of {found.prompts} held-out prompts get a well-formed block"
    print(f"{when}: {share}; {found.well_formed} of {found.blocks} blocks are", flush=True)


def _finish(trainer: SampleTrainer, out: Path, tokenizer: Any, is_main: bool) -> Trained:
    """Save what there is to serve."""
    if trainer.eval_dataset is not None and len(trainer.eval_dataset):  # type: ignore[arg-type]
        trainer.log({"eval_loss": trainer.evaluate()["eval_loss"]})
    state = trainer.state
    losses = {int(entry["step"]): float(entry["loss"]) for entry in state.log_history if "loss" in entry}
    done = Trained(
        steps=state.global_step,
        is_finished=state.global_step >= state.max_steps,
        losses=losses,
        model=out / "model",
    )
    publish_model(trainer, out, tokenizer, is_main)
    return done
