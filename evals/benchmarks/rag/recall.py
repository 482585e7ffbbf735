"""Associative recall over many contexts: a synthetic task on which a small model can really be scored.

    python -m plait.evals.benchmarks.rag.recall run --count 200          # accuracy for 2 to 64 contexts, by encoding
    python -m plait.evals.benchmarks.rag.recall make --count 60 --seed 1 # rows for `plait calibrate-ape`

A context lists keys with their values (`: k17 v3 k200 v9`), a question asks for the value of one key (`? k200`), and no
key occurs twice. The one supporting context has to be found among all the others, which is what APE's evaluation on
retrieved documents asks for too (arXiv 2502.05431, section 5).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from ....runtime.cli.exit_status import exit_status
from ....runtime.cli.options import positive
from ....runtime.cli.table import table
from ....runtime.runtime import Runtime
from ...stats import wilson
from .compare import VARIANTS, answer
from .questions import Row, Style

NUM_KEYS, NUM_VALUES = 256, 32
MOST_CONTEXTS, MOST_PAIRS = 64, 3
INSTRUCTION, CONTEXT, QUESTION = "recall", ":", "?"


@dataclass(frozen=True, slots=True)
class Recall:
    """One problem. `pairs[i]` are the (key, value) numbers of the i-th context."""

    pairs: tuple[tuple[tuple[int, int], ...], ...]
    asked: int
    """The key asked for."""

    @property
    def contexts(self) -> list[str]:
        return [" ".join([CONTEXT, *(f"k{key} v{value}" for key, value in context)]) for context in self.pairs]

    @property
    def question(self) -> str:
        return f"{QUESTION} k{self.asked}"

    @property
    def answer(self) -> str:
        return f"v{dict(pair for context in self.pairs for pair in context)[self.asked]}"


def make(rng: random.Random, contexts: int) -> Recall:
    """A problem of so many contexts (64 at most) of one to three pairs each."""
    sizes = [rng.randint(1, MOST_PAIRS) for _ in range(contexts)]
    keys = rng.sample(range(NUM_KEYS), sum(sizes))
    left = iter(keys)
    pairs = tuple(tuple((next(left), rng.randrange(NUM_VALUES)) for _ in range(size)) for size in sizes)
    return Recall(pairs, rng.choice(keys))


STYLE = Style(instruction=INSTRUCTION, template="{question}", max_tokens=1)

SIZES = (2, 4, 8, 16, 32, 64)

ENCODINGS: dict[str, dict[str, Any]] = {
    "sequential": VARIANTS["sequential"],
    "calibrated": VARIANTS["parallel"],
    "default": {"encoding": "parallel", "context_temperature": 0.9, "context_scale": 0.9},
    "plain": VARIANTS["plain"],
}
"""`calibrated`: with the model's own temperature and scale; `default`: with those of APE's published code."""


def rows(count: int, seed: int, sizes: Sequence[int]) -> list[Row]:
    """So many problems, of these numbers of contexts in turn."""
    rng = random.Random(f"recall {seed}")
    made = [make(rng, sizes[i % len(sizes)]) for i in range(count)]
    return [
        Row(id=str(i), question=problem.question, contexts=tuple(problem.contexts), answers=(problem.answer,))
        for i, problem in enumerate(made)
    ]


async def accuracy(runtime: Runtime, problems: Sequence[Row], encoding: str) -> int:
    """How many are answered rightly."""
    graded = [await answer(runtime, row, STYLE, **ENCODINGS[encoding]) for row in problems]
    return sum(g.exact for g in graded)


async def _run(options: argparse.Namespace) -> None:
    lines: list[dict[str, object]] = []
    async with Runtime(options.model) as runtime:
        for size in track(SIZES, transient=True, console=Console(stderr=True)):
            problems = rows(options.count, options.seed, [size])
            right = {name: await accuracy(runtime, problems, name) for name in ENCODINGS}
            for name, count in right.items():
                low, high = wilson(count, len(problems))
                lines.append(
                    {
                        "contexts": size,
                        "encoding": name,
                        "right": f"{count}/{len(problems)}",
                        "accuracy %": 100 * count / len(problems),
                        "95 %": f"{100 * low:.1f}-{100 * high:.1f}",
                        "retained %": 100 * count / right["sequential"] if right["sequential"] else 0.0,
                    }
                )
    Console().print(table(f"associative recall on {options.model}", lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "make"])
    parser.add_argument("--model", default="recall")
    parser.add_argument("--count", type=positive, default=200, help="problems, for `run` of each size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.action == "run":
        asyncio.run(_run(options))
    else:
        for row in rows(options.count, options.seed, SIZES):
            sys.stdout.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    sys.exit(exit_status(main))
