"""`plait eval`: run an evaluation, or go on with one, and write its report.

    plait eval evals/configs/countdown.toml
    plait eval --benchmark countdown --method sequential --method self_consistency:n=4 --window 512 --window 2048
    plait eval --benchmark math500 --data math500.jsonl --method sequential:max_tokens=2048 --model ./model
    plait eval --benchmark countdown --method 'sequential:temperature=[0,0.6],stop=["a","b"]'   # two methods: a sweep
    plait eval --benchmark swebench --data verified.jsonl --repos ./mirrors --method code_monkeys:n=4 --model ./model
    plait eval runs/countdown                           # go on with this one, by the settings in its folder
    plait eval runs/countdown --report                  # the report of what is done so far; run nothing
    plait eval runs/countdown --export countdown.csv    # its results as a table, or as .jsonl; run nothing

Running the same command again goes on where it stopped. Flags go before what the file says.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

from rich.console import Console

from ..runtime.cli.options import add_engine_options, engine_options, method_of, named_path, parse_field, utf8
from ..runtime.errors import InvalidInput
from . import runner
from .benchmark import benchmark_names
from .config import EvalConfig, read_toml
from .export import export
from .store import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=named_path, nargs="?", help="a TOML file (see evals/config.py), or a folder of results"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--report", action="store_true", help="write the report of what is done so far; run nothing")
    action.add_argument(
        "--export", type=named_path, metavar="FILE", help="write the results as .csv or .jsonl; run nothing"
    )
    parser.add_argument("--out", type=named_path, help="folder of results, traces and report (runs/NAME)")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed or timed out")
    parser.add_argument("--benchmark", choices=benchmark_names())
    parser.add_argument("--data", help="the benchmark's problems, JSON Lines or one JSON array")
    parser.add_argument("--repos", metavar="DIR", help="of swebench: a folder of local git mirrors")
    parser.add_argument("--count", type=int, help="problems at most")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of the benchmark")
    parser.add_argument(
        "--method", type=utf8, action="append", metavar="NAME[:FIELD=VALUE,...]", help="may be repeated"
    )
    parser.add_argument("--window", action="append", type=int, metavar="TOKENS", help="context window; may be repeated")
    parser.add_argument("--model", help="as for Runtime: a name, a folder, a GGUF file, a pool (countdown)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--timeout", type=float, help="seconds a job may take")
    parser.add_argument("--concurrency", type=int, help="jobs at a time (16)")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    console = Console(stderr=True)
    if options.export is not None:
        count = export(_folder(options), options.export)
        console.print(f"{count:,} rows in {options.export}", highlight=False, soft_wrap=True)
        return 0
    config, out = EvalConfig(**_config(options)), _folder(options)
    try:
        if options.report:
            report = runner.report_so_far(config, out)
        else:
            report = asyncio.run(runner.run(config, out, retry_failed=options.retry_failed, console=console))
    except KeyboardInterrupt:
        is_there = (out / "report.html").exists()
        done = (
            f"what is done is in {out}, with its report; the same command goes on"
            if is_there
            else "nothing is done yet"
        )
        console.print(f"interrupted; {done}", highlight=False, soft_wrap=True)
        raise
    # The table as it stands, without what Markdown asks for.
    sys.stdout.write(unescape(report.with_suffix(".md").read_text(encoding="utf-8")))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return 0


def _folder(options: argparse.Namespace) -> Path:
    """Of results, traces and report."""
    out: Path | None = options.out
    given: Path | None = options.config
    if out is not None:
        return out
    if given is not None:
        return given if given.is_dir() else Path("runs") / given.stem
    if options.benchmark is None:
        raise InvalidInput("give a configuration file, a folder of results or a --benchmark")
    return Path("runs", options.benchmark)


def _config(options: argparse.Namespace) -> dict[str, Any]:
    data = {}
    if options.config is not None:
        data = read_folder(options.config) if options.config.is_dir() else read_toml(options.config)
    benchmark = _table(data, "benchmark")
    if options.benchmark is not None and options.benchmark != benchmark.get("name"):
        benchmark = {"name": options.benchmark}
    for name in ("data", "repos", "count"):
        if getattr(options, name) is not None:
            benchmark[name] = getattr(options, name)
    benchmark.update(map(parse_field, options.set))
    if not benchmark:
        raise InvalidInput("give a configuration file, a folder of results or a --benchmark")
    data["benchmark"] = benchmark
    if options.method:
        data["methods"] = [method_of(text) for text in options.method]
    if options.window:
        data["windows"] = options.window
    if engine := engine_options(options):
        data["engine"] = {**_table(data, "engine"), **engine}
    for name in ("model", "seed", "timeout", "concurrency"):
        if getattr(options, name) is not None:
            data[name] = getattr(options, name)
    return data


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name, {})
    if not isinstance(found, dict):
        raise InvalidInput(f"{name} is not a table")
    return dict(found)


def read_folder(folder: Path) -> dict[str, Any]:
    """The fields of the `EvalConfig` that a folder of results was made with. Raises `InvalidInput`."""
    settings = read_settings(folder)["settings"]
    return {name: value for name, value in settings.items() if name in EvalConfig.model_fields}
