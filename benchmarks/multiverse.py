"""Multiverse: what a join costs against re-encoding the text, and how much of its parallelism becomes speed.

    python -m plait.benchmarks.multiverse join                       8 paths of 512 tokens
    python -m plait.benchmarks.multiverse replay TEXTS.jsonl         structured texts, teacher-forced
    options: --qwen3 (random weights of Qwen3-0.6B's shape, bfloat16; else a smaller model, float32), --repeats N
    replay:  --limit N texts (those with the most parallelism first), --thin K (every run of tokens cut to 1/K)

Join: from the last path's last token to the logits behind `<Conclusion>`, once by merging the paths' KV and once by
encoding the merged text behind the prompt, which is cached for both. Medians of alternating repetitions.

Replay: each text is decoded token by token, with every token given, sequentially and with its own forks and merges; one
token per branch and forward pass on both sides. The fastest of alternating repetitions, since other load only slows.
Ideal is total / critical tokens. A text is a JSON line with `text`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..runtime.engine import Branch, SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.engines.native.loader import load_model
from ..runtime.engines.native.options import NativeOptions
from ..runtime.methods.multiverse.replay import Fork, Item, PathItems, Run, count, layout, replay
from . import machine
from .decode import NoTokenizer, qwen3_folder

PROMPT = 64
CHARACTERS = 4
"""Of a token, about what Qwen's tokenizer makes of such texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFigures:
    paths: int
    tokens: int
    """Of each path."""
    merge_seconds: float
    merge_prefilled: int
    encode_seconds: float
    encode_prefilled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFigures:
    name: str
    total: int
    critical: int
    sequential_seconds: float
    parallel_seconds: float

    @property
    def ideal(self) -> float:
        return self.total / self.critical

    @property
    def speedup(self) -> float:
        return self.sequential_seconds / self.parallel_seconds


def small_folder(root: Path) -> Path:
    """A random Llama checkpoint of 100 million parameters, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    build: Any = LlamaForCausalLM._from_config
    build(config, dtype=torch.float32).save_pretrained(root)
    return root


def open_engine(folder: Path, is_qwen3: bool, kv_tokens: int) -> NativeEngine:
    model = load_model(folder, dtype=torch.bfloat16 if is_qwen3 else torch.float32)
    return NativeEngine(model, NoTokenizer(model.config.vocab_size), NativeOptions(kv_tokens=kv_tokens))


def some_tokens(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(1, 4000, (n,), generator=generator).tolist()
    return ids


async def measure_join(engine: NativeEngine, paths: int, tokens: int, repeats: int) -> JoinFigures:
    prompt, conclusion = some_tokens(PROMPT, 0), [7, 8]
    one = SamplingParams(max_tokens=1, ignore_eos=True)
    merged, encoded = [], []
    prefilled = [0, 0]
    await engine.start()
    for repeat in range(1 + repeats):
        engine.store.evict_all()
        parent = engine.open(prompt)
        await parent.generate(SamplingParams(max_tokens=0))
        children = parent.fork(paths)
        for i, child in enumerate(children):
            child.seek(PROMPT)
            child.extend(some_tokens(tokens - 1, 1 + i + repeat * paths))
            # The last token is sampled, and its KV still to be computed, as at the end of a path.
            await child.generate(one)
        start = time.perf_counter()
        parent.merge(children)
        parent.extend(conclusion)
        done = await parent.generate(one)
        merged.append(time.perf_counter() - start)
        prefilled[0] = done.prefilled_tokens
        text = parent.tokens[:-1]
        for branch in (parent, *children):
            branch.close()
        start = time.perf_counter()
        branch = engine.open(text)
        done = await branch.generate(one)
        encoded.append(time.perf_counter() - start)
        prefilled[1] = done.prefilled_tokens
        branch.close()
    await engine.close()
    return JoinFigures(
        paths=paths,
        tokens=tokens,
        merge_seconds=statistics.median(merged[1:]),
        merge_prefilled=prefilled[0],
        encode_seconds=statistics.median(encoded[1:]),
        encode_prefilled=prefilled[1],
    )


def encode(text: str) -> list[int]:
    """Stands in for a tokenizer: which tokens they are does not change the time they take."""
    pieces = re.findall(rf"</?[A-Z][a-z]+>|\n|.{{1,{CHARACTERS}}}", text)
    return [1 + zlib.crc32(piece.encode()) % 4000 for piece in pieces]


def thin(items: list[Item], by: int) -> list[Item]:
    """The same structure with sampled runs cut to 1 / `by`."""
    out: list[Item] = []
    for item in items:
        if isinstance(item, Fork):
            out.append(Fork(item.gap, [PathItems(thin(path.items, by), path.tail) for path in item.paths]))
        else:
            out.append(item if item.is_given else Run(item.tokens[: -(-len(item.tokens) // by)], False))
    return out


def flat(items: list[Item]) -> list[int]:
    """All tokens in order."""
    out: list[int] = []
    for item in items:
        if isinstance(item, Run):
            out += item.tokens
        else:
            out += item.gap
            for path in item.paths:
                out += [*flat(path.items), *path.tail]
    return out


async def decode(branch: Branch, run: Run) -> None:
    """What is given goes in as in a run; the rest is decoded, one forward pass per token."""
    if run.is_given:
        branch.extend(run.tokens)
        return
    tokens = tuple(run.tokens)
    await branch.generate(SamplingParams(max_tokens=len(tokens), forced=tokens, ignore_eos=True))


async def measure_replay(engine: NativeEngine, name: str, items: list[Item], repeats: int) -> ReplayFigures:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for is_parallel in (False, True) * repeats:
        engine.store.evict_all()
        branch = engine.open(some_tokens(PROMPT, 0))
        start = time.perf_counter()
        await replay(branch, items if is_parallel else [Run(flat(items), False)], decode)
        await branch.generate(SamplingParams(max_tokens=0))
        seconds[is_parallel].append(time.perf_counter() - start)
        branch.close()
    total, critical = count(items)
    return ReplayFigures(
        name=name,
        total=total,
        critical=critical,
        sequential_seconds=min(seconds[False]),
        parallel_seconds=min(seconds[True]),
    )


async def replay_all(
    folder: Path, is_qwen3: bool, texts: list[tuple[str, list[Item]]], repeats: int
) -> list[ReplayFigures]:
    longest = max(count(items)[0] for _, items in texts)
    engine = open_engine(folder, is_qwen3, PROMPT + 2 * longest + 4096)
    await engine.start()
    await measure_replay(engine, "", texts[0][1][:1], 1)
    figures = [await measure_replay(engine, name, items, repeats) for name, items in texts]
    await engine.close()
    return figures


def read_texts(file: Path, limit: int | None, by: int) -> list[tuple[str, list[Item]]]:
    texts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        texts.append((str(record.get("id", number)), thin(layout(record["text"], encode), by)))
    texts.sort(key=lambda text: count(text[1])[1] / count(text[1])[0])
    return texts[:limit]


def report_join(figures: JoinFigures, title: str) -> None:
    table = Table(title=f"Join of {figures.paths} paths x {figures.tokens} tokens, {title}\n{machine.describe()}")
    for column in ("", "seconds", "prefilled tokens"):
        table.add_column(column, justify="right")
    table.add_row("merge", f"{figures.merge_seconds:.4f}", str(figures.merge_prefilled))
    table.add_row("encode the text", f"{figures.encode_seconds:.4f}", str(figures.encode_prefilled))
    times = figures.encode_seconds / figures.merge_seconds
    table.add_row("ratio", f"{times:.0f}x", f"{figures.encode_prefilled / figures.merge_prefilled:.0f}x")
    Console(width=110).print(table)


def report_replay(rows: list[ReplayFigures], title: str) -> None:
    table = Table(title=f"Replay of {len(rows)} structured texts, {title}\n{machine.describe()}")
    for column in ("text", "tokens", "critical", "ideal", "sequential s", "multiverse s", "speed-up", "of ideal"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.total),
            str(row.critical),
            f"{row.ideal:.2f}",
            f"{row.sequential_seconds:.1f}",
            f"{row.parallel_seconds:.1f}",
            f"{row.speedup:.2f}",
            f"{row.speedup / row.ideal:.0%}",
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["join", "replay"])
    parser.add_argument("texts", nargs="?", type=Path, help="JSON Lines file of texts (replay)")
    parser.add_argument("--qwen3", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--thin", type=int, default=1)
    args = parser.parse_args()
    if args.what == "replay" and args.texts is None:
        parser.error("replay needs the file of texts")
    torch.set_num_threads(1)
    title = "Qwen3-0.6B shape, bfloat16" if args.qwen3 else "100M parameters, float32"
    with tempfile.TemporaryDirectory() as root:
        folder = (qwen3_folder if args.qwen3 else small_folder)(Path(root))
        if args.what == "join":
            engine = open_engine(folder, args.qwen3, 3 * 8 * 512 + 4096)
            report_join(asyncio.run(measure_join(engine, 8, 512, args.repeats)), title)
        else:
            texts = read_texts(args.texts, args.limit, args.thin)
            report_replay(asyncio.run(replay_all(folder, args.qwen3, texts, args.repeats)), title)


if __name__ == "__main__":
    main()
