"""Train the shipped Countdown model.

python -m plait.rl.countdown.train --minutes 120 --out runs/countdown     # start, or go on from runs/countdown

The learning rate warms up, stays, and falls to zero in the last part of the time; a stopped run goes on from its last
checkpoint, with other `--minutes`, `--mix` or `--rate` if wanted. Documents are made on the fly from `--seed`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...evals.benchmarks.countdown.problems import Key, load
from ...runtime.cli.exit_status import exit_status
from ..muon import StackedMuon
from ..precision import autocast
from .export import save_model
from .mix import Documents, Mix, batches
from .model import Model, ModelConfig
from .tokenizer import build


class Part(Protocol):
    """A batch."""

    @property
    def tokens(self) -> int: ...

    @property
    def counts(self) -> dict[str, int]:
        """Labels of each kind."""
        ...

    def to(self, device: str) -> Self: ...

    def losses(self, model: Model) -> Tensor:
        """Summed cross-entropy of each kind of `counts`."""
        ...


Stream = Callable[[random.Random, int], Iterator[Part]]
"""Endless batches of about so many tokens, made from a source of randomness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train; what the model is, is in `ModelConfig`, what it sees, in `Mix`."""

    out: Path
    """Folder of checkpoint and log."""
    init: Path | None = None
    """Model folder whose weights a new run starts from."""
    minutes: float = 120.0
    """Training time in all, earlier runs from the same checkpoint included."""
    tokens: int | None = None
    """Stop after this many tokens; then progress is counted in tokens, whatever the time. None: by minutes."""
    rate: float = 2.5e-3
    """Learning rate at the plateau."""
    warmup_steps: int = 100
    decay: float = 0.7
    """Last part of the training, in which the rate falls linearly to zero."""
    micro_tokens: int = 2048
    """Tokens of one batch: all of one kind, so that little is padding."""
    accumulate: int = 3
    """Batches per step."""
    optimizer: str = "muon"
    """`muon` (for the matrices of the blocks) or `adamw`, whose loss was a third higher after 1.6 M tokens."""
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    compile: bool = False
    """Compile the model; its batches have to have one shape."""
    log_steps: int = 50
    save_seconds: float = 120.0
    export: Path | None = None
    """Folder to write the model to with every checkpoint."""


class Trainer:
    """A model, its optimizers and where they stand."""

    def __init__(self, config: TrainConfig, stream: Stream, model: ModelConfig | None = None, **notes: object) -> None:
        """`model`: None is the Countdown model. `notes`: what else a checkpoint is to say, as plain data."""
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.notes = config, notes
        self.model = Model(model or ModelConfig()).to(config.device)
        self.optimizers = _optimizers(self.model, config)
        if config.compile:
            self.model.compile()
        self.steps, self.tokens, self.seconds = 0, 0, 0.0
        self.stopping = False
        config.out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = config.out / "checkpoint.pt"
        if self.checkpoint.exists():
            self._load()
        elif config.init:
            self.model.load_hf(load_file(config.init / "model.safetensors"))
        # A resumed run must not see the first documents again.
        self.stream = stream(random.Random(f"{config.seed} {self.tokens}"), config.micro_tokens)

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.config.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps, self.tokens, self.seconds = state["steps"], state["tokens"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint; a reader never sees half of one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "config": asdict(self.model.config),
            **self.notes,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)
        if self.config.export is not None:
            save_model(self.model, build(), self.config.export)

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        if self.config.tokens is not None:
            return self.tokens / self.config.tokens
        return self.seconds / (60 * self.config.minutes)

    def rate(self) -> float:
        """Learning rate of the next step, as a part of the plateau's."""
        warm = min(1.0, (self.steps + 1) / self.config.warmup_steps)
        return warm * max(0.0, min(1.0, (1 - self.progress) / self.config.decay))

    def step(self, parts: Sequence[Part]) -> list[Tensor]:
        """One update; returns what `losses` said of each part, on the device: to read it is to wait for the update."""
        total = sum(sum(part.counts.values()) for part in parts)
        losses: list[Tensor] = []
        for part in parts:
            with autocast(self.config.device):
                found = part.to(self.config.device).losses(self.model)
            (found.sum() / total).backward()  # type: ignore[no-untyped-call]
            losses.append(found.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = self.rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.rate
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        self.tokens += sum(part.tokens for part in parts)
        return losses

    def run(self) -> None:
        """Train until the time or the tokens are used up."""
        try:
            self._run()
        finally:
            if isinstance(self.stream, Generator):
                self.stream.close()

    def _run(self) -> None:
        seen: list[tuple[dict[str, int], Tensor]] = []
        clock = saved = logged = time.monotonic()
        before = told = self.tokens
        waited = 0.0
        while self.progress < 1 and not self.stopping:
            began = time.monotonic()
            parts = list(itertools.islice(self.stream, self.config.accumulate))
            waited += time.monotonic() - began
            seen += zip([part.counts for part in parts], self.step(parts), strict=True)
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            if self.steps % self.config.log_steps == 0:
                self._log(seen, (self.tokens - told) / (now - logged), waited / (now - logged))
                logged, told, waited, seen = now, self.tokens, 0.0, []
            if now - saved > self.config.save_seconds:
                saved = now
                self.save()
        self.save()
        print(f"done: {self.tokens - before} tokens in this run")

    def _log(self, seen: Sequence[tuple[dict[str, int], Tensor]], speed: float, waited: float) -> None:
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for counts, losses in seen:
            for (kind, count), loss in zip(counts.items(), losses.tolist(), strict=True):
                totals[kind][0] += loss
                totals[kind][1] += count
        line = {
            "step": self.steps,
            "mtok": round(self.tokens / 1e6, 3),
            "min": round(self.seconds / 60, 2),
            "tok/s": round(speed),
            "waited": round(waited, 2),  # for documents, as a share of the time
            "rate": round(self.rate() * self.config.rate, 6),
            "loss": {kind: round(loss / max(count, 1), 4) for kind, (loss, count) in sorted(totals.items())},
        }
        print(json.dumps(line), flush=True)
        with (self.config.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _optimizers(model: Model, config: TrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    betas = (0.9, 0.99)
    if config.optimizer == "muon":
        muon = StackedMuon(matrices, lr=config.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(others, lr=config.rate, betas=betas, weight_decay=0.0, fused=True)]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=config.rate, betas=betas, fused=True)]


def documents(mix: Mix, excluded: frozenset[Key] = frozenset()) -> Stream:
    """Countdown documents in the mix's shares, none of them in `excluded`."""
    return lambda rng, tokens: batches(Documents(rng, excluded), mix, tokens)


def parse_mix(text: str) -> Mix:
    """`leaf=60,seq4=5`: the default with some shares changed."""
    shares = dict(part.split("=") for part in text.split(",") if part)
    unknown = set(shares) - set(asdict(Mix()))
    if unknown:
        raise ValueError(f"unknown kinds {sorted(unknown)}; choose from {sorted(asdict(Mix()))}")
    return replace(Mix(), **{kind: float(share) for kind, share in shares.items()})


def add_options(parser: argparse.ArgumentParser, defaults: TrainConfig) -> None:
    """The options of `TrainConfig` for a command line."""
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder of checkpoint and log")
    parser.add_argument("--init", type=Path, help="a model folder to start from")
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--tokens", type=int, default=defaults.tokens)
    parser.add_argument("--rate", type=float, default=defaults.rate)
    parser.add_argument("--warmup-steps", type=int, default=defaults.warmup_steps)
    parser.add_argument("--decay", type=float, default=defaults.decay)
    parser.add_argument("--micro-tokens", type=int, default=defaults.micro_tokens)
    parser.add_argument("--accumulate", type=int, default=defaults.accumulate)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default=defaults.optimizer)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--log-steps", type=int, default=defaults.log_steps)
    parser.add_argument("--save-seconds", type=float, default=defaults.save_seconds)


def run_until_stopped(trainer: Trainer) -> None:
    """Train; an interrupt ends the run after the step, with a checkpoint."""

    def stop(*_: object) -> None:
        trainer.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    trainer.run()


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The options that say which documents are made."""
    parser.add_argument("--mix", type=parse_mix, default=Mix())
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="JSON Lines: never train on these")


def read_sources(args: dict[str, Any]) -> tuple[Mix, frozenset[Key]]:
    """Takes these options out."""
    mix: Mix = args.pop("mix")
    return mix, frozenset(problem.key for path in args.pop("exclude") for problem in load(path))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, TrainConfig(out=Path("runs/countdown")))
    add_sources(parser)
    args = vars(parser.parse_args())
    mix, excluded = read_sources(args)
    run_until_stopped(Trainer(TrainConfig(**args), documents(mix, excluded), mix=asdict(mix)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
