"""Decode throughput of the native engine against transformers' `generate`, on one model in one run.

    python -m plait.benchmarks.decode              the shipped model at 1, 16 and 64 branches
    python -m plait.benchmarks.decode --qwen3      a random Qwen3-0.6B-shaped model at 1 and 8 branches, bfloat16

Both sides decode greedily from prompts of 16 tokens, ignoring EOS, with one thread: 80 new tokens with the shipped
model, about what one of its threads writes, 32 with the large one. Figures are medians of alternating repetitions;
seconds include prefill.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..runtime.engine import SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.engines.native.options import NativeOptions
from . import machine

SHIPPED = Path(__file__).parent.parent / "models" / "countdown"
PROMPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of the report; rates in tokens per second over all branches."""

    branches: int
    plait: float
    transformers: float
    limit: float
    """The machine's own limit for this number of branches: arithmetic or memory bandwidth, whichever is lower."""

    @property
    def ratio(self) -> float:
        return self.plait / self.transformers

    @property
    def share(self) -> float:
        return self.plait / self.limit


def qwen3_folder(root: Path, layers: int = 28) -> Path:
    """A random checkpoint of Qwen3-0.6B's shape (its published config; 28 layers), bfloat16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    build: Any = Qwen3ForCausalLM._from_config
    model = build(config, dtype=torch.bfloat16)
    model.save_pretrained(root)
    return root


class NoTokenizer:
    """Prompts here are token ids; nothing is ever decoded."""

    prefix_ids: tuple[int, ...] = ()
    byte_ids: frozenset[int] = frozenset()
    tool_marks: tuple[str, str] | None = None
    bos_id = None
    eos_ids = ()

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, token_ids: Iterable[int]) -> str:
        return ""

    def chat(self, messages: Any, tools: Any = ()) -> list[int]:
        raise NotImplementedError


async def measure(folder: Path, counts: list[int], tokens: int, repeats: int, dtype: torch.dtype) -> list[Figures]:
    """`counts`: branches decoded together; `tokens`: new tokens of each."""
    from transformers import AutoModelForCausalLM

    from ..runtime.engines.native.loader import load_model

    peer: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    vocab = peer.config.vocab_size
    rng = random.Random(0)
    model = load_model(folder, dtype=dtype)
    engine = NativeEngine(model, NoTokenizer(vocab), NativeOptions(kv_tokens=max(counts) * (PROMPT + tokens + 64)))
    await engine.start()
    parameters = sum(p.numel() for p in peer.parameters())
    bandwidth, rate = machine.memory_bandwidth(), machine.matrix_rate(dtype)

    def prompts(n: int) -> list[list[int]]:
        return [[rng.randrange(vocab) for _ in range(PROMPT)] for _ in range(n)]

    async def ours(n: int) -> float:
        branches = [engine.open(p) for p in prompts(n)]
        start = time.perf_counter()
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        await asyncio.gather(*(_done(b.generate(params)) for b in branches))
        seconds = time.perf_counter() - start
        for b in branches:
            b.close()
        engine.store.evict_all()
        return seconds

    def theirs(n: int) -> float:
        ids = torch.tensor(prompts(n))
        start = time.perf_counter()
        with torch.inference_mode():
            peer.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                max_length=None,
            )
        return time.perf_counter() - start

    figures = []
    for n in counts:
        await ours(n)
        theirs(n)
        pairs = [(await ours(n), theirs(n)) for _ in range(repeats)]
        steps_per_second = min(rate / (2 * parameters * n), bandwidth / (parameters * dtype.itemsize))
        figures.append(
            Figures(
                branches=n,
                plait=n * tokens / statistics.median(a for a, _ in pairs),
                transformers=n * tokens / statistics.median(b for _, b in pairs),
                limit=n * steps_per_second if parameters > 300_000_000 else rate / (2 * parameters),
            )
        )
    await engine.close()
    return figures


async def _done(generation: Any) -> None:
    await generation


def report(title: str, figures: Iterable[Figures]) -> None:
    table = Table(title=f"{title}\n{machine.describe()}")
    for column in ("branches", "plait tok/s", "transformers tok/s", "ratio", "limit tok/s", "share of limit"):
        table.add_column(column, justify="right")
    for f in figures:
        table.add_row(
            str(f.branches),
            f"{f.plait:,.1f}",
            f"{f.transformers:,.1f}",
            f"{f.ratio:.1f}x",
            f"{f.limit:,.1f}",
            f"{f.share:.0%}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen3", action="store_true", help="a random model of Qwen3-0.6B's shape")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.qwen3:
        with tempfile.TemporaryDirectory() as root:
            folder = qwen3_folder(Path(root))
            figures = asyncio.run(measure(folder, [1, 8], 32, args.repeats, torch.bfloat16))
        report("Decode, Qwen3-0.6B shape, bfloat16 (limit: memory bandwidth or arithmetic)", figures)
    else:
        figures = asyncio.run(measure(SHIPPED, [1, 16, 64], 80, args.repeats, torch.float32))
        report("Decode, shipped Countdown model, float32 (limit: 2 FLOP per parameter and token)", figures)


if __name__ == "__main__":
    main()
