"""`plait train sft`: supervised training by TRL's `SFTTrainer` on tree-packed samples of texts, chats and traces.

What is trained is what is served: masks, positions and labels are those of the decoding that wrote the text or would
have written it (`samples.py`), and only what the model writes is trained. The output folder:

    config.json      what the run was begun with
    material.json    the number of processes and a digest of the data: with others no run goes on
    checkpoint-N/    whole or not there; the same command goes on from the last one, to the same losses
    trainer_state.json  the metrics of every step
    probe.json       with `[probe]`: what the model made of held-out prompts, before and after; traces in probe/
    adapter/         with `[lora]`: what peft loads (`AutoPeftModelForCausalLM`) on the model that was trained
    model/           what `plait.Runtime` loads, adapter merged
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..runtime.disk import write_whole
from ..runtime.engines.native.tokenizer import HFTokenizer
from ..runtime.errors import InvalidInput, UnsupportedModel
from ..runtime.methods.multiverse.dialects import DIALECTS
from .adapters import check_modules, check_patterns, lora_config, train_rows
from .checkpoints import checkpoints
from .config import SFTConfig
from .curriculum import mixed, shuffled
from .frames import enable
from .models import check_positions, load, publish_model, serving_tokenizer
from .packing import packed
from .probe import probe
from .run_folder import RunFolder
from .samples import Sample, collate
from .tags import save
from .texts import Samples, read_samples
from .trained import Trained
from .trainer_arguments import check_given, refused, trainer_arguments

PROBE = "probe.json"
OUTCOMES = (PROBE, "probe", "trainer_state.json")
"""Of `RunFolder`."""
MAY_CHANGE = ("max_minutes", "threads")
"""Fields that a run that goes on may have other values of."""


def run(fields: dict[str, Any], out: Path, fresh: bool) -> None:
    """The command."""
    train(SFTConfig(**fields), out, fresh=fresh).tell()


def train(config: SFTConfig, out: Path, *, fresh: bool = False) -> Trained:
    """Train, going on from the last checkpoint in `out`. `fresh`: begin anew.

    Raises `InvalidInput` before any work for what is wrong with the configuration, its data, or a folder that another
    configuration, other data or another number of processes made.
    """
    check_given(config)
    if config.muon and (config.lora is not None or "optim" in config.trainer):
        raise InvalidInput("muon: it trains whole matrices, so there is no [lora], and is the optimizer, so no `optim`")
    if config.curriculum and config.epochs > 1:
        raise InvalidInput(
            f"epochs: `curriculum` says how many passes there are, {len(config.curriculum)}; leave it out"
        )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    from trl.trainer.sft_config import SFTConfig as Arguments

    # What balances experts is a loss over texts with a mask of two dimensions.
    ours: dict[str, Any] = {
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "router_aux_loss_coef": 0.0,
    }
    folder = RunFolder(out=out, config=config, may_change=MAY_CHANGE, outcomes=OUTCOMES, fresh=fresh)
    anew = folder.begins_anew
    why = "" if any(source.held_out for source in config.data) else "there is nothing held out to evaluate on"
    args = trainer_arguments(Arguments, config, out, batch=1, unevaluated=why, anew=anew, **ours)
    lora = lora_config(config, "CAUSAL_LM")
    is_main = args.process_index == 0
    if is_main:
        folder.check()
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(config.seed)
    names = dict.fromkeys(tag for data in config.data for tag in DIALECTS[data.dialect].tags) if config.tags else ()
    model, hf_tokenizer, tags = load(config, AutoModelForCausalLM, list(names))
    tokenizer = serving_tokenizer(model, hf_tokenizer)
    trained, held_out, dropped = _samples(config, tokenizer, model)
    longest = _check_lengths(model, [*trained, *held_out])
    if any(sample.mask.is_moving for sample in (*trained, *held_out)):
        enable(model)
    if is_main:
        counts = f"{len(trained):,} samples to show, {len(held_out):,} held out, {dropped:,} left out"
        print(f"{counts}; {longest:,} tokens at most", flush=True)
    if lora is not None:
        if tags:
            train_rows(lora, model, tags)
        if anew:
            check_modules(lora, model)
    ask = _asked(config, held_out)
    is_probed = ask and is_main and (anew or not (out / PROBE).exists())
    if config.pack is not None:
        trained = packed(trained, config.pack)
        print(f"{len(trained):,} rows", flush=True)
    from .trainer import make_trainer

    with tempfile.TemporaryDirectory(prefix="plait-") as untrained:
        if is_probed:  # The trainer may put an adapter into it.
            save(model, hf_tokenizer, Path(untrained))
        with refused("trainer", "lora"):
            trainer = make_trainer(
                model,
                args,
                hf_tokenizer,
                trained,
                held_out,
                lora,
                config.max_minutes,
                tokenizer.eos_ids,
                collate,
                muon=config.muon,
            )
        if lora is not None and anew:
            check_patterns(trainer.accelerator.unwrap_model(trainer.model))
        with args.main_process_first():
            if is_main:
                folder.claim(args.world_size, map(bytes, [*trained, *held_out]))
            found = checkpoints(out)
        if is_probed:
            _probe(config, out, "before", ask, Path(untrained))
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    if held_out:
        trainer.log({"eval_loss": trainer.evaluate()["eval_loss"]})
    publish_model(trainer, out, hf_tokenizer, is_main)
    if ask and is_main:
        _probe(config, out, "after", ask, out / "model")
    trainer.accelerator.wait_for_everyone()
    return Trained.of(trainer.state, out)


def _samples(config: SFTConfig, tokenizer: HFTokenizer, model: Any) -> tuple[list[Sample], list[Sample], int]:
    """(in the order of training, held out, how many were left out)."""
    size = model.get_input_embeddings().num_embeddings
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    all_trained, all_held, dropped = Samples(), Samples(), 0
    for source in config.data:
        trained, held = read_samples(source, tokenizer, config.max_tokens, size, places).split(source.held_out)
        dropped += trained.dropped
        for whole, part in ((all_trained, trained), (all_held, held)):
            whole.parallel += part.parallel
            whole.sequential += part.sequential
    if not len(all_trained):
        why = f"{dropped:,} had more than {config.max_tokens:,} tokens, or nothing to learn among them"
        why += f", {len(all_held):,} are held out"
        raise InvalidInput(f"there is no sample to train on; {why}")
    if config.curriculum:
        order = mixed(len(all_trained), config.curriculum, config.seed)
    else:
        order = [(i, True) for i in shuffled(len(all_trained), config.epochs, config.seed)]
    forms = {True: all_trained.parallel, False: all_trained.sequential}
    return [forms[is_parallel][i] for i, is_parallel in order], all_held.parallel, dropped


def _check_lengths(model: Any, samples: list[Sample]) -> int:
    """Tokens of the longest. Raises where a model's windows would hide what a mask shows, or it has no such
    positions."""
    longest = max(map(len, samples))
    check_positions(model, max(int(sample.mask.positions.max(initial=0)) for sample in samples))
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    if window and "sliding_attention" in kinds and longest > window:
        raise UnsupportedModel(f"the model's layers see {window:,} tokens, a sample has {longest:,}: set max_tokens")
    return longest


def _asked(config: SFTConfig, held_out: list[Sample]) -> list[list[int]]:
    """Prompts of held-out samples."""
    if config.probe is None:
        return []
    if not held_out:
        raise InvalidInput("[probe] needs prompts: let a source of [[data]] have `held_out`")
    asked = held_out[: config.probe.prompts]
    return [sample.mask.token_ids[: int(sample.mask.is_sampled.argmax())] for sample in asked]


def _probe(config: SFTConfig, out: Path, when: str, asked: list[list[int]], model: Path) -> None:
    """Add a row to the file of probes."""
    assert config.probe is not None
    found = probe(config.probe, model, asked, out / "probe" / when, seed=config.seed)
    known = json.loads((out / PROBE).read_text(encoding="utf-8")) if (out / PROBE).exists() else {}
    write_whole(out / PROBE, json.dumps({**known, when: found.row()}, indent=1) + "\n", sync=True)
    share = f"{found.answered} of {found.prompts} held-out prompts get a well-formed block"
    print(f"{when}: {share}; {found.well_formed} of {found.blocks} blocks are", flush=True)
