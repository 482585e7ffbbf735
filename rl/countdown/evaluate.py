"""A quick look at a checkpoint: `python -m plait.rl.countdown.evaluate runs/countdown/checkpoint.pt --problems 50`.

Exactness is the share of documents of which every word is the model's first choice, that is, which greedy decoding
writes without a mistake. Solve rates come from greedy decoding through the dialect, every thread within `--limit`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F

from ...evals.benchmarks.countdown.problems import Problem, load, validation
from ...evals.benchmarks.countdown.verify import verify
from ...evals.stats import wilson
from ...runtime.cli.exit_status import exit_status
from ...runtime.methods.apr.compact import SPAWN, CompactDialect
from ...runtime.methods.apr.dialect import Child, Joined
from .batch import collate
from .decode import greedy
from .export import read_checkpoint
from .mix import Documents, Mix
from .model import Model
from .tokenizer import BOS, IDS, VOCABULARY

Complete = Callable[[Sequence[str]], list[str]]
"""Texts in; the same texts with what the policy adds, up to its end or the spawn word."""


def read_model(checkpoint: Path) -> Model:
    """The model of a checkpoint, in float32 with weights rounded to bfloat16 as they are shipped. Raises
    `InvalidInput`."""
    model = read_checkpoint(checkpoint)
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    return model.eval()


def complete_with(model: Model, limit: int) -> Complete:
    """Greedy decoding as a policy."""

    def complete(texts: Sequence[str]) -> list[str]:
        prompts = [[IDS[BOS], *(IDS[word] for word in text.split())] for text in texts]
        return [
            " ".join(VOCABULARY[token] for token in tokens[1:])
            for tokens in greedy(model, prompts, limit, stop=[IDS[SPAWN]])
        ]

    return complete


def run_threads(complete: Complete, prompts: Sequence[str], tally: dict[str, int]) -> dict[str, str | None]:
    """Result of every thread, children first, all threads of a level at once; equal prompts run once."""
    dialect = CompactDialect()
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        return {}
    texts = complete(prompts)
    tally["threads"] = tally.get("threads", 0) + len(texts)
    tally["tokens"] = tally.get("tokens", 0) + sum(
        len(t.split()) - len(p.split()) for t, p in zip(texts, prompts, strict=True)
    )
    spawns = [dialect.spawn(text, 0) for text in texts]
    children: list[Child] = [child for spawn in spawns if spawn for child in spawn.children]
    below = run_threads(complete, [child.prompt for child in children if child.prompt], tally)
    resumed: list[int] = []
    contexts: list[str] = []
    for i, (text, spawn) in enumerate(zip(texts, spawns, strict=True)):
        if spawn:
            joined = [Joined(child=c, result=below[c.prompt] if c.prompt else None) for c in spawn.children]
            resumed.append(i)
            contexts.append(text[: spawn.keep] + dialect.join(joined, 0))
    for i, text in zip(resumed, complete(contexts) if contexts else [], strict=True):
        texts[i] = text
    return {prompt: dialect.result(text) for prompt, text in zip(prompts, texts, strict=True)}


def solve_rate(complete: Complete, problems: Sequence[Problem], mode: str) -> tuple[int, dict[str, int]]:
    """How many problems are solved, and what it took."""
    tally: dict[str, int] = {}
    prompts = [CompactDialect().root_prompt(p.nums, p.target, mode) for p in problems]
    results = run_threads(complete, prompts, tally)
    solved = [
        bool(verify(p.nums, p.target, results[prompt] or "")) for p, prompt in zip(problems, prompts, strict=True)
    ]
    return sum(solved), tally


@torch.inference_mode()
def exactness(model: Model, count: int, seed: int = 1) -> dict[str, float]:
    """Share of exact documents of each kind."""
    documents = Documents(random.Random(f"exactness {seed}"))
    shares = {}
    for kind in (f.name for f in fields(Mix) if f.name != "step"):  # steps are samples: none of them is the right one
        exact = 0
        rows = sorted((documents.make(kind) for _ in range(count)), key=lambda d: len(d.words))
        for at in range(0, count, 20):
            batch = collate(rows[at : at + 20], kind).to(str(model.embedding.device))
            hidden = model(batch.inputs, batch.positions, batch.mask)
            right = F.linear(hidden, model.embedding).argmax(-1) == batch.labels
            exact += int((right | (batch.labels < 0)).all(dim=1).sum())
        shares[kind] = round(exact / count, 3)
    return shares


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--mode", default="apr")
    parser.add_argument("--limit", type=int, default=512, help="tokens of one thread")
    parser.add_argument("--file", type=Path, help="JSON Lines of problems instead of our validation problems")
    parser.add_argument("--documents", type=int, default=100, help="for exactness; 0: skip")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = read_model(args.checkpoint).to(args.device)
    if args.documents:
        print(json.dumps({"exact": exactness(model, args.documents)}), flush=True)
    problems = (load(args.file) if args.file else validation(args.size))[: args.problems]
    if problems:
        start = time.monotonic()
        solved, tally = solve_rate(complete_with(model, args.limit), problems, args.mode)
        seconds = round(time.monotonic() - start, 1)
        interval = [round(bound, 4) for bound in wilson(solved, len(problems))]
        found = {"solved": solved, "of": len(problems), "interval": interval}
        print(json.dumps({"mode": args.mode, "limit": args.limit, **found, **tally, "seconds": seconds}))


if __name__ == "__main__":
    sys.exit(exit_status(main))
