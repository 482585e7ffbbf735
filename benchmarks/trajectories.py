"""CodeMonkeys on a real model: what running trajectories side by side, and what their shared context saves.

    python -m plait.benchmarks.trajectories --model MODEL --repository REPO --issue FILE
    python -m plait.benchmarks.trajectories --model MODEL --repository REPO --issue FILE --context-tokens 20000 --n 10

One job with one trajectory, then one with all (`--n`, 20), the same fields but for that; with `--context-tokens`, the
context is filled to so many tokens with whole files, and only the second job is run. `naive` is what the calls would
read if every call read its whole conversation, which is what a stateless endpoint bills.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..agents.code_monkeys import CodeMonkeys
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from . import machine


async def measure(options: argparse.Namespace) -> list[tuple[int, Result, float]]:
    """(trajectories, result, seconds) of each job."""
    fields: dict[str, Any] = {
        "repository": options.repository,
        "commit": options.commit,
        "issue": options.issue.read_text(),
        "edits": "functions",
        "context": "files" if options.context_tokens else "functions",
        "context_tokens": options.context_tokens or 2000,
        "scan": 0,
        "shows_tests": not options.context_tokens,
        "test_calls": 2,
        "edit_calls": 2,
        "selection_calls": 0,
        "max_tokens": options.max_tokens,
        "sandbox": {"sandbox": options.sandbox},
    }
    found = []
    engine = {"dtype": options.dtype, "kv_tokens": options.kv_tokens}
    async with Runtime(options.model, **{k: v for k, v in engine.items() if v is not None}) as runtime:
        for n in (options.n,) if options.context_tokens else (1, options.n):
            began = time.perf_counter()
            result = await (await runtime.submit(CodeMonkeys(n=n, **fields), seed=options.seed))
            found.append((n, result, time.perf_counter() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--issue", type=Path, required=True)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--sandbox", default="bubblewrap")
    parser.add_argument("--dtype")
    parser.add_argument("--kv-tokens", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table(title=f"CodeMonkeys, {options.model}, {machine.describe()}")
    columns = ("trajectories", "seconds", "calls", "written", "executions", "prefilled", "naive", "saved")
    for name in columns:
        table.add_column(name, justify="right")
    for n, result, seconds in asyncio.run(measure(options)):
        costs, read = result.details["costs"], result.usage.prefilled_tokens
        naive = costs["input"] + costs["cached"]
        values = (n, f"{seconds:.1f}", costs["calls"], costs["output"], result.details["executions"], read, naive)
        table.add_row(*map(str, values), f"{naive / max(read, 1):.1f}x")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
