"""`plait eval`: run an evaluation, or go on with one, and write its report.

    plait eval evals/configs/countdown.toml
    plait eval --benchmark countdown --method sequential --method self_consistency:n=4 --window 512 --window 2048
    plait eval --benchmark math500 --data math500.jsonl --method sequential:max_tokens=2048 --model ./model

Running the same command again goes on where it stopped. Flags go before what the file says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ..runtime.errors import InvalidInput
from . import runner
from .benchmark import benchmark_names
from .config import EvalConfig, read_toml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, nargs="?", help="a TOML file; see evals/config.py")
    parser.add_argument("--out", type=Path, help="folder of results, traces and report (runs/NAME)")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed or timed out")
    parser.add_argument("--benchmark", choices=benchmark_names())
    parser.add_argument("--data", help="the benchmark's problems, JSON Lines")
    parser.add_argument("--count", type=int, help="problems at most")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of the benchmark")
    parser.add_argument("--method", action="append", metavar="NAME[:FIELD=VALUE,...]", help="may be repeated")
    parser.add_argument("--window", action="append", type=int, metavar="TOKENS", help="context window; may be repeated")
    parser.add_argument("--model", help="a shipped model, a folder or scheme:rest (countdown)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--timeout", type=float, help="seconds a job may take")
    parser.add_argument("--concurrency", type=int, help="jobs at a time (16)")


def run(options: argparse.Namespace) -> int:
    config = EvalConfig(**_config(options))
    out = options.out or Path("runs") / (options.config.stem if options.config else config.benchmark.name)
    console = Console(stderr=True)
    try:
        report = asyncio.run(runner.run(config, out, retry_failed=options.retry_failed, console=console))
    except KeyboardInterrupt:
        console.print(f"interrupted; what is done is in {out}, the same command goes on", highlight=False)
        raise
    sys.stdout.write(report.with_suffix(".md").read_text(encoding="utf-8"))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return 0


def _config(options: argparse.Namespace) -> dict[str, Any]:
    data = read_toml(options.config) if options.config else {}
    benchmark = dict(data.get("benchmark", {}))
    if options.benchmark is not None and options.benchmark != benchmark.get("name"):
        benchmark = {"name": options.benchmark}
    for name in ("data", "count"):
        if getattr(options, name) is not None:
            benchmark[name] = getattr(options, name)
    benchmark.update(_field(text) for text in options.set)
    if not benchmark:
        raise InvalidInput("give a configuration file or a --benchmark")
    data["benchmark"] = benchmark
    if options.method:
        data["methods"] = [_method(text) for text in options.method]
    if options.window:
        data["windows"] = options.window
    for name in ("model", "seed", "timeout", "concurrency"):
        if getattr(options, name) is not None:
            data[name] = getattr(options, name)
    return data


def _method(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    return {"method": name, **dict(_field(part) for part in rest.split(",") if part)}


def _field(text: str) -> tuple[str, Any]:
    """`n=4`; a value that is no JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text!r} should be FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
