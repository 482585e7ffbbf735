"""Train the associative recall model on problems that are encoded sequentially, and write it as a model folder.

python -m plait.rl.recall.train --out runs/recall --export models/recall

See `rl.countdown.train`. Documents are made on the fly from `--seed`: problems of `evals.recall` with up to 64
contexts, the contexts one behind another and several questions behind them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from ...evals.benchmarks.rag.recall import INSTRUCTION, MOST_CONTEXTS, QUESTION, make
from ...runtime.cli.exit_status import exit_status
from ..countdown.batch import IGNORED, Batch, pad
from ..countdown.export import save_model
from ..countdown.model import ModelConfig
from ..countdown.tokenizer import BOS, PAD
from ..countdown.traces import EOS
from ..countdown.train import TrainConfig, Trainer, add_options, run_until_stopped
from .tokenizer import IDS, VOCABULARY, build

CONFIG = ModelConfig(
    vocabulary=len(VOCABULARY),
    bos_id=IDS[BOS],
    eos_id=IDS[EOS],
    pad_id=IDS[PAD],
    hidden=128,
    layers=2,
    heads=2,
    intermediate=256,
    has_numbers=False,
    embedding_std=0.12,
    zero_outputs=True,
)
MOST_QUESTIONS = 64
"""Of one document."""

DEFAULTS = TrainConfig(out=Path("runs/recall"), tokens=3_000_000, rate=3e-3, micro_tokens=1024, accumulate=1)

Document = tuple[list[int], list[int]]
"""Inputs and labels."""


def document(rng: random.Random, contexts: int) -> Document:
    """One problem's contexts, then up to 64 different questions with their answers; only answers are labels."""
    problem = make(rng, contexts)
    pairs = [pair for context in problem.pairs for pair in context]
    words = [BOS, INSTRUCTION, *" ".join(problem.contexts).split()]
    labels = [IGNORED] * len(words)
    for key, value in rng.sample(pairs, min(len(pairs), MOST_QUESTIONS)):
        words += [QUESTION, f"k{key}", f"v{value}"]
        labels += [IGNORED, IDS[f"v{value}"], IDS[EOS]]
    return [IDS[word] for word in words], labels


def stream(rng: random.Random, tokens: int) -> Iterator[Batch]:
    """Batches of documents with equally many contexts, mostly few of them: there the task is learnt first."""
    while True:
        contexts = int((MOST_CONTEXTS + 1) ** rng.random() ** 1.5)
        documents: list[Document] = []
        longest = 0
        while not documents or (len(documents) + 1) * longest <= tokens:
            documents.append(document(rng, contexts))
            longest = max(longest, len(documents[-1][0]))
        yield pad(documents, f"{2 ** (contexts.bit_length() - 1)}+", IDS[PAD])


def trainer(config: TrainConfig) -> Trainer:
    """Of a new model, or of the one that `config.out` holds."""
    return Trainer(config, stream, CONFIG)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, DEFAULTS)
    parser.add_argument("--export", type=Path, help="folder to write the model to")
    args = vars(parser.parse_args())
    folder: Path | None = args.pop("export")
    run = trainer(TrainConfig(**args))
    run_until_stopped(run)
    if folder is not None:
        save_model(run.model, build(), folder)


if __name__ == "__main__":
    sys.exit(exit_status(main))
