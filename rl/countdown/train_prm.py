"""Train the shipped process reward model of Countdown, starting from the policy.

python -m plait.rl.countdown.train_prm --init models/countdown --out runs/countdown_prm --export models/countdown_prm

See `rl.countdown.train`; what it learns from is in `rl.countdown.prm`. At the end it judges steps of validation
problems.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ...evals.benchmarks.countdown.problems import Key, load, validation
from ...runtime.cli.exit_status import exit_status
from .batch import Batch, by_length, collate
from .export import save_model
from .model import Model
from .prm import BAD, GOOD, Samples, draw_steps, foreign, labelled
from .tokenizer import IDS, build
from .traces import EOS, Document
from .train import Stream, TrainConfig, Trainer, add_options, run_until_stopped

DEFAULTS = TrainConfig(out=Path("runs/countdown_prm"), tokens=27_000_000, rate=1.5e-3, decay=0.8)


def stream(excluded: frozenset[Key] = frozenset()) -> Stream:
    """Labelled samples of problems that are not in `excluded`."""

    def make(rng: random.Random, tokens: int) -> Iterator[Batch]:
        samples = Samples(rng, excluded)
        return (collate(group, "prm") for group in by_length(samples.make, tokens, rng))

    return make


AUCS = {"auc": BAD, "spoilt": "spoilt", "foreign": "foreign"}
"""What good steps are held against, by the name of the figure."""


@torch.inference_mode()
def judge(model: Model, size: int, count: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """How well it tells steps of held-out problems apart, by the count of numbers that the step leaves.

    accuracy: of the more likely of the two words; auc: the chance that a good step scores above a bad one; spoilt:
    above one with a wrong word; foreign: above one of those that make the target of a number that is not there.
    """
    rng = random.Random(f"judge {size} {seed}")
    scores: dict[int, dict[str, list[float]]] = defaultdict(lambda: {k: [] for k in (GOOD, BAD, "spoilt", "foreign")})

    def read(document: Document) -> list[float]:
        batch = collate([document], "prm")
        ends = (batch.labels[0] >= 0).nonzero()[:, 0]
        logits = model(batch.inputs)[0, ends] @ model.embedding[[IDS[BAD], IDS[GOOD]]].T
        said: list[float] = torch.softmax(logits, -1)[:, 1].tolist()
        return said

    for problem in validation(size, count):
        nums, target = problem.nums, problem.target
        steps = draw_steps(nums, target, rng)
        for k, score in enumerate(read(labelled(nums, target, steps, None, rng))):
            scores[size - 1 - k][GOOD if steps[k][1] else BAD].append(score)
        first = rng.randrange(len(steps))
        spoilt = read(labelled(nums, target, steps, first, rng))
        scores[size - 1 - first]["spoilt"].append(spoilt[first])
        document = foreign(nums, target, steps, first, rng)
        if document.words[-3:-1] == [str(target), EOS]:
            for k, score in enumerate(read(document)[first:], start=first):
                scores[size - 1 - k]["foreign"].append(score)
    found = {}
    for left, kinds in sorted(scores.items(), reverse=True):
        good, bad = kinds[GOOD], kinds[BAD]
        right = sum(s > 0.5 for s in good) + sum(s <= 0.5 for s in bad)
        found[str(left)] = {
            "steps": len(good) + len(bad),
            "good": round(len(good) / (len(good) + len(bad)), 3),
            "accuracy": round(right / (len(good) + len(bad)), 4),
            **{name: round(_auc(good, kinds[kind]), 4) for name, kind in AUCS.items() if kinds[kind]},
        }
    return found


def _auc(good: Sequence[float], others: Sequence[float]) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(good, others).statistic) / (len(good) * len(others))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, DEFAULTS)
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="JSON Lines: never train on these")
    parser.add_argument("--export", type=Path, help="folder to write the model to")
    args = vars(parser.parse_args())
    folder: Path | None = args.pop("export")
    excluded = frozenset(problem.key for path in args.pop("exclude") for problem in load(path))
    trainer = Trainer(TrainConfig(**args), stream(excluded))
    run_until_stopped(trainer)
    if folder is not None:
        save_model(trainer.model, build(), folder)
        (folder / "prm.json").write_text(json.dumps({"format": "plain", "good": GOOD, "bad": BAD}) + "\n")
    trainer.model.load_hf(trainer.model.to_hf())  # as shipped, in bfloat16
    for size in (4, 5):
        print(json.dumps({"numbers": size, "left": judge(trainer.model.eval(), size, 1000)}), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
