"""Keys and values in 8 bits against bfloat16 and float32, in one run: bytes, quality on prose, CPU time of decoding.

    python -m plait.benchmarks.quantised_kv FOLDER [FOLDER ...] --text README.md docs/*.md [--tokens 6144]

Quality, with weights in bfloat16: perplexity of the texts in windows, how often the likeliest next token is that of
keys and values in bfloat16, and how many of 32 greedy tokens behind each window's first half are (up to the first other
one). Time: CPU time of one step of branches behind a shared prefix, one thread; types take turns: medians, with the
fastest and the slowest step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..attention import AttentionPlan, Group, int8
from ..runtime.engines.native.gguf_tokenizer import load_tokenizer
from ..runtime.engines.native.loader import load_model
from ..runtime.engines.native.model import Model
from ..runtime.engines.native.pool import KVPool
from . import machine
from .quantised import GREEDY, quality, same_greedy

_BLOCK = 16
_KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_CASES = ((1, 1024), (16, 1024), (1, 4096), (16, 4096))
"""Branches, and tokens of their prefix."""


class Branches:
    """Some that share a prefix of random keys and values, and have `room` tokens of their own."""

    def __init__(self, model: Model, dtype: torch.dtype, count: int, prefix: int, room: int) -> None:
        self._model, self._count, self._prefix = model, count, prefix
        self._own = -(-room // _BLOCK)
        self._shared = prefix // _BLOCK
        blocks = self._shared + count * self._own
        self._pool = KVPool(model.config, blocks, _BLOCK, dtype, key_ranges=model.key_ranges)
        heads, size = model.config.stored_heads, model.config.head_dim
        for k, v in zip(self._pool.k, self._pool.v, strict=True):
            keys, values = torch.randn(2, self._shared, heads, _BLOCK, size).unbind()
            is_int8 = dtype == torch.int8
            k[: self._shared] = int8.pack_keys(keys) if is_int8 else keys.transpose(2, 3)
            v[: self._shared] = int8.pack_values(values) if is_int8 else values
        self._length = 0

    def step(self) -> float:
        """CPU time of one more token of each."""
        count, at = self._count, self._length
        self._length += 1
        starts = np.array([0, *(self._shared + self._own * np.arange(count + 1))], dtype=np.int32)
        own = [(i, 1, i + 1, 0, at + 1, 1, 0, 0) for i in range(count)]
        plan = AttentionPlan(
            num_rows=count, run_blocks=np.arange(starts[-1], dtype=np.int32), run_start=starts,
            entries=np.array([(0, count, 0, 0, self._prefix, 0, 0, 0), *own], dtype=np.int32), groups=(Group(),),
        )  # fmt: skip
        slots = torch.from_numpy(starts[1:-1].astype(np.int64)) * _BLOCK + at
        positions = torch.full((count,), self._prefix + at)
        begin = time.process_time()
        self._model.forward(torch.arange(count) + 5, positions, slots, plan, self._pool)
        return time.process_time() - begin


def step_seconds(model: Model, count: int, prefix: int, repeats: int) -> dict[str, list[float]]:
    """Of each type; the first step is for warming up."""
    branches = {kind: Branches(model, dtype, count, prefix, repeats + 1) for kind, dtype in _KINDS.items()}
    steps = [{kind: one.step() for kind, one in branches.items()} for _ in range(repeats + 1)]
    return {kind: [step[kind] for step in steps[1:]] for kind in _KINDS}


def times(seconds: list[float], exact: list[float]) -> str:
    """Milliseconds, and the ratio of the medians."""
    low, median, high = (1000 * f(seconds) for f in (min, statistics.median, max))
    return f"{median:.1f} ({low:.1f}-{high:.1f}) {median / 1000 / statistics.median(exact):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=200)
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in args.text)
    for path in args.models:
        table = Table(title=f"{path.name}: keys and values\n{machine.describe()}")
        for column in ("KV", "bytes/token", "perplexity", "same next %", f"same of {GREEDY}"):
            table.add_column(column)
        for count, prefix in _CASES:
            table.add_column(f"ms at {count} behind {prefix}, ratio")
        ids = load_tokenizer(path).encode(text)
        windows = torch.tensor(ids[: max(1, min(args.tokens, len(ids)) // args.window) * args.window])
        model = load_model(path, dtype=torch.bfloat16, impl="cpu")
        steps = [step_seconds(model, *case, args.repeats) for case in _CASES]
        found = {kind: quality(model, windows.view(-1, args.window), dtype) for kind, dtype in _KINDS.items()}
        exact = found["bfloat16"]
        for kind, dtype in _KINDS.items():
            same = (found[kind].likeliest == exact.likeliest).double().mean()
            table.add_row(
                kind, f"{KVPool.bytes_per_block(model.config, _BLOCK, dtype) // _BLOCK:,}",
                f"{found[kind].perplexity:.3f}", f"{100 * same:.1f}", f"{same_greedy(found[kind], exact):.1f}",
                *(times(case[kind], case["bfloat16"]) for case in steps),
            )  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    main()
