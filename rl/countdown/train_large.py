"""Train a larger Countdown model, of 30.7 M parameters, on a GPU.

python -m plait.rl.countdown.train_large --minutes 9 --out runs/large --export runs/large/model

See `rl.countdown.train`. Other processes make the documents, rows of one length hold them, and attention is
FlexAttention; `--device cpu --attention dense --no-compile` with few `--layers` tries everything else out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...runtime.cli.exit_status import exit_status
from . import packed
from .model import ModelConfig
from .train import TrainConfig, Trainer, add_options, add_sources, read_sources, run_until_stopped

LARGE = ModelConfig(hidden=512, layers=10, heads=8, intermediate=1280)
DEFAULTS = TrainConfig(
    out=Path("runs/large"),
    minutes=9.0,
    # The small model's 2.5e-3 by the square root of the widths: Muon's updates then are as large a part of a matrix in
    # spectral norm. That is 1.5e-3; a third more, as a step sees ten times as many tokens.
    rate=2e-3,
    warmup_steps=300,
    micro_tokens=65536,
    accumulate=1,
    device="cuda",
    compile=True,
    log_steps=200,
    save_seconds=60.0,
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, DEFAULTS)
    add_sources(parser)
    parser.add_argument("--export", type=Path, help="folder to write the model to, with every checkpoint")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=DEFAULTS.compile)
    parser.add_argument("--attention", choices=("flex", "dense"), default="flex")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row; longer documents are left out")
    parser.add_argument("--workers", type=int, default=12, help="processes that make documents; 0: none but this one")
    for name in ("hidden", "layers", "heads", "intermediate"):
        parser.add_argument(f"--{name}", type=int, default=getattr(LARGE, name))
    args = vars(parser.parse_args())
    shape = {name: args.pop(name) for name in ("hidden", "layers", "heads", "intermediate")}
    mix, excluded = read_sources(args)
    stream = packed.stream(
        mix, excluded, length=args.pop("length"), workers=args.pop("workers"), flex=args.pop("attention") == "flex"
    )
    # What is left in float32 outside autocast may use the tensor cores.
    torch.set_float32_matmul_precision("high")
    run_until_stopped(Trainer(TrainConfig(**args), stream, replace(LARGE, **shape), mix=asdict(mix)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
