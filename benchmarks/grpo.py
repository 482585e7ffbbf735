"""GRPO's two halves: rollouts against TRL's default generation, and a packed step backward against an unpacked one.

    python -m plait.benchmarks.grpo [--model countdown] [--prompts 8] [--group 8] [--tokens 256]
    python -m plait.benchmarks.grpo --model MODEL_FOLDER --question "..." --prompts 1 --group 8 --tokens 256

Both sides sample the same prompts from the same weights in float32 on one thread, in turn, `--repeats` times; the
medians of wall and CPU seconds are shown. TRL generates as `GRPOTrainer` does without vLLM. The step is that of the
rollouts of a method with threads (`apr` on the Countdown model, else samples of one prompt), with random advantages.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig as Arguments
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from ..evals.benchmark import Benchmark, Sample, Verdict
from ..evals.benchmarks.countdown.benchmark import Countdown
from ..evals.config import MethodConfig
from ..rl.grpo.batch import Credited, Shape, chunks, scale_of
from ..rl.grpo.config import GRPOConfig
from ..rl.grpo.forest import Forest
from ..rl.grpo.packed import score, token_cost
from ..rl.grpo.rollouts import Request, Rollouts
from ..rl.grpo.train import live_engine
from ..runtime.engines.native.options import NativeOptions
from ..runtime.engines.registry import find_model
from .machine import describe


class Question(Benchmark):
    """One prompt, whatever the answer."""

    name: str = "question"
    prompts: tuple[str, ...]

    def load(self) -> list[Sample]:
        return [Sample(id=str(number), question=prompt) for number, prompt in enumerate(self.prompts)]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        return {"prompt": sample.question}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        return Verdict(correct=True, extracted=None, reason="correct")


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def _nothing(**_: Any) -> list[float | None]:
    return [0.0]


def report(name: str, tokens: Sequence[int], walls: Sequence[float], cpus: Sequence[float]) -> dict[str, float]:
    """Medians of several runs."""
    rate = statistics.median(n / cpu for n, cpu in zip(tokens, cpus, strict=True))
    found = {
        "tokens": statistics.median(tokens),
        "seconds": round(statistics.median(walls), 3),
        "cpu_seconds": round(statistics.median(cpus), 3),
        "tokens_per_cpu_second": round(rate, 1),
    }
    print(json.dumps({"what": name, **found}), flush=True)
    return found


def throughput(
    model: Any, tokenizer: Any, rollouts: Rollouts, benchmark: Benchmark, samples: Sequence[Sample],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """New tokens of plain sampling, ours against TRL's."""
    texts = [benchmark.prompt(sample, "sequential")["prompt"] for sample in samples for _ in range(options.group)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model, reward_funcs=_nothing, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            args=Arguments(
                output_dir=folder, per_device_train_batch_size=len(texts), num_generations=options.group,
                max_completion_length=options.tokens, use_cpu=True, bf16=False, report_to=[],
                gradient_checkpointing=False,
            ),
        )  # fmt: skip
        prompts = tokenizer(texts)["input_ids"]
        generate: Any = trainer._generate_single_turn
        ours: list[tuple[int, float, float]] = []
        theirs: list[tuple[int, float, float]] = []
        for number in range(options.repeats):
            requests = [
                Request(benchmark=benchmark, sample=sample, seed=number * options.group + member)
                for sample in samples
                for member in range(options.group)
            ]
            rollouts.engine.refresh()
            made, wall, cpu = timed(partial(rollouts.run, requests))
            ours.append((sum(one.usage.generated_tokens for one in made if one.usage), wall, cpu))
            found, wall, cpu = timed(partial(generate, prompts, None, {}, options.group))
            theirs.append((sum(map(len, found[0])), wall, cpu))
    own = report("plait rollouts", *zip(*ours, strict=True))
    other = report("TRL generation", *zip(*theirs, strict=True))
    ratio = own["tokens_per_cpu_second"] / other["tokens_per_cpu_second"]
    print(f"rollouts: {ratio:.1f} times as many tokens per CPU second")


def step(model: Any, rollouts: Rollouts, requests: Sequence[Request], shape: Shape, repeats: int) -> None:
    """Forward and backward of the rollouts' loss."""
    rollouts.engine.refresh()
    forest = Forest()
    found = [call for rollout in rollouts.run(requests) for call in forest.add(rollout.trace)]
    rng = random.Random(0)
    calls = [Credited(call=call, advantage=rng.choice((-1.0, 1.0)), weight=1.0 / len(call.tokens)) for call in found]
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.train()
    gradients: list[list[torch.Tensor]] = []
    for share in (True, False):
        (part,) = chunks(forest, calls, 1, len(requests), replace(shape, share=share), scale_of(calls))

        def backward(part: dict[str, Any] = part) -> None:
            model.zero_grad()
            logprobs = score(model, part["layout"])[0]
            ratio = (logprobs - part["old_per_token_logps"]).exp()
            loss = -(ratio * part["advantages"] * part["tool_mask"]).sum() / part["num_items_in_batch"]
            loss.backward()

        times = [timed(backward)[1:] for _ in range(repeats)]
        name = "packed step" if share else "unpacked step"
        report(name, [part["layout"].num_tokens] * repeats, *zip(*times, strict=True))
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    gap = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    print(f"{sum(len(one.call.tokens) for one in calls)} sampled tokens; gradients differ by {gap:.1e} at most")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="countdown")
    parser.add_argument("--question", help="the prompt; without it, Countdown problems")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of one generation at most")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    path = find_model(options.model).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(path)
    benchmark: Benchmark
    if options.question is None:
        benchmark, threads = Countdown(count=options.prompts), "apr"
    else:
        benchmark, threads = Question(prompts=(options.question,)), "sequential"
    samples = benchmark.load()
    config = GRPOConfig(
        model=options.model,
        benchmark=benchmark,
        method=MethodConfig(fields={"method": threads}),
        engine={"kv_tokens": 1 << 18},
    )
    engine = NativeOptions.of(config.engine)
    limit = {"max_tokens": options.tokens}
    with Rollouts(
        live_engine(model, path, engine), MethodConfig(fields={"method": "sequential", **limit}), concurrency=256
    ) as rollouts:
        throughput(model, tokenizer, rollouts, benchmark, samples, options)
    shape = Shape(
        share=True,
        token_cost=token_cost(model.config.hidden_size, model.config.intermediate_size),
        row_tokens=config.row_tokens,
        pass_tokens=config.pass_tokens,
    )
    members = range(options.group)
    requests = [Request(benchmark=benchmark, sample=sample, seed=member) for sample in samples for member in members]
    with Rollouts(live_engine(model, path, engine), MethodConfig(fields={"method": threads, **limit})) as rollouts:
        step(model, rollouts, requests, shape, options.repeats)


if __name__ == "__main__":
    main()
