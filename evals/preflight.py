"""What is found out before an evaluation's first job: its settings, and what is wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..runtime.engine import Engine
from ..runtime.engines.model_digest import model_digest, option_digests
from ..runtime.errors import OutOfBlocks, PromptTooLong
from ..runtime.methods.nesting import all_inputs, all_methods
from ..runtime.plugins import blaming
from ..runtime.runtime import Runtime
from .benchmark import Benchmark, ProblemUnusable, Sample
from .config import EvalConfig
from .environment import digest, samples_digest
from .evaluation import Evaluation
from .fields import method_class, read_fields

FILES = ("model_files", "inputs")
"""Settings that are fingerprints of files."""
WINDOWS = "windows_hold"
"""Setting of grids whose rows meant something else when windows held neither where a method's own context limit is
larger nor for methods inside methods."""
ENGINE = ("model", "model_files")
"""Settings that an engine's name takes the place of, where one is given as an object."""
TRIED = 3
"""Problems at most that are looked at for one that can be used."""


def settings_but_files(config: EvalConfig, samples: list[Sample]) -> dict[str, Any]:
    """What decides about the results, but for files that are read as it runs."""
    return {**config.settings(), "problems": f"{len(samples)} problems, {samples_digest(samples)}"}


def all_settings(config: EvalConfig, samples: list[Sample], engine: Engine | None) -> dict[str, Any]:
    """Everything that decides about the results. `engine`: runs for `config.model`, whose place its name takes."""
    inputs = _inputs(config, samples)
    ran = {"model_files": model_digest(config.model)} if engine is None else dict.fromkeys(ENGINE, engine.name)
    return {
        **settings_but_files(config, samples),
        **ran,
        **({"inputs": inputs} if inputs else {}),
        **({WINDOWS: "for larger limits and methods inside, too"} if _windows_replace_limits(config) else {}),
    }


def _windows_replace_limits(config: EvalConfig) -> bool:
    """Does a window hold in the place of a method's own limit, or for methods inside it?"""
    if not config.windows:
        return False
    least = min(config.windows)
    given = [read_fields(method_class(method.fields), method.fields) for method in config.methods]
    return any((getattr(one, "context_limit", None) or 0) > least or any(all_methods(one)) for one in given)


def _inputs(config: EvalConfig, samples: list[Sample]) -> dict[str, str]:
    """Fingerprints of what the benchmark, the methods and the engine read besides. Raises what is wrong with a
    method."""
    with blaming(_place(config.benchmark, samples[0])):
        found = dict(config.benchmark.inputs(samples))
        found |= {f"engine.{name}": files for name, files in option_digests(config.engine).items()}
        for place, method in enumerate(config.methods):
            built = method.build(config.benchmark, samples[0], None)
            found |= {f"methods[{place}].{name}": value for name, value in all_inputs(built).items()}
        return {name: digest(value) for name, value in found.items()}


async def try_one(evaluation: Evaluation, runtime: Runtime, samples: Sequence[Sample]) -> None:
    """Raise what is wrong with all methods, all problems or the benchmark, found out by a problem that can be used."""
    benchmark = evaluation.config.benchmark
    sample = await _usable(benchmark, samples)
    with blaming(_place(benchmark, sample)):
        for method in evaluation.config.methods:
            try:
                built = await asyncio.to_thread(method.build, benchmark, sample, evaluation.windows[0])
                await asyncio.to_thread(runtime.check, built)
            except (PromptTooLong, OutOfBlocks):
                continue  # Of this problem in this window: an outcome.


async def _usable(benchmark: Benchmark, samples: Sequence[Sample]) -> Sample:
    """One of some from all over them: to get ready for a problem may take minutes."""
    distinct = list({sample.id: sample for sample in samples}.values())
    errors = []
    for sample in distinct[:: -(-len(distinct) // TRIED)]:
        try:
            with blaming(_place(benchmark, sample)):
                await benchmark.prepare(sample)
            return sample
        except ProblemUnusable as error:
            errors.append(error)
    raise errors[0]


def _place(benchmark: Benchmark, sample: Sample) -> str:
    return f"{benchmark.name}, problem {sample.id!r}"
