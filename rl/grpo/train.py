"""`train`: a run of GRPO from its configuration, or on from its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...evals.benchmark import Benchmark, Sample, read_problems
from ...evals.environment import digest, samples_digest
from ...runtime.engines.native.engine import NativeEngine
from ...runtime.engines.native.gguf_tokenizer import load_tokenizer
from ...runtime.engines.native.loader import from_transformers
from ...runtime.engines.native.options import NativeOptions
from ...runtime.engines.registry import find_model, last_part
from ...runtime.errors import InvalidInput, PromptTooLong
from ...runtime.methods.base import Method
from ...runtime.methods.contexts import WithContexts
from ...runtime.methods.hogwild.method import Hogwild
from ...runtime.methods.nesting import all_methods
from ...runtime.methods.sequential import Answering
from ...runtime.plugins import blaming
from ..capped import attention
from ..checkpoints import checkpoints, publish, saving
from ..models import loading, tokenizer_of
from ..processes import is_first
from ..run_folder import RunFolder
from ..trained import Trained
from ..trainer_arguments import EVALUATING, check_idle, checked_arguments, refused
from .batch import Shape
from .config import HELD_OUT, GRPOConfig
from .curve import CURVE, draw
from .judges import JUDGES, Judge
from .packed import token_cost
from .rollouts import Rollouts, sampled

DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_steps": 50,
    "lr_scheduler_type": "constant",
    "report_to": [],
    "bf16": False,
    "dataloader_pin_memory": False,
}
"""Of TRL's arguments, where a configuration does not say."""

TRACES = "traces"
"""In the output folder."""
OUTCOMES = (HELD_OUT, CURVE, TRACES)
"""Of `RunFolder`."""
MAY_CHANGE = ("max_minutes", "threads", "steps", "traces_every", "concurrency")
"""Fields that a run that goes on may have other values of."""


def run(fields: dict[str, Any], out: Path, fresh: bool) -> None:
    """The command."""
    train(GRPOConfig(**fields), out, fresh=fresh).tell()


def train(config: GRPOConfig, out: Path, *, fresh: bool = False) -> Trained:
    """Train, going on from the last checkpoint in `out`. `fresh`: begin anew.

    The output folder holds `config.json`, checkpoints, `held_out.jsonl`, `traces/`, in the end `model/` and, with
    matplotlib, `learning_curve.svg`. Raises `InvalidInput` before any work for what is wrong with the configuration, or
    for a folder that another one, other problems or another number of processes made.
    """
    judge = JUDGES.find(config.benchmark.name)
    if config.credit == "per_thread" and judge is None:
        raise InvalidInput(f"credit per_thread: no judge for {config.benchmark.name}; {JUDGES.unknown('')}")
    options = NativeOptions.of(config.engine)
    path = find_model(config.model).path
    if not path.is_dir():
        raise InvalidInput(f"{config.model} is a file: what is trained has to be a folder in Hugging Face's layout")
    samples = read_problems(config.benchmark)  # perhaps from the hub
    if len(samples) < config.prompts:
        raise InvalidInput(f"{len(samples)} problems are not enough for steps of {config.prompts}")
    method = sampled(config.method).build(config.benchmark, samples[0], None)
    _check_trainable(method)
    if config.credit == "tree":
        _check_graded(method)
    held_out = [] if config.held_out is None else read_problems(config.held_out.benchmark)
    arguments = _arguments(config, out)
    folder = RunFolder(out=out, config=config, may_change=MAY_CHANGE, outcomes=OUTCOMES, fresh=fresh)
    if folder.begins_anew:
        check_idle(arguments, config.trainer, EVALUATING)
    if is_first():
        folder.check()
    try:
        return _train(config, folder, path, options, arguments, samples, held_out, judge)
    finally:
        config.benchmark.close()
        if config.held_out is not None:
            config.held_out.benchmark.close()


def _check_trainable(method: Method) -> None:
    """Raises `InvalidInput` for methods whose texts see what no mask of rows can say (see `Forest`), or are not drawn
    from the model's own distribution, of which the log-probabilities are."""
    for one in all_methods(method):
        if getattr(one, "constraint", None) is not None:
            raise InvalidInput(f"{one.method}: texts under a constraint are not the model's own choice; leave it out")
        if getattr(one, "tool_choice", "auto") not in ("auto", "none"):
            raise InvalidInput(f"{one.method}: calls that have to be are not the model's own choice: tool_choice")
        is_apart = getattr(one, "encoding", "sequential") != "sequential"
        if isinstance(one, WithContexts):
            is_apart = bool(one.contexts) and is_apart and (one.encoding == "parallel" or len(one.contexts) > 1)
        if isinstance(one, Hogwild):
            raise InvalidInput("hogwild cannot be trained this way: no mask of rows says what others write meanwhile")
        if is_apart:
            raise InvalidInput(
                f'{one.method}: parallel contexts cannot be trained this way; set encoding = "sequential"'
            )


def _check_graded(method: Method) -> None:
    """Raises `InvalidInput` for methods whose samples or steps another one writes: by its own rules, in branches that
    are no leaves of a tree of theirs."""
    if isinstance(method, Answering) and getattr(method, "generator", None) is not None:
        raise InvalidInput(
            f"credit tree: nothing grades what the generator of {method.method} writes; take another credit"
        )


def _arguments(config: GRPOConfig, out: Path) -> Any:
    import torch
    from trl.trainer.grpo_config import GRPOConfig as Arguments

    ours = {
        "output_dir": str(out),
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
        # What balances experts is a loss over whole texts; rows hold parts of them.
        "router_aux_loss_coef": 0.0,
    }
    defaults = {**DEFAULTS, "use_cpu": not torch.cuda.is_available()}
    return checked_arguments(Arguments, config.trainer, ours, defaults)


def _train(
    config: GRPOConfig,
    folder: RunFolder,
    path: Path,
    options: NativeOptions,
    arguments: Any,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    judge: Judge | None,
) -> Trained:
    # Heavy, and no business of those who only read configurations.
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.trainer import TRAINING_ARGS_NAME

    from ..deadline import Deadline
    from .look import Look
    from .trainer import ThreadTrainer

    out = folder.out
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with loading(config.model):
        tokenizer = tokenizer_of(path)
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention(path)
        )
    # First: the engine's KV lies where the parameters lie now.
    model.to(arguments.device)
    engine = live_engine(model, path, options, packed=config.packed)
    _check_runs(config, samples, engine)
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
    with refused("trainer"):
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
            negative=config.negative,
            weights=config.weights,
            shape=shape,
            traces=out / TRACES,
            traces_every=config.traces_every,
        )
    if config.held_out is not None:
        trainer.add_callback(Look(config.held_out, held_out, rollouts, trainer._metrics["train"], out))
    if config.max_minutes is not None:
        # Rollouts are not saved: all steps that use them go before it.
        trainer.add_callback(Deadline(config.max_minutes, every=trainer.num_iterations))
    with arguments.main_process_first():
        if is_first():
            data = [_digest(config.benchmark, samples)]
            if config.held_out is not None:
                data.append(_digest(config.held_out.benchmark, held_out))
            folder.claim(arguments.world_size, data)
        found = checkpoints(out)
    with rollouts:
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    with saving(out) as staging:
        model.config.use_cache = True  # transformers' trainer has switched it off.
        trainer.save_model(str(staging / "model"))
        if trainer.accelerator.is_main_process:
            (staging / "model" / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # A pickle: nothing to serve.
            publish(staging / "model", out / "model")
        trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        draw(trainer.state.log_history, out)
    trainer.accelerator.wait_for_everyone()
    return Trained.of(trainer.state, out)


def _digest(benchmark: Benchmark, samples: Sequence[Sample]) -> bytes:
    """Changes with any problem and with what the benchmark reads besides, as settings of evaluations do."""
    with blaming(benchmark.name):
        return f"{samples_digest(samples)} {digest(benchmark.inputs(samples))}".encode()


def _check_runs(config: GRPOConfig, samples: Sequence[Sample], engine: NativeEngine) -> None:
    """Raises what is wrong with the method on this engine; prompts may be too long for it, but not all of them."""
    why = ""
    for sample in samples:
        try:
            sampled(config.method).build(config.benchmark, sample, None).check(engine)
            return
        except PromptTooLong as error:
            why = str(error)
    raise PromptTooLong(f"none of {len(samples):,} problems can be asked: {why}")


def live_engine(model: Any, path: Path, options: NativeOptions, *, packed: bool = True) -> NativeEngine:
    """An engine on the parameters of the model that is trained.

    `path`: its folder, for the tokenizer. `packed`: as in `GRPOConfig`. Raises `InvalidInput` for models whose layers
    look back through windows: the masks of rows have none.
    """
    live = from_transformers(
        model, share=not packed, num_threads=options.num_threads or 1, context_limit=options.context_limit
    )
    if any(layer.window is not None for layer in live.config.layers):
        raise InvalidInput(f"{path} looks back through windows, which the masks of shared rows do not have")
    tokenizer = load_tokenizer(path)
    tokenizer.chat_template_kwargs = options.chat_template_kwargs
    return NativeEngine(live, tokenizer, options, name=last_part(path))
