"""Evaluations: benchmarks, runner, statistics, reports. `await run(EvalConfig(...), folder)`."""

from __future__ import annotations

from .benchmarks.base import Benchmark, Sample, Verdict, parse_benchmark
from .config import EvalConfig, MethodConfig
from .runner import run

__all__ = ["Benchmark", "EvalConfig", "MethodConfig", "Sample", "Verdict", "parse_benchmark", "run"]
