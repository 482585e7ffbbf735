"""Evaluations: benchmarks, runner, statistics, reports. `await run(EvalConfig(...), folder)`, then `load(folder)`."""

from __future__ import annotations

from .benchmark import (
    Benchmark,
    ProblemUnusable,
    Sample,
    Verdict,
    benchmark_names,
    parse_benchmark,
    register_benchmark,
)
from .config import EvalConfig, MethodConfig
from .export import load
from .runner import run

__all__ = [
    "Benchmark",
    "EvalConfig",
    "MethodConfig",
    "ProblemUnusable",
    "Sample",
    "Verdict",
    "benchmark_names",
    "load",
    "parse_benchmark",
    "register_benchmark",
    "run",
]
