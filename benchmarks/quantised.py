"""Weights in 8 and 4 bits against bfloat16, in one run: bytes, quality on prose, and tokens per second.

    python -m plait.benchmarks.quantised MODEL [MODEL ...] --text README.md docs/*.md [--tokens 2048] [--repeats 7]

Quality: perplexity of the texts in windows of 512 tokens, how often the likeliest next token is that of bfloat16
weights, and how many of 32 greedy tokens behind each window's first half are (up to the first other one). Speed: one
step of 1, 16 and 64 rows that know a few tokens each, one thread; types take turns. It is CPU time, since cores may be
shared with others: medians, with the fastest and the slowest step.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..attention import AttentionPlan, Group
from ..runtime.engines.native.checkpoint import open_checkpoint
from ..runtime.engines.native.gguf_tokenizer import load_tokenizer
from ..runtime.engines.native.integers import WEIGHT_TYPES, WeightType
from ..runtime.engines.native.loader import load_model
from ..runtime.engines.native.model import Model
from ..runtime.engines.native.ops import KernelOps
from ..runtime.engines.native.pool import KVPool
from . import machine

_WINDOW, _BLOCK = 512, 16
GREEDY = 32
_ROWS = (1, 16, 64)
Kind = WeightType | None


class Sequences:
    """`count` sequences of up to `room` tokens, each in blocks of its own."""

    def __init__(self, model: Model, count: int, room: int, kv: torch.dtype | None = None) -> None:
        """`kv`: of keys and values; None: the model's."""
        self._model = model
        self._blocks = -(-room // _BLOCK)
        blocks = count * self._blocks
        self._pool = KVPool(model.config, blocks, _BLOCK, kv or model.dtype, key_ranges=model.key_ranges)
        self._length = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Append (count, N) tokens; logits (count * N, V)."""
        count, new = tokens.shape
        begin, end = self._length, self._length + new
        self._length = end
        places = torch.arange(begin, end)
        starts = torch.arange(count)[:, None] * self._blocks * _BLOCK
        plan = AttentionPlan(
            num_rows=count * new,
            run_blocks=np.arange(count * self._blocks, dtype=np.int32),
            run_start=np.arange(count + 1, dtype=np.int32) * self._blocks,
            entries=np.array([(i * new, new, i, 0, end, 1, 0, 0) for i in range(count)], dtype=np.int32),
            groups=(Group(),),
        )
        slots = (starts + places).flatten()
        return self._model.forward(tokens.flatten(), places.repeat(count), slots, plan, self._pool)[0]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one type of weights, or of keys and values."""

    perplexity: float
    likeliest: Tensor
    greedy: list[list[int]]


def quality(model: Model, windows: Tensor, kv: torch.dtype | None = None) -> Quality:
    losses, likeliest, greedy = [], [], []
    for window in windows:
        sequence = Sequences(model, 1, len(window), kv)
        logits = torch.cat([sequence.step(part[None]) for part in window.split(_WINDOW)])
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:]).item())
        likeliest.append(logits.argmax(-1))
        greedy.append(continuation(model, window[: len(window) // 2], kv))
    return Quality(math.exp(statistics.fmean(losses)), torch.cat(likeliest), greedy)


def continuation(model: Model, prompt: Tensor, kv: torch.dtype | None = None) -> list[int]:
    sequence, found, new = Sequences(model, 1, len(prompt) + GREEDY, kv), [], prompt
    for _ in range(GREEDY):
        token = sequence.step(new[None])[-1].argmax()
        found.append(int(token))
        new = token[None]
    return found


def same_greedy(ours: Quality, theirs: Quality) -> float:
    """Mean number of tokens before the first other one."""
    pairs = [list(zip(*runs, strict=True)) for runs in zip(ours.greedy, theirs.greedy, strict=True)]
    return statistics.fmean(next((i for i, (a, b) in enumerate(run) if a != b), len(run)) for run in pairs)


def step_seconds(models: dict[Kind, Model], rows: int, repeats: int) -> dict[Kind, list[float]]:
    """CPU time of single steps."""
    sequences = {kind: Sequences(model, rows, repeats + 1) for kind, model in models.items()}
    found: dict[Kind, list[float]] = {kind: [] for kind in models}
    for i in range(repeats + 1):
        for kind, sequence in sequences.items():
            begin = time.process_time()
            sequence.step(torch.arange(rows)[:, None] + 10 * i + 5)
            if i:
                found[kind].append(time.process_time() - begin)
    return found


def speed(rows: int, seconds: list[float]) -> str:
    rates = sorted(rows / one for one in seconds)
    return f"{statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"Weights in 8 and 4 bits\n{machine.describe()}")
    for column in ("model", "weights", "MB", "perplexity", "same next %", f"same of {GREEDY}"):
        table.add_column(column)
    for rows in _ROWS:
        table.add_column(f"tokens/s at {rows}")
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in args.text)
    for path in args.models:
        ids = load_tokenizer(path).encode(text)
        count = max(1, min(args.tokens, len(ids)) // _WINDOW)
        windows = torch.tensor(ids[: count * _WINDOW]).view(count, _WINDOW)
        is_quantised = open_checkpoint(path).is_quantised
        kinds: list[Kind] = [None, *(kind for kind in WEIGHT_TYPES if kind != "stored" or is_quantised)]
        models = {kind: load_model(path, dtype=torch.bfloat16, impl="cpu", weight_type=kind) for kind in kinds}
        steps = {rows: step_seconds(models, rows, args.repeats) for rows in _ROWS}
        qualities = {kind: quality(model, windows) for kind, model in models.items()}
        exact = qualities[None]
        for kind, model in models.items():
            assert isinstance(model.ops, KernelOps)
            found = qualities[kind]
            table.add_row(
                path.name, kind or "bfloat16", f"{model.ops.packed.num_bytes / 1e6:,.0f}", f"{found.perplexity:.3f}",
                f"{100 * (found.likeliest == exact.likeliest).double().mean():.1f}",
                f"{same_greedy(found, exact):.1f}", *(speed(rows, steps[rows][kind]) for rows in _ROWS),
            )  # fmt: skip
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
