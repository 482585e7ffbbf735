"""Steps of Countdown with brute-force verdicts, as JSON Lines for `plait train prm`.

python -m plait.rl.countdown.steps data/countdown_steps.jsonl --count 200000

The samples of `rl.countdown.prm`, then `--held-out` validation problems of four numbers, drawn as `train_prm.judge`
draws them: the configuration's `held_out` takes these from the end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...evals.benchmarks.countdown.problems import load, validation
from ...runtime.cli.exit_status import exit_status
from .prm import GOOD, Samples, draw_steps, labelled
from .traces import EOS, Document


def row(document: Document) -> dict[str, Any]:
    """A labelled sample as a line: a step ends where its verdict is read. Of a sample that judges bare numbers, the
    prompt's last word is the step."""
    words, labels = document.words[:-1], document.labels
    ends = [at for at, label in enumerate(labels) if label is not None]
    behind = words.index(";") + 1
    first = behind - 1 if ends == [behind] else behind
    starts = [first, *ends[:-1]]
    is_complete = words[-1] == EOS
    steps = [words[begin:end] for begin, end in zip(starts, ends, strict=True)]
    if is_complete:
        steps[-1] = steps[-1][:-1]
    return {
        "prompt": " ".join(words[:first]),
        "steps": ["".join(f" {word}" for word in step) for step in steps],
        "labels": [labels[end] == GOOD for end in ends],
        "ended": is_complete,
    }


def rows(count: int, held_out: int, seed: int, excluded: frozenset[Any] = frozenset()) -> Iterator[dict[str, Any]]:
    """Lines of samples, none of them of a validation problem; then those of validation problems."""
    samples = Samples(random.Random(seed), excluded)
    for _ in range(count):
        yield row(samples.make())
    rng = random.Random("judge 4 0")
    for problem in validation(4, held_out):
        yield row(labelled(problem.nums, problem.target, draw_steps(problem.nums, problem.target, rng), None, rng))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200_000, help="samples to train on")
    parser.add_argument("--held-out", type=int, default=1000, help="validation problems behind them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exclude", type=Path, action="append", default=[], help="JSON Lines: never train on these")
    args = parser.parse_args()
    excluded = frozenset(problem.key for path in args.exclude for problem in load(path))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for line in rows(args.count, args.held_out, args.seed, excluded):
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(exit_status(main))
