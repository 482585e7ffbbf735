"""Milliseconds per forward pass of Hogwild! workers, against rotate-and-concatenate on the same weights in one run.

    python -m plait.benchmarks.hogwild              a random model of 6 layers, float32
    python -m plait.benchmarks.hogwild --qwen3      a random model of Qwen3-0.6B's shape, bfloat16

1, 2 and 4 workers write behind a shared text of 1k, 4k and 8k tokens, each seeing the others live. The other side is
the method of arXiv 2504.06261's public code in plain torch: in every layer it rotates every block's keys by the block's
offset in each worker's view (once per block and offset; not at all where that is 0), concatenates them and attends.
Keys and values of the shared text are random numbers on both sides; times do not depend on them. Figures are medians of
alternating repetitions with one thread.
"""

from __future__ import annotations

import argparse
import asyncio
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
from torch import Tensor
from torch.nn import functional

from ..runtime.engine import Block, SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.engines.native.loader import load_model
from ..runtime.engines.native.options import NativeOptions
from ..runtime.engines.native.segment import Segment
from . import machine
from .decode import NoTokenizer, qwen3_folder

OPENER = 16
"""Tokens each worker begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of the report; milliseconds per forward pass."""

    shared: int
    """Tokens of the shared text."""
    workers: int
    plait: float
    naive: float
    to_one: float
    """plait's time relative to its time with one worker."""

    @property
    def speedup(self) -> float:
        return self.naive / self.plait


class Naive:
    """Rotate-and-concatenate over a transformers model's modules."""

    def __init__(self, peer: Any, workers: int, shared: int, dtype: torch.dtype) -> None:
        config = peer.config
        self._peer = peer
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._inv_freq = peer.model.rotary_emb.inv_freq
        self._layers = config.num_hidden_layers

        def blocks(tokens: int) -> list[tuple[Tensor, Tensor]]:
            shape = self._kv_heads, tokens, self._size
            return [(torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)) for _ in range(self._layers)]

        self._common = blocks(shared)
        self._own = [blocks(OPENER) for _ in range(workers)]

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """(.., tokens, size) by (tokens,) positions."""
        angles = positions[:, None].float() * self._inv_freq
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        half = self._size // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cos.to(x.dtype) + turned * sin.to(x.dtype)

    def passes(self, count: int) -> float:
        """Seconds of one pass, over `count` of them."""
        fed = torch.arange(len(self._own))
        start = time.perf_counter()
        for _ in range(count):
            fed = self._step(fed)
        return (time.perf_counter() - start) / count

    @torch.inference_mode()
    def _step(self, tokens: Tensor) -> Tensor:
        """One pass: (W,) tokens -> (W,) next tokens."""
        model, workers = self._peer.model, len(tokens)
        x = model.embed_tokens(tokens)
        for index, layer in enumerate(model.layers):
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            q = attention.q_proj(h).view(workers, self._heads, 1, self._size)
            k = attention.k_proj(h).view(workers, self._kv_heads, 1, self._size)
            v = attention.v_proj(h).view(workers, self._kv_heads, 1, self._size)
            if hasattr(attention, "q_norm"):
                q, k = attention.q_norm(q), attention.k_norm(k)
            for w, own in enumerate(self._own):
                old_k, old_v = own[index]
                local = torch.tensor([old_k.shape[1]])
                own[index] = torch.cat([old_k, self._rotate(k[w], local)], 1), torch.cat([old_v, v[w]], 1)
            rotated: dict[tuple[int, int], Tensor] = {}
            keys, values, places = [], [], []
            for w in range(workers):
                order = [*(other for other in range(workers) if other != w), w]
                parts_k, parts_v = [self._common[index][0]], [self._common[index][1]]
                offset = parts_k[0].shape[1]
                for other in order:
                    block_k, block_v = self._own[other][index]
                    if (other, offset) not in rotated:
                        rotated[other, offset] = self._rotate(block_k, torch.full((block_k.shape[1],), offset))
                    parts_k.append(rotated[other, offset])
                    parts_v.append(block_v)
                    offset += block_k.shape[1]
                keys.append(torch.cat(parts_k, 1))
                values.append(torch.cat(parts_v, 1))
                places.append(offset - 1)
            q = torch.stack([self._rotate(q[w], torch.tensor([places[w]])) for w in range(workers)])
            out = functional.scaled_dot_product_attention(
                q, torch.stack(keys), torch.stack(values), enable_gqa=self._heads != self._kv_heads
            )
            x = x + attention.o_proj(out.reshape(workers, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        chosen: Tensor = self._peer.lm_head(model.norm(x)).argmax(-1)
        return chosen


def small_folder(root: Path) -> Path:
    """A random checkpoint for a quick run: 6 layers, 512 channels, 8 heads over 4, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=16384,
    )
    torch.manual_seed(0)
    build: Any = LlamaForCausalLM._from_config
    build(config, dtype=torch.float32).save_pretrained(root)
    return root


def fill(engine: NativeEngine, segment: Segment) -> None:
    """Give the segment's pending tokens random keys and values instead of computing them."""
    with engine.lock:
        if not engine.store.reserve(segment, len(segment.tokens)):
            raise RuntimeError("the store is too small for the shared text")
        engine.store.advance(segment, len(segment.tokens))
        blocks = torch.from_numpy(segment.blocks.astype("int64"))
        for pool in (*engine.pool.k, *engine.pool.v):
            numbers = torch.randn(len(blocks), *pool.shape[1:], device=pool.device)
            pool[blocks.to(pool.device)] = numbers.to(pool.dtype)


class Team:
    """Workers on the engine, behind a shared text."""

    def __init__(self, engine: NativeEngine, workers: int, shared: Block) -> None:
        self._branches = [engine.open() for _ in range(workers)]
        self._live = [branch.block() for branch in self._branches]
        for w, branch in enumerate(self._branches):
            branch.arrange([shared, *(block for block in self._live if block is not self._live[w])])
            branch.extend(torch.randint(engine.vocab_size, (OPENER,)).tolist())

    async def passes(self, count: int) -> float:
        """Seconds of one pass, over `count` of them."""
        for branch in self._branches:
            branch.lockstep("team")
        start = time.perf_counter()
        params = SamplingParams(max_tokens=count, ignore_eos=True)
        await asyncio.gather(*(branch.generate(params) for branch in self._branches))
        seconds = (time.perf_counter() - start) / count
        for branch in self._branches:
            branch.lockstep(None)
        return seconds

    def close(self) -> None:
        for branch in self._branches:
            branch.close()
        for block in self._live:
            block.close()


async def measure(
    folder: Path,
    counts: Sequence[int],
    lengths: Sequence[int],
    *,
    passes: int,
    repeats: int,
    peer_repeats: int,
    dtype: torch.dtype,
) -> list[Figures]:
    """`counts` of workers, 1 among them, at shared texts of `lengths` tokens. `passes`: forward passes of one
    repetition here; one repetition of the other side is one pass."""
    from transformers import AutoModelForCausalLM

    peer: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = load_model(folder, dtype=dtype)
    tokens = max(lengths) + 2 * sum(counts) * (OPENER + (repeats + 2) * passes + 64)
    engine = NativeEngine(model, NoTokenizer(peer.config.vocab_size), NativeOptions(kv_tokens=tokens))
    await engine.start()
    figures: list[Figures] = []
    for shared in lengths:
        common: Any = engine.open(torch.randint(engine.vocab_size, (shared,)).tolist())
        block = common.seal()
        common.close()
        fill(engine, block.spans[-1].segment)
        teams = {workers: Team(engine, workers, block) for workers in counts}
        others = {workers: Naive(peer, workers, shared, dtype) for workers in counts}
        for workers in counts:
            await teams[workers].passes(2)
            others[workers].passes(1)
        ours: dict[int, list[float]] = {workers: [] for workers in counts}
        theirs: dict[int, list[float]] = {workers: [] for workers in counts}
        for repeat in range(repeats):
            for workers in counts:
                ours[workers].append(await teams[workers].passes(passes))
                if repeat < peer_repeats:
                    theirs[workers].append(others[workers].passes(1))
        one = statistics.median(ours[1])
        figures += [
            Figures(
                shared=shared,
                workers=workers,
                plait=statistics.median(ours[workers]) * 1e3,
                naive=statistics.median(theirs[workers]) * 1e3,
                to_one=statistics.median(ours[workers]) / one,
            )
            for workers in counts
        ]
        for team in teams.values():
            team.close()
        block.close()
        engine.store.evict_all()
    await engine.close()
    return figures


def report(title: str, figures: Iterable[Figures]) -> None:
    table = Table(title=f"{title}\n{machine.describe()}")
    for column in ("shared tokens", "workers", "plait ms", "rotate and concatenate ms", "speed-up", "to one worker"):
        table.add_column(column, justify="right")
    for f in figures:
        table.add_row(
            f"{f.shared:,}", str(f.workers), f"{f.plait:.2f}", f"{f.naive:.2f}", f"{f.speedup:.1f}x", f"{f.to_one:.2f}x"
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen3", action="store_true", help="a random model of Qwen3-0.6B's shape")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer-repeats", type=int, default=3, help="of rotate-and-concatenate, which is slow")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        if args.qwen3:
            folder, dtype, passes = qwen3_folder(Path(root)), torch.bfloat16, 4
        else:
            folder, dtype, passes = small_folder(Path(root)), torch.float32, 16
        figures = asyncio.run(
            measure(
                folder,
                (1, 2, 4),
                (1024, 4096, 8192),
                passes=passes,
                repeats=args.repeats,
                peer_repeats=args.peer_repeats,
                dtype=dtype,
            )
        )
    name = "Qwen3-0.6B shape, bfloat16" if args.qwen3 else "6 layers of 512, float32"
    report(f"Hogwild!, ms per forward pass, {name}", figures)


if __name__ == "__main__":
    main()
