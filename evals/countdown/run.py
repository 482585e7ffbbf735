"""Accuracy and cost of one method on many Countdown problems.

    python -m plait.evals.countdown.run --method apr --context 512 --data problems.jsonl
    python -m plait.evals.countdown.run --method sequential --context 4096 --validation 4

`--data` takes JSON Lines with `nums` and `target`; `--validation N` our own held-out problems of N numbers. Decoding is
greedy, the strict verifier judges, intervals are Wilson's. `--out FILE` keeps one JSON line per problem.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ...runtime.methods.apr import APR
from ...runtime.methods.base import Method
from ...runtime.methods.dialect_compact import LEAF, CompactDialect
from ...runtime.methods.sequential import Sequential
from ...runtime.result import Usage
from ...runtime.runtime import Runtime
from ..stats import wilson
from .problems import Problem, load, validation
from .verify import verify


@dataclass(slots=True)
class Report:
    """What a run measured; means are over all problems, solved or not."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def solved(self) -> int:
        return sum(row["solved"] for row in self.rows)

    def mean(self, name: str) -> float:
        """Of one number of `Usage`."""
        return sum(float(getattr(usage, name)) for usage in self.usages) / len(self.usages)


def build_method(name: str, problem: Problem, context: int | None) -> Method:
    """The method as the shipped model speaks it; APR nests until leaves are left."""
    dialect = CompactDialect()
    if name == "sequential":
        prompt = dialect.root_prompt(problem.nums, problem.target, "seq")
        return Sequential(prompt=prompt, answer="countdown", context_limit=context, logprobs=False)
    prompt = dialect.root_prompt(problem.nums, problem.target, "apr")
    depth = max(1, len(problem.nums) - LEAF)
    return APR(prompt=prompt, dialect="compact", depth=depth, context_limit=context, logprobs=False)


async def run(
    runtime: Runtime, name: str, problems: Sequence[Problem], *, context: int | None = None, concurrency: int = 8
) -> Report:
    """Solve all problems, `concurrency` at a time."""
    report = Report()
    gate = asyncio.Semaphore(concurrency)

    async def one(problem: Problem) -> None:
        async with gate:
            job = await runtime.submit(build_method(name, problem, context))
            result = await job
        verdict = verify(problem.nums, problem.target, result.answer or "")
        report.usages.append(result.usage)
        report.rows.append(
            {
                "nums": problem.nums,
                "target": problem.target,
                "solved": verdict.ok,
                "reason": verdict.reason if result.answer else f"no answer ({result.finish_reason})",
                "answer": result.answer,
                "usage": result.usage.to_json(),
            }
        )

    start = time.perf_counter()
    tasks = [asyncio.create_task(one(problem)) for problem in problems]
    for task in track(tasks, description=name, transient=True):
        await task
    report.seconds = time.perf_counter() - start
    return report


def show(title: str, report: Report) -> None:
    low, high = wilson(report.solved, len(report.rows))
    table = Table(title=title, box=SIMPLE)
    for column in ("solved", "%", "95 %", "tokens", "critical", "threads", "KV", "s each"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(
        f"{report.solved}/{len(report.rows)}",
        f"{100 * report.solved / len(report.rows):.1f}",
        f"{100 * low:.1f}-{100 * high:.1f}",
        f"{report.mean('total_tokens'):,.0f}",
        f"{report.mean('critical_tokens'):,.0f}",
        f"{report.mean('branches'):,.1f}",
        f"{report.mean('peak_kv_blocks'):,.0f}",
        f"{report.seconds / len(report.rows):.2f}",
    )
    Console().print(table)


async def _main(args: argparse.Namespace) -> None:
    problems = load(args.data) if args.data else validation(args.validation, args.count or 1000)
    problems = problems[: args.count]
    async with Runtime(args.model, kv_tokens=args.kv_tokens) as runtime:
        report = await run(runtime, args.method, problems, context=args.context, concurrency=args.concurrency)
    source = args.data.name if args.data else f"validation, {args.validation} numbers"
    show(f"{args.method}, context {args.context or 'unlimited'}, {source}", report)
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in report.rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="countdown", help="a shipped model or a folder")
    parser.add_argument("--method", choices=["apr", "sequential"], default="apr")
    parser.add_argument("--context", type=int, help="tokens one thread may span; default: the model's limit")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="JSON Lines with nums and target")
    source.add_argument("--validation", type=int, default=4, metavar="N", help="held-out problems of N numbers")
    parser.add_argument("--count", type=int, help="problems at most; default: all, or 1,000 of our own")
    parser.add_argument("--concurrency", type=int, default=8, help="problems at a time")
    parser.add_argument("--kv-tokens", type=int, default=131_072, help="size of the KV store")
    parser.add_argument("--out", type=Path, help="JSON Lines file for the verdicts")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
