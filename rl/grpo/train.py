"""`train`: a run of GRPO from its configuration, or on from its last checkpoint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...evals.benchmark import Sample, check_samples
from ...evals.stats import wilson
from ...runtime.engines.native.engine import NativeEngine
from ...runtime.engines.native.gguf_tokenizer import load_tokenizer
from ...runtime.engines.native.loader import from_transformers
from ...runtime.engines.native.options import NativeOptions, read_options
from ...runtime.engines.registry import find_model
from ...runtime.errors import InvalidInput
from ..cli import CONFIG
from .batch import Shape
from .config import GRPOConfig
from .judges import JUDGES, Judge
from .packed import token_cost
from .rollouts import Request, Rollouts, sampled

DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "save_steps": 50,
    "lr_scheduler_type": "constant",
    "report_to": [],
    "bf16": False,
    "dataloader_pin_memory": False,
}
"""Of TRL's arguments, where a configuration does not say."""


def run(fields: dict[str, Any], out: Path, fresh: bool) -> None:
    """`plait train grpo`: a run goes on from its last checkpoint; `fresh` begins it anew."""
    config = GRPOConfig(**{**fields, "out": out})
    for old in out.glob("checkpoint-*") if fresh else ():
        shutil.rmtree(old)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    print(f"model: {train(config, resume=not fresh)}")


def train(config: GRPOConfig, resume: bool = False) -> Path:
    """Run it; returns the folder of the trained model. Raises `InvalidInput` for what is wrong, before any work."""
    last = last_checkpoint(config.out)
    if last is not None and not resume:
        raise InvalidInput(f"{config.out} holds a run already: resume it, or give another folder")
    samples = config.benchmark.load()
    check_samples(samples)
    if len(samples) < config.prompts:
        raise InvalidInput(f"{len(samples)} problems are not enough for steps of {config.prompts}")
    judge = JUDGES.find(config.benchmark.name)
    if config.credit == "per_thread" and judge is None:
        raise InvalidInput(f"credit per_thread: no judge for {config.benchmark.name}; {JUDGES.unknown('')}")
    sampled(config.method).build(config.benchmark, samples[0], None)
    held_out = [] if config.held_out is None else config.held_out.benchmark.load()
    try:
        return _train(config, samples, held_out, judge, last)
    finally:
        config.benchmark.close()
        if config.held_out is not None:
            config.held_out.benchmark.close()


def _train(
    config: GRPOConfig, samples: Sequence[Sample], held_out: Sequence[Sample], judge: Judge | None, last: Path | None
) -> Path:
    # Heavy, and no business of those who only read configurations.
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig as Arguments

    from .trainer import ThreadTrainer

    path = find_model(config.model).path
    if not path.is_dir():
        raise InvalidInput(f"{config.model} is a file: what is trained has to be a folder in Hugging Face's layout")
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(path)
    arguments = Arguments(
        **{
            **DEFAULTS,
            "use_cpu": not torch.cuda.is_available(),
            **config.trainer,
            "output_dir": str(config.out),
            "per_device_train_batch_size": config.prompts * config.group // config.chunks,
            "gradient_accumulation_steps": config.chunks,
            "num_generations": config.group,
            "max_steps": config.steps,
            "learning_rate": config.learning_rate,
            "seed": config.seed,
            # The only one whose sum is divided by what it is told: `batch.chunks` weighs the tokens.
            "loss_type": "dapo",
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
            "ignore_data_skip": True,
        }
    )
    # First: the engine's KV lies where the parameters lie now.
    model.to(arguments.device)
    engine = live_engine(model, path, config)
    rollouts = Rollouts(
        engine,
        config.method,
        budget=config.budget,
        timeout=config.timeout,
        concurrency=config.concurrency,
        mode=config.credit,
        judge=judge,
        latency=config.latency,
    )
    shape = Shape(
        share=config.share,
        token_cost=token_cost(engine.model.config.hidden_size, engine.model.config.intermediate_size),
        row_tokens=config.row_tokens,
        pass_tokens=config.pass_tokens,
        device=arguments.device,
    )
    trainer = ThreadTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [sample.question for sample in samples]}),
        processing_class=tokenizer,
        rollouts=rollouts,
        benchmark=config.benchmark,
        samples=samples,
        mode=config.credit,
        scale=config.scale,
        shape=shape,
        traces=config.out / "traces",
        traces_every=config.traces_every,
    )

    class Look(TrainerCallback):
        """Looks at the held-out problems."""

        def look(self, step: int) -> None:
            found = _look(config, rollouts, held_out, step)
            for name, value in found.items():
                trainer._metrics["train"][f"held_out/{name}"].append(value)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                self.look(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert config.held_out is not None
            if state.global_step % config.held_out.every == 0 or state.global_step == config.steps:
                self.look(state.global_step)

    if held_out:
        trainer.add_callback(Look())
    with rollouts:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model(str(config.out / "model"))
    return config.out / "model"


def live_engine(model: Any, path: Path, config: GRPOConfig) -> NativeEngine:
    """An engine on the parameters of the model that is trained. Raises `InvalidInput` for options it does not have, and
    for models whose layers look back through windows: the masks of rows have none."""
    known = [option.name for option in fields(NativeOptions)]
    if odd := [name for name in config.engine if name not in known]:
        raise InvalidInput(f"the native engine has no option {odd[0]!r}; known: {', '.join(known)}")
    options = NativeOptions(**read_options(config.engine))
    live = from_transformers(
        model, share=not config.packed, num_threads=options.num_threads, context_limit=options.context_limit
    )
    if any(layer.window is not None for layer in live.config.layers):
        raise InvalidInput(f"{config.model} looks back through windows, which the masks of shared rows do not have")
    return NativeEngine(live, load_tokenizer(path), options, name=config.model)


def last_checkpoint(out: Path) -> Path | None:
    """The latest checkpoint that is whole: the state of the trainer is the last thing that is written."""
    found = [path.parent for path in out.glob("checkpoint-*/trainer_state.json")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _look(config: GRPOConfig, rollouts: Rollouts, samples: Sequence[Sample], step: int) -> dict[str, float]:
    """Greedy accuracy on held-out problems, and what it took; also a line of `held_out.jsonl`."""
    assert config.held_out is not None
    began = time.perf_counter()
    rollouts.engine.refresh()
    made = rollouts.run(
        [Request(benchmark=config.held_out.benchmark, sample=sample, seed=0, is_greedy=True) for sample in samples]
    )
    outcomes = [rollout.outcome for rollout in made if rollout.outcome is not None]
    usages = [rollout.usage for rollout in made if rollout.usage is not None]
    right = int(sum(outcomes))
    found = {
        "accuracy": right / max(len(outcomes), 1),
        "total_tokens": sum(usage.total_tokens for usage in usages) / max(len(usages), 1),
        "critical_tokens": sum(usage.critical_tokens for usage in usages) / max(len(usages), 1),
        "branches": sum(usage.branches for usage in usages) / max(len(usages), 1),
        "seconds": time.perf_counter() - began,
    }
    line = {"step": step, "right": right, "of": len(outcomes), "interval": wilson(right, len(outcomes)), **found}
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / "held_out.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return found
