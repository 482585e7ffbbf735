"""`plait demo`: held-out Countdown problems, solved in one thread and by spawning and joining threads, drawn live.

plait demo --count 5 --numbers 4
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from ....runtime.cli.live import watch
from ....runtime.cli.table import table
from ....runtime.errors import InvalidInput
from ....runtime.methods.apr.compact import LEAF
from ....runtime.printable import printable
from ....runtime.result import Result
from ....runtime.runtime import Runtime
from ...config import MethodConfig
from .benchmark import Countdown, as_sample
from .problems import Problem, validation
from .verify import verify

METHODS = ("sequential", "apr")
BENCHMARK = Countdown()
NUMBERS = LEAF, 5
"""The least that the benchmark and the shipped model have; of six, looking for one that can be solved takes
minutes."""
COUNT = 1, 1000
CONTEXT = 16, 1 << 20


async def demo(runtime: Runtime, problems: Sequence[Problem], console: Console, context: int) -> None:
    """Solve every problem by every method, one after the other, and compare."""
    results: dict[str, list[Result]] = {name: [] for name in METHODS}
    solved = dict.fromkeys(METHODS, 0)
    for number, problem in enumerate(problems, start=1):
        numbers = " ".join(map(str, problem.nums))
        console.print(f"\n{number}/{len(problems)} [bold]make {problem.target} from {numbers}[/]", highlight=False)
        for name in METHODS:
            method = MethodConfig(fields={"method": name}).build(BENCHMARK, as_sample("", problem), context)
            job = await runtime.submit(method)
            await watch(aiter(job), title=name, console=console)
            result = await job
            verdict = verify(problem.nums, problem.target, result.answer or "")
            results[name].append(result)
            solved[name] += verdict.ok
            mark = "[green]solved[/]" if verdict else f"[yellow]{verdict.reason if result.answer else 'no answer'}[/]"
            console.print(f"{name}: {mark}  {escape(printable(result.answer or ''))}", highlight=False, soft_wrap=True)
    console.print()
    title = f"{len(problems)} held-out problems, every thread within {context} tokens of context"
    console.print(table(title, [_row(name, results[name], solved[name]) for name in METHODS]))


def _row(name: str, results: Sequence[Result], solved: int) -> dict[str, object]:
    usages = [result.usage for result in results]
    return {
        "method": name,
        "solved": f"{solved}/{len(results)}",
        "threads": sum(usage.branches for usage in usages),
        "total tokens": sum(usage.total_tokens for usage in usages),
        "critical tokens": sum(usage.critical_tokens for usage in usages),
        "seconds": sum(usage.seconds for usage in usages),
        "KV blocks, peak": max(usage.peak_kv_blocks for usage in usages),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="countdown", help="as for Runtime: a name, folder, GGUF file")
    parser.add_argument("--count", type=int, default=5, help="problems")
    parser.add_argument("--numbers", type=int, default=4, help="numbers in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", type=int, default=512, help="tokens one thread may span")


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    for name, least, most in (("numbers", *NUMBERS), ("count", *COUNT), ("context", *CONTEXT)):
        if not least <= (given := getattr(options, name)) <= most:
            raise InvalidInput(f"--{name} is {given}; from {least} to {most} is possible")
    problems = validation(options.numbers, options.count, options.seed)
    async with Runtime(options.model) as runtime:
        await demo(runtime, problems, Console(), options.context)
