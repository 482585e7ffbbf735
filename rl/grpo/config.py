"""`GRPOConfig`: a run, as a TOML file states it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from ...evals.benchmark import Benchmark, parse_benchmark
from ...evals.config import MethodConfig
from ...runtime.budget import Budget
from ...runtime.errors import InvalidInput
from ...runtime.spec import Spec
from .credit import Mode, Scale, Weights
from .rollouts import unlike

OWN = (
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "generation_batch_size", "num_generations", "max_steps", "learning_rate", "seed", "loss_type", "temperature",
    "top_k", "top_p", "min_p", "repetition_penalty", "scale_rewards", "use_vllm", "remove_unused_columns",
    "max_completion_length", "importance_sampling_level", "gradient_checkpointing", "ignore_data_skip",
    "num_train_epochs", "resume_from_checkpoint", "router_aux_loss_coef", "save_only_model", "push_to_hub",
    "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_neg", "vespo_k_pos", "vespo_lambda_neg",
    "vespo_lambda_pos",
)  # fmt: skip
"""TRL's arguments that follow from the other fields, or that this trainer cannot have otherwise."""

IDLE = (
    "cache_implementation", "chat_template_kwargs", "ds3_gather_for_generation", "eval_on_start", "eval_strategy",
    "generation_kwargs", "greater_is_better", "label_smoothing_factor", "load_best_model_at_end", "log_completions",
    "log_completions_hub_repo", "log_multimodal", "log_unique_prompts", "mask_truncated_completions",
    "max_tool_calling_iterations", "metric_for_best_model", "model_init_kwargs",
    "multi_objective_aggregation", "num_completions_to_print", "num_generations_eval", "pad_to_multiple_of",
    "reward_weights", "shuffle_dataset", "transformers_continuous_batching_config", "trust_remote_code",
    "use_transformers_continuous_batching", "use_transformers_paged",
)  # fmt: skip
"""Those, beside vLLM's, of generating, grading, showing or evaluating, which TRL does not do here."""

ENTROPY = {"entropy_coef": 0.0, "use_adaptive_entropy": False, "top_entropy_quantile": 1.0}
"""Those by which entropies count in the loss, and what they are where they do not."""

IDLE_ENGINE = (
    "batch_invariant", "context_bytes", "contexts", "device", "dtype", "headless", "impl", "keep_logits",
    "tensor_parallel", "weights",
)  # fmt: skip
"""The native engine's options of loading a model, keeping contexts on disk, or looking at logits."""

HELD_OUT = "held_out.jsonl"
"""In the output folder: a line for each look at held-out problems."""


def _benchmark(value: object) -> object:
    return parse_benchmark(value) if isinstance(value, dict) else value


Problems = Annotated[SerializeAsAny[Benchmark], BeforeValidator(_benchmark)]


class HeldOut(Spec):
    """Problems to look at during training, decoded greedily."""

    refusal = InvalidInput

    benchmark: Problems
    """As in an evaluation."""
    every: int = Field(default=25, ge=1)
    """Steps between two looks; there is one at the start and one at the end, too."""

    @classmethod
    def title(cls) -> str:
        return "held_out"


class GRPOConfig(Spec):
    """GRPO over threads (arXiv 2402.03300; arXiv 2504.15466, section 3.4). Raises `InvalidInput`."""

    refusal = InvalidInput

    kind: Literal["grpo"] = "grpo"
    """What is trained."""
    model: str = Field(min_length=1)
    """A folder in Hugging Face's layout, a shipped model, or a name of the hub."""
    benchmark: Problems
    """The problems; its grader is the reward."""
    method: MethodConfig
    """The method that rollouts are made by, as in an evaluation. It and those inside it sample at temperature 1, from
    all tokens: without a constraint, or a call of a tool that has to be."""
    budget: Budget = Budget()
    """Of each rollout."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which a rollout is neither right nor wrong; None: no limit."""
    group: int = Field(default=8, ge=2)
    """Rollouts of each problem."""
    prompts: int = Field(default=8, ge=1)
    """Problems of each step, for each process."""
    steps: int = Field(default=100, ge=1)
    """Optimiser steps."""
    chunks: int = Field(default=1, ge=1)
    """Parts of a step that are computed one after the other, to need less memory; `prompts * group` is a multiple. 1
    with what TRL takes from the entropies of each part by itself: `entropy_coef`, `use_adaptive_entropy`,
    `top_entropy_quantile`."""
    credit: Mode = "shared"
    """Which advantage a thread gets; see `credit`. `per_thread` needs a judge; `tree` a method whose samples or steps
    no `generator` writes."""
    scale: Scale = "std"
    """Are advantages divided by the standard deviation of their group?"""
    negative: float = Field(default=1.0, ge=0, le=1)
    """Factor of advantages below 0 (arXiv 2506.01347 weighs the two sides apart). Of a wrong rollout most tokens are
    right: a small model that is told off for all of them unlearns what it can do."""
    weights: Weights = "calls"
    """How much a token weighs: each call of a rollout alike, or each token; see `credit.weights`."""
    latency: float = Field(default=0.0, ge=0)
    """Factor of the acceleration term in the reward of right answers; 0: none. With `scale = "none"` alone."""
    share: bool = True
    """Compute tokens that calls share once."""
    row_tokens: int = Field(default=2048, ge=1)
    """Tokens of a row that several calls share, at most."""
    pass_tokens: int = Field(default=16384, ge=1)
    """Tokens of one forward pass, padding included, at most (one row may be longer)."""
    learning_rate: float = Field(default=1e-5, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the order of problems and of all sampling."""
    threads: int | None = Field(default=None, ge=1)
    """Of each process on a CPU; None: torch's choice."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes after which this run stops with a checkpoint; one that goes on has as many again. None: no limit."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Options of the native engine (`kv_tokens`, `num_threads`), but for `IDLE_ENGINE`: it serves the model that is
    trained, where and as that is."""
    packed: bool = True
    """Sample with the weights packed for the compiled kernels, anew after each step; false: by plain torch from the
    trainer's own parameters, without any copy."""
    concurrency: int = Field(default=64, ge=1)
    """Rollouts at a time."""
    held_out: HeldOut | None = None
    """None: nothing is held out."""
    traces_every: int = Field(default=10, ge=0)
    """Steps between two whose traces are kept, two of each; 0: none are."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `trl.GRPOConfig` (`beta`, `num_iterations`, `save_steps`, `report_to`, ...)."""

    @classmethod
    def title(cls) -> str:
        return "training"

    @field_validator("method")
    @classmethod
    def _samples_plainly(cls, method: MethodConfig) -> MethodConfig:
        if odd := unlike(method.fields):
            raise ValueError(f"{', '.join(odd)}: rollouts sample from the model's own distribution; leave it out")
        if method.attempts != 1:
            raise ValueError("attempts: a problem has `group` rollouts; leave it out")
        return method

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if own := [name for name in OWN if name in self.trainer]:
            raise ValueError(f"trainer.{own[0]} follows from the other fields, or is fixed: leave it out")
        if idle := [name for name in self.trainer if name in IDLE or name.startswith("vllm_")]:
            raise ValueError(
                f"trainer.{idle[0]} would do nothing: TRL neither makes nor grades rollouts here; leave it out"
            )
        if idle := [name for name in self.engine if name in IDLE_ENGINE]:
            raise ValueError(
                f"engine.{idle[0]} would do nothing: the engine serves the model that is trained; leave it out"
            )
        if self.prompts * self.group % self.chunks:
            raise ValueError(f"prompts * group = {self.prompts * self.group} is no multiple of chunks = {self.chunks}")
        if self.chunks > 1 and (
            odd := [name for name, idle in ENTROPY.items() if self.trainer.get(name, idle) != idle]
        ):
            raise ValueError(f"trainer.{odd[0]}: TRL would take each chunk's entropies by themselves; set chunks = 1")
        if self.latency and self.scale == "std":
            # Where all are right the term is all that differs, and would weigh as much as being right or wrong.
            raise ValueError('latency goes with scale = "none"')
        return self

    @model_validator(mode="after")
    def _whole_periods(self) -> Self:
        """Rollouts are not saved: a run goes on where all steps that use them are done."""
        iterations = self.trainer.get("num_iterations", 1)
        if type(iterations) is not int or iterations < 1:
            raise ValueError(f"trainer.num_iterations is {iterations!r}: a whole number of 1 or more")
        if self.steps % iterations:
            raise ValueError(f"steps = {self.steps} is no multiple of trainer.num_iterations = {iterations}")
        strategy, every = self.trainer.get("save_strategy", "steps"), self.trainer.get("save_steps", 50)
        if iterations > 1 and strategy not in ("steps", "no"):
            raise ValueError(
                "trainer.save_strategy must be steps or no: with num_iterations rollouts serve several steps"
            )
        if iterations > 1 and strategy == "steps" and (type(every) is not int or every % iterations):
            raise ValueError("trainer.save_steps must be a multiple of num_iterations: rollouts are not saved")
        return self
