"""The native engine against llama.cpp on the same GGUF file: a prompt, and branches that share it, in one run.

    python -m plait.benchmarks.llama_cpp FILE.gguf [--weights int4] [--branches 1 16 64] [--prompt 512] [--tokens 32]
    options: --threads N (of either), --repeats N, --quiet: wall clock in place of CPU time

llama.cpp comes by `pip install llama-cpp-python`, built from source; its own interface of batches is called, as its
batched-bench does: the prompt is decoded once, its cells are shared with each sequence, and a step decodes a token of
every sequence, the likeliest one. plait rounds the file's weights to `--weights` as it loads them, and decodes greedily
without drafts. Prompts are random tokens; both take turns. Figures are medians over repetitions after one that is not
counted, of tokens per second of CPU time, which other work on the machine disturbs less than wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..runtime.engine import Branch, SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from . import machine


class Side(Protocol):
    """One of the two."""

    async def prefill(self, prompt: Sequence[int]) -> None: ...
    async def decode(self, branches: int, tokens: int) -> None:
        """Behind the latest prompt."""
        ...


class Plait:
    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self._root: Branch | None = None

    async def prefill(self, prompt: Sequence[int]) -> None:
        await self.close()
        self._root = self.engine.open(list(prompt))
        # What is computed is the prompt; llama.cpp computes logits of its last token, too.
        await self._root.generate(SamplingParams(max_tokens=1, ignore_eos=True))

    async def decode(self, branches: int, tokens: int) -> None:
        assert self._root is not None
        children = self._root.fork(branches)
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        await asyncio.gather(*(child.generate(params) for child in children))
        for child in children:
            child.close()

    async def close(self) -> None:
        if self._root is not None:
            self._root.close()
        self._root = None


class LlamaCpp:
    def __init__(self, path: str, *, context: int, sequences: int, threads: int) -> None:
        import llama_cpp

        self.api = api = llama_cpp
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 2048, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = sequences, threads, threads
        params.kv_unified = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit(f"llama.cpp takes no context for {path}")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(2048, 0, 1)
        self._length = 0
        self._next = 0

    def _run(self, tokens: Sequence[int], places: Sequence[int], owners: Sequence[int], wanted: Sequence[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, place, owner) in enumerate(zip(tokens, places, owners, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, place, 1
            batch.seq_id[i][0], batch.logits[i] = owner, 0
        for i in wanted:
            batch.logits[i] = 1
        if self.api.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp refused a batch")

    def _likeliest(self, row: int) -> int:
        logits = self.api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    async def prefill(self, prompt: Sequence[int]) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self._context), True)
        count = self._length = len(prompt)
        self._run(prompt, range(count), [0] * count, [count - 1])
        self._next = self._likeliest(count - 1)

    async def decode(self, branches: int, tokens: int) -> None:
        memory = self.api.llama_get_memory(self._context)
        for owner in range(1, branches):
            self.api.llama_memory_seq_cp(memory, 0, owner, 0, self._length)
        rows, latest = range(branches), [self._next] * branches
        for step in range(tokens):
            self._run(latest, [self._length + step] * branches, rows, rows)
            latest = [self._likeliest(row) for row in rows]
        for owner in rows:
            self.api.llama_memory_seq_rm(memory, owner, self._length, -1)
        for owner in range(1, branches):
            self.api.llama_memory_seq_rm(memory, owner, -1, -1)


@dataclass(frozen=True, slots=True)
class Line:
    test: str
    ours: float
    theirs: float
    low: float
    high: float
    """Of the ratio, over repetitions."""

    def __str__(self) -> str:
        ratio = f"{self.ours / self.theirs:.2f} ({self.low:.2f}-{self.high:.2f})"
        return f"| {self.test} | {self.ours:,.1f} | {self.theirs:,.1f} | {ratio} |"


async def compare(
    sides: Sequence[Side], branches: Sequence[int], *, prompt: int, tokens: int, repeats: int,
    vocabulary: int, clock: Callable[[], float],
) -> list[Line]:  # fmt: skip
    rng = random.Random(0)
    rates: dict[str, list[list[float]]] = {}

    async def timed(test: str, side: int, count: int, work: Awaitable[None]) -> None:
        start = clock()
        await work
        rates.setdefault(test, [[], []])[side].append(count / (clock() - start))

    for _ in range(repeats + 1):
        text = [rng.randrange(vocabulary) for _ in range(prompt)]
        for i, side in enumerate(sides):
            await timed(f"prefill {prompt}", i, prompt, side.prefill(text))
            for n in branches:
                await timed(
                    f"decode, {n} branches" if n > 1 else "decode, 1 branch", i, n * tokens, side.decode(n, tokens)
                )
    lines = []
    for test, (ours, theirs) in rates.items():
        ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
        lines.append(Line(test, statistics.median(ours[1:]), statistics.median(theirs[1:]), min(ratios), max(ratios)))
    return lines


async def run(args: argparse.Namespace) -> None:
    most = max(args.branches)
    context = args.prompt + most * args.tokens + 64
    engine = NativeEngine.load(
        args.file, weights=args.weights, num_threads=args.threads, draft_rows=0,
        kv_tokens=2 * (args.prompt + most * (args.tokens + 64)),
    )  # fmt: skip
    await engine.start()
    try:
        theirs = LlamaCpp(args.file, context=context, sequences=most, threads=args.threads)
        lines = await compare(
            [Plait(engine), theirs], args.branches, prompt=args.prompt, tokens=args.tokens, repeats=args.repeats,
            vocabulary=engine.vocab_size, clock=time.perf_counter if args.quiet else time.process_time,
        )  # fmt: skip
    finally:
        await engine.close()
    kind = "second" if args.quiet else "second of CPU time"
    print(f"{args.file}, weights {args.weights}; {machine.describe()}; llama-cpp-python {theirs.api.__version__}\n")
    print(f"| tokens per {kind} | plait | llama.cpp | ratio (range) |\n| --- | ---: | ---: | ---: |")
    print("\n".join(map(str, lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--weights", default="int4", choices=("int4", "int8"))
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
