"""Drafts against decoding token by token, one branch, in one run: tokens per second of CPU time, and what was accepted.

    python -m plait.benchmarks.drafting MODEL [--texts TEXTS.jsonl] [--tokens 600] [--repeats 3] [--weights int4]

Rewriting: a function of about 100 lines stands in the prompt, and a name in it is to be changed. Free text: a story.
Conclusions (with `--texts`, Multiverse texts as JSON lines with `text`): the longest conclusions, each behind the text
before it, every token given, so that what is measured does not depend on whether the model was trained for it. The two
engines take turns on the same prompt; their tokens are compared. Medians, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..runtime.engine import SamplingParams
from ..runtime.engines.native.engine import NativeEngine
from ..runtime.engines.native.planner import Planner
from . import machine

LONGEST = 12_000
"""Characters of a text that stands before a conclusion: some 4,000 tokens."""
STORY = "Write a story about a lighthouse keeper who finds a letter in a bottle."


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    prompt: list[int]
    params: SamplingParams


@dataclass(slots=True)
class Figures:
    """Of one task: tokens per second of CPU time without drafts and with them, and what became of the drafts."""

    plain: list[float] = field(default_factory=list)
    drafting: list[float] = field(default_factory=list)
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0


def function() -> str:
    """About 100 lines of code: the methods of the planner, as far as they go."""
    return "\n".join(inspect.getsource(Planner).splitlines()[:100])


def tasks(engine: NativeEngine, texts: Path | None, tokens: int) -> list[Task]:
    tokenizer = engine.tokenizer

    def chat(text: str, opening: str = "") -> list[int]:
        asked = tokenizer.chat([{"role": "user", "content": text}])
        return asked + tokenizer.encode_continuation(asked, opening)

    free = SamplingParams(max_tokens=tokens, temperature=0)
    rewrite = (
        f"Rename `filling` to `plan` everywhere in this code. Answer with the whole code.\n```python\n{function()}\n```"
    )
    found = [
        Task("rewriting", chat(rewrite, "```python\n"), free),
        Task("free text", chat(STORY), free),
        Task("free text, sampled", chat(STORY), SamplingParams(max_tokens=tokens, temperature=0.8)),
    ]
    return found if texts is None else found + [conclusion(engine, text) for text in conclusions(texts)]


def conclusions(texts: Path, count: int = 3) -> list[tuple[str, str]]:
    """(text before, conclusion) of the longest ones."""
    lines = texts.read_text(encoding="utf-8").splitlines()
    found = [
        (text[: match.start(1)], match[1])
        for text in (json.loads(line)["text"] for line in lines)
        for match in re.finditer(r"<Conclusion>(.*?)</Conclusion>", text, re.DOTALL)
    ]
    fitting = [pair for pair in found if len(pair[0]) < LONGEST]
    return sorted(fitting, key=lambda pair: -len(pair[1]))[:count]


def conclusion(engine: NativeEngine, pair: tuple[str, str]) -> Task:
    before = engine.tokenizer.encode(pair[0])
    ids = engine.tokenizer.encode_continuation(before, pair[1])
    return Task("conclusion", before, SamplingParams(max_tokens=len(ids), forced=tuple(ids)))


async def measure(engines: Sequence[NativeEngine], task: Task, figures: Figures) -> None:
    seen = []
    for engine, rates in zip(engines, (figures.plain, figures.drafting), strict=True):
        branch = engine.open(task.prompt)
        await branch.generate(SamplingParams(max_tokens=0))
        start = time.process_time()
        done = await branch.generate(task.params)
        rates.append(len(done.token_ids) / (time.process_time() - start))
        seen.append(done.token_ids)
        branch.close()
    if seen[0] != seen[1]:
        raise SystemExit(f"{task.name}: other tokens with drafts")
    figures.tokens += len(done.token_ids)
    figures.drafted += done.drafted_tokens
    figures.accepted += done.accepted_tokens


async def run(args: argparse.Namespace) -> dict[str, Figures]:
    options: dict[str, Any] = {"kv_tokens": 32768, "dtype": "bfloat16"}
    if args.weights:
        options["weights"] = args.weights
    engines = [NativeEngine.load(args.model, draft_rows=rows, **options) for rows in (0, args.rows)]
    for engine in engines:
        await engine.start()
    found: dict[str, Figures] = {}
    for _ in range(args.repeats):
        for task in tasks(engines[0], args.texts, args.tokens):
            await measure(engines, task, found.setdefault(task.name, Figures()))
    for engine in engines:
        await engine.close()
    return found


def table(found: dict[str, Figures]) -> Table:
    made = Table("task", "tokens", "drafted", "accepted", "tokens/s without", "tokens/s with", "ratio")

    def rates(values: list[float]) -> str:
        return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"

    for name, one in found.items():
        ratios = [b / a for a, b in zip(one.plain, one.drafting, strict=True)]
        made.add_row(
            name, f"{one.tokens:,}", f"{one.drafted:,}", f"{one.accepted:,}", rates(one.plain), rates(one.drafting),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        )  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path, help="Multiverse texts, JSON lines")
    parser.add_argument("--tokens", type=int, default=600, help="new tokens at most, where the model writes itself")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="of a step that verifies drafts")
    parser.add_argument("--weights", choices=("int8", "int4"), help="else bfloat16")
    args = parser.parse_args()
    print(machine.describe())
    Console(width=160).print(table(asyncio.run(run(args))))


if __name__ == "__main__":
    main()
