"""First token behind many contexts: parallel encoding (APE), cold and warm, against encoding one behind another.

    python -m plait.benchmarks.contexts prefill --layers 4     16 contexts of 1,024 tokens
    python -m plait.benchmarks.contexts latency --layers 2     64 warm contexts of 512 tokens, against transformers
    python -m plait.benchmarks.contexts prefill --model FOLDER --contexts 10 --length 140

A random model with layers of Qwen3-0.6B's shape, or that of a folder, in bfloat16, one thread; the prompt is a prefix
of 4 tokens, the contexts, and 16 tokens behind them. Seconds are from opening the branch to the first new token. Every
layer costs the same, so ratios hardly depend on how many there are; the full model has 28. `prefill`: *sequential*
encodes all as one text; *cold* encodes contexts that nobody has seen; *memory* finds them in the KV pool; *disk* reads
their files, which were pushed out of the page cache. `latency`: transformers' `generate` gets all as one text, once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..runtime.cli.table import table
from ..runtime.engine import SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.engines.native.loader import load_model
from ..runtime.engines.native.options import NativeOptions
from . import machine
from .decode import NoTokenizer, qwen3_folder

PREFIX, QUERY = [1, 2, 3, 4], list(range(100, 116))
VOCAB = 1000
"""Of the random texts."""


def texts(count: int, length: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(length)] for _ in range(count)]


def make_engine(folder: Path, tokens: int, contexts: Path | None = None) -> NativeEngine:
    model = load_model(folder, dtype=torch.bfloat16)
    options = NativeOptions(kv_tokens=tokens + 4096, contexts=contexts, context_bytes=1 << 40)
    return NativeEngine(model, NoTokenizer(model.config.vocab_size), options, source=folder)


async def first_token(engine: NativeEngine, text: Sequence[int], contexts: Sequence[Sequence[int]] = ()) -> list[float]:
    """Wall and processor seconds until the first token behind `text`, with `contexts` attached behind the prefix."""
    start = time.perf_counter(), time.process_time()
    branch = engine.open(text if not contexts else PREFIX)
    if contexts:
        branch.attach_contexts(contexts, temperature=0.9, scale=0.9)
        branch.extend(QUERY)
    await branch.generate(SamplingParams(max_tokens=1, ignore_eos=True))
    seconds = [time.perf_counter() - start[0], time.process_time() - start[1]]
    branch.close()
    return seconds


def leave_page_cache(store: Path) -> None:
    """What is read from the store next comes from the disk."""
    for path in store.glob("*/*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


async def prefill(folder: Path, store: Path, count: int, length: int) -> list[dict[str, object]]:
    """A row per way."""
    engine = make_engine(folder, count * length, store)
    assert engine.contexts is not None
    await engine.start()
    contexts = texts(count, length, seed=1)
    await first_token(engine, [], texts(1, 64, seed=2))  # warm-up
    await engine.contexts.drain()
    seconds = {"sequential": await first_token(engine, [*PREFIX, *sum(contexts, []), *QUERY])}
    engine.store.evict_all()
    seconds["parallel, cold"] = await first_token(engine, [], contexts)
    seconds["parallel, memory"] = await first_token(engine, [], contexts)
    await engine.contexts.drain()
    engine.store.evict_all()
    leave_page_cache(store)
    seconds["parallel, disk"] = await first_token(engine, [], contexts)
    await engine.close()
    base = seconds["sequential"]
    return [
        {"encoding": way, "s": s[0], "CPU s": s[1], "of sequential": f"{s[0] / base[0]:.4f}", "faster": base[0] / s[0]}
        for way, s in seconds.items()
    ]


async def latency(folder: Path, count: int, length: int) -> list[dict[str, object]]:
    """Ours with warm contexts, three times, and transformers once."""
    from transformers import AutoModelForCausalLM

    engine = make_engine(folder, count * length)
    await engine.start()
    contexts = texts(count, length, seed=1)
    cold = await first_token(engine, [], contexts)
    warm = sorted([await first_token(engine, [], contexts) for _ in range(3)])[1]
    await engine.close()
    peer: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = torch.tensor([[*PREFIX, *sum(contexts, []), *QUERY]])
    start = time.perf_counter()
    with torch.inference_mode():
        peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0, max_length=None
        )
    theirs = time.perf_counter() - start
    return [
        {"engine": name, "s": s, "faster": theirs / s}
        for name, s in (("transformers", theirs), ("plait, cold", cold[0]), ("plait, warm", warm[0]))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prefill", "latency"])
    parser.add_argument("--layers", type=int, default=28, help="of the random model")
    parser.add_argument("--model", type=Path, help="a folder, instead of the random model")
    parser.add_argument("--contexts", type=int, help="default: 16 for prefill, 64 for latency")
    parser.add_argument("--length", type=int, help="tokens of each; default: 1,024 for prefill, 512 for latency")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = args.contexts or (16 if args.what == "prefill" else 64)
    length = args.length or (1024 if args.what == "prefill" else 512)
    with tempfile.TemporaryDirectory() as root:
        folder = args.model or qwen3_folder(Path(root) / "model", args.layers)
        if args.what == "prefill":
            rows = asyncio.run(prefill(folder, Path(root) / "contexts", count, length))
        else:
            rows = asyncio.run(latency(folder, count, length))
    model = args.model.name if args.model else f"{args.layers} layers of Qwen3-0.6B's shape"
    shape = f"{count} contexts x {length} tokens, {model}, bfloat16"
    Console().print(table(f"{args.what}: {shape}\n{machine.describe()}", rows))


if __name__ == "__main__":
    main()
