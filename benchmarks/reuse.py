"""Are sampled texts the same whether the beginning of their prompt is found in the KV store or not?

    python -m plait.benchmarks.reuse MODEL --text README.md [--dtype bfloat16] [--texts 20]

Each text is sampled twice with one seed: in an empty store, and beside an open branch that has read the beginning of
its prompt (a random cut), whose keys and values are then used. They should all be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path

from ..runtime.engine import Completion, SamplingParams
from ..runtime.engines.native.engine import NativeEngine


async def sample(engine: NativeEngine, prompt: list[int], seed: int) -> Completion:
    branch = engine.open(prompt, seed=seed)
    found = await branch.generate(SamplingParams(max_tokens=48, temperature=0.8, ignore_eos=True))
    branch.close()
    return found


async def compare(engine: NativeEngine, ids: list[int], number: int) -> bool:
    rng = random.Random(number)
    begin, cut = rng.randrange(300), rng.randrange(40, 400)
    prompt = ids[begin : begin + cut + rng.randrange(20, 300)]
    engine.store.evict_all()
    cold = await sample(engine, prompt, number)
    engine.store.evict_all()
    other = engine.open(prompt[:cut], seed=99)
    await other.generate(SamplingParams(max_tokens=4, ignore_eos=True))
    warm = await sample(engine, prompt, number)
    other.close()
    assert warm.reused_tokens and not cold.reused_tokens
    return warm.token_ids == cold.token_ids


async def run(args: argparse.Namespace) -> int:
    engine = NativeEngine.load(args.model, dtype=args.dtype, kv_tokens=16384)
    await engine.start()
    ids = engine.tokenizer.encode(args.text.read_text(encoding="utf-8"))
    same = [await compare(engine, ids, number) for number in range(args.texts)]
    await engine.close()
    return sum(same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="of 1,000 tokens at least")
    parser.add_argument("--dtype", default="auto", help="of weights, keys and values")
    parser.add_argument("--texts", type=int, default=20)
    args = parser.parse_args()
    print(f"{args.model}, {args.dtype}: {asyncio.run(run(args))} of {args.texts} texts the same")


if __name__ == "__main__":
    main()
