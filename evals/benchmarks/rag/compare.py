"""Questions over several documents, with the documents encoded in sequence and in parallel.

    python -m plait.evals.benchmarks.rag.compare --model FOLDER --data rag_qa.jsonl --count 50

Three encodings are compared: `sequential`, `parallel` (APE with the model's temperature and scale) and `plain`
(parallel, temperature = scale = 1).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ....runtime.cli.exit_status import exit_status
from ....runtime.cli.files import write_text
from ....runtime.cli.options import positive
from ....runtime.cli.table import table
from ....runtime.disk import check_apart
from ....runtime.runtime import Runtime
from ...stats import wilson
from .questions import Row, Style, exact_match, f1, load

VARIANTS: dict[str, dict[str, Any]] = {
    "sequential": {"encoding": "sequential"},
    "parallel": {"encoding": "parallel"},
    "plain": {"encoding": "parallel", "context_temperature": 1.0, "context_scale": 1.0},
}
"""Name -> fields of the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A row's answer under one encoding."""

    id: str
    answer: str
    exact: bool
    f1: float


async def answer(runtime: Runtime, row: Row, style: Style, **fields: Any) -> Graded:
    """Run one row."""
    result = await (await runtime.submit(style.method(row, **fields)))
    text = result.text.strip()
    return Graded(id=row.id, answer=text, exact=exact_match(text, row.answers), f1=f1(text, row.answers))


async def compare(runtime: Runtime, rows: Sequence[Row], style: Style) -> dict[str, list[Graded]]:
    """All rows under every variant; a row's variants one after the other, so that documents are encoded once."""
    graded: dict[str, list[Graded]] = {name: [] for name in VARIANTS}
    for row in track(rows, description="rag", transient=True, console=Console(stderr=True)):
        for name, fields in VARIANTS.items():
            graded[name].append(await answer(runtime, row, style, **fields))
    return graded


def summary(graded: dict[str, list[Graded]]) -> list[dict[str, object]]:
    """A line per variant; `retained` is F1 against the first variant's."""
    lines: list[dict[str, object]] = []
    base = sum(g.f1 for g in next(iter(graded.values())))
    for name, rows in graded.items():
        exact, total = sum(g.exact for g in rows), sum(g.f1 for g in rows)
        low, high = wilson(exact, len(rows))
        lines.append(
            {
                "encoding": name,
                "rows": len(rows),
                "exact %": 100 * exact / len(rows),
                "95 %": f"{100 * low:.1f}-{100 * high:.1f}",
                "F1 %": 100 * total / len(rows),
                "retained %": 100 * total / base if base else 0.0,
            }
        )
    return lines


async def _main(options: argparse.Namespace) -> None:
    check_apart(options.out, options.data)
    rows = load(options.data)[: options.count]
    style = Style(chat=options.chat, max_tokens=options.max_tokens)
    async with Runtime(options.model) as runtime:
        graded = await compare(runtime, rows, style)
    Console().print(table(f"{options.data.name} on {options.model}", summary(graded)))
    if options.out:
        lines = [{"encoding": name, "id": g.id, "answer": g.answer} for name, all in graded.items() for g in all]
        write_text(options.out, "".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as for Runtime: a name, folder, GGUF file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=positive, help="rows at most")
    parser.add_argument("--chat", action="store_true", help="use the model's chat template")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON Lines file for the answers")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(exit_status(main))
