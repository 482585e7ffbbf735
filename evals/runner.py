"""`run`: an evaluation, all its jobs on one runtime, resumable.

A unit is one method on one problem within one budget, in all context windows: it runs in the largest, and again in
those smaller ones whose outcome the larger run does not tell (`windows.narrow`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..agents.fields import Fields
from ..runtime.budget import Budget
from ..runtime.engine import Engine
from ..runtime.errors import EngineClosed, InvalidInput, PromptTooLong, told
from ..runtime.jobs.job import Job
from ..runtime.methods.base import Method
from ..runtime.plugins import blaming
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from ..runtime.trace.trace import Trace
from .benchmark import Sample, closing, read_problems
from .config import EvalConfig, MethodConfig
from .environment import digest, environment
from .evaluation import Evaluation
from .failures import failure
from .names import slug
from .passes import with_passes
from .preflight import FILES, WINDOWS, all_settings, settings_but_files, try_one
from .progress import progress
from .report import write_report
from .rows import Key, Measured, Row, Unit
from .store import Store
from .trees import threads
from .verdicts import judge
from .windows import Narrowed, narrow


async def run(
    config: EvalConfig,
    out: str | Path,
    *,
    engine: Engine | None = None,
    retry_failed: bool = False,
    console: Console | None = None,
) -> Path:
    """Run what is missing of the evaluation in the folder `out`, then write its report; returns the report's path.

    `engine`: run on this one instead of `config.model`, under its name. Being killed loses the jobs in flight; so does
    being cancelled, which writes the report of what is done. Calling it again goes on. Raises `InvalidInput` when the
    folder holds an evaluation with other settings, and whatever is wrong with the model, the problems or a method,
    before any work.
    """
    # Drawing or fetching problems may take minutes: other work of the event loop goes on meanwhile.
    samples = await asyncio.to_thread(read_problems, config.benchmark)
    with blaming(config.benchmark.name):
        await asyncio.to_thread(config.benchmark.check_ready, samples)
    settings = await asyncio.to_thread(all_settings, config, samples, engine)
    with Store(Path(out)) as store, closing(config.benchmark):
        store.open(settings, environment(), retry_failed=retry_failed)
        evaluation = Evaluation(config, store, samples)
        try:
            if any(key not in store.units for key, _, _ in evaluation.entries()):
                async with _runtime(config, engine) as runtime:
                    await _run_missing(evaluation, runtime, console)
        except BaseException:
            if store.units:
                with suppress(InvalidInput):  # What stopped the jobs is what is said.
                    _write(evaluation)
            raise
        return _write(evaluation)


def report_so_far(config: EvalConfig, out: str | Path) -> Path:
    """Write the report of what is done so far, and run nothing; another process may be working on the folder.

    Returns the report's path. Raises `InvalidInput` as `run` does, and when nothing is done.
    """
    samples = read_problems(config.benchmark)
    store = Store(Path(out)).read()
    # Files may have moved since, the model be another engine than the settings name, and windows have meant something
    # else: what is done is done.
    kept = {name: store.settings.get(name) for name in (*FILES, WINDOWS)}
    store.check({**settings_but_files(config, samples), **kept})
    if not store.units:
        raise InvalidInput(f"nothing is done in {out}: there is nothing to report")
    return _write(Evaluation(config, store, samples))


def _write(evaluation: Evaluation) -> Path:
    """All that is made of what is done, the report first; the report's path."""
    report = write_report(evaluation)
    benchmark = evaluation.config.benchmark
    with blaming(benchmark.name):
        benchmark.export(evaluation.store.folder, list(evaluation.answers()))
    return report


def _runtime(config: EvalConfig, engine: Engine | None) -> Runtime:
    return Runtime(config.model, **config.engine) if engine is None else Runtime(engine=engine)


async def _run_missing(evaluation: Evaluation, runtime: Runtime, console: Console | None) -> None:
    config, store = evaluation.config, evaluation.store
    missing = [entry for entry in evaluation.entries() if entry[0] not in store.units]
    if not store.units:
        await try_one(evaluation, runtime, [sample for _, _, sample in missing])
    done = len(store.units)
    async with progress(console, config.benchmark.name, done, done + len(missing)) as count:
        entries = iter(missing)

        async def work() -> None:
            for key, method, sample in entries:
                unit = await _unit(evaluation, runtime, key, method, sample)
                store.add(unit)
                count.advance(unit.has_failed)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(config.concurrency, len(missing))):
                    workers.create_task(work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


async def _unit(evaluation: Evaluation, runtime: Runtime, key: Key, method: MethodConfig, sample: Sample) -> Unit:
    """Run one entry."""
    config = evaluation.config
    rows: list[Row] = []
    last: tuple[Result, Row] | None = None
    try:
        await config.benchmark.prepare(sample)
    except (Exception, SystemExit) as error:  # One problem's failure is data; the others go on.
        reason = told(error)
        return Unit(key=key, rows=tuple(_no_result(w, "failed", reason, None, "") for w in evaluation.windows))
    for window in evaluation.windows:
        try:
            built = _apart(method.build(config.benchmark, sample, window), method, config.budgets[key.budget])
        except (Exception, SystemExit) as error:
            rows.append(_no_result(window, "failed", f"no job: {told(error)}", None, ""))
            continue
        narrowed = None
        if last is not None and window is not None:
            narrowed = await asyncio.to_thread(narrow, built, last[0], window, runtime.tokenizer)
        if narrowed is not None and last is not None:
            try:
                rows.append(await _narrowed(evaluation, sample, built, last[1], window, narrowed))
            except (Exception, SystemExit) as error:
                rows.append(_no_result(window, "failed", f"no verdict: {told(error)}", None, ""))
            continue
        trace = _trace(evaluation, key, method, window)
        last, job = None, None
        try:
            async with asyncio.timeout(config.timeout) as limit:
                job = await runtime.submit(
                    built,
                    budget=config.budgets[key.budget],
                    seed=job_seed(config.seed, sample.id, key.attempt),
                    metadata={"sample": sample.id, "attempt": key.attempt},
                    id=f"{key} {window}",
                    trace_file=evaluation.store.folder / trace,
                )
                result = await job
        except PromptTooLong as error:
            rows.append(_no_result(window, "prompt_too_long", str(error), job, trace, is_final=True))
        except EngineClosed:
            raise
        except (Exception, SystemExit) as error:  # One job's failure is data; the others go on.
            if limit.expired():
                rows.append(_no_result(window, "timeout", f"no result within {config.timeout} s", job, trace))
            else:
                rows.append(_no_result(window, "failed", told(error), job, trace))
        else:
            failed = failure(result.trace)
            if failed is not None:
                rows.append(_no_result(window, failed[0].value, failed[1], job, trace))
                continue
            try:
                row = await _row(evaluation, sample, built, window, result, trace)
            except (Exception, SystemExit) as error:
                reason = f"no verdict: {told(error)}"
                rows.append(_no_result(window, "failed", reason, job, trace))
                continue
            rows.append(row)
            last = result, row
    return Unit(key=key, rows=tuple(_with_trace(row, evaluation.store.folder) for row in rows))


async def _row(
    evaluation: Evaluation, sample: Sample, method: Method, window: int | None, result: Result, trace: str
) -> Row:
    return Row(
        window=window,
        **await _judge(evaluation, sample, method, result, result.details),
        finish=result.finish_reason.value,
        trace=trace,
        **_cost(result.trace),
    )


def _cost(trace: Trace) -> dict[str, Any]:
    """What a job that has ended, however it ended, had cost: fields of a row."""
    usage = (trace.end or {}).get("usage")
    if usage is None:  # it ended before its first step
        return {"counts": {}}
    return {
        "total_tokens": usage["total_tokens"],
        "critical_tokens": usage["critical_tokens"],
        "branches": usage["branches"],
        "counts": dict(sorted(usage["counts"].items())),
        "measured": Measured.of(usage),
        "threads": threads(trace),
    }


async def _narrowed(
    evaluation: Evaluation, sample: Sample, method: Method, larger: Row, window: int | None, narrowed: Narrowed
) -> Row:
    return replace(
        larger,
        window=window,
        **await _judge(evaluation, sample, method, narrowed, narrowed.details),
        finish=narrowed.finish.value,
        total_tokens=narrowed.total_tokens,
        critical_tokens=narrowed.critical_tokens,
        measured=larger.measured if narrowed.is_same else None,
        origin="same" if narrowed.is_same else "cut",
        threads=None,
    )


async def _judge(
    evaluation: Evaluation, sample: Sample, method: Method, found: Result | Narrowed, details: Mapping[str, Any]
) -> dict[str, Any]:
    """The verdict, as fields of a row."""
    benchmark = evaluation.config.benchmark
    verdict = await judge(benchmark, sample, method, found.answer, found.text, details)
    return {
        "correct": verdict.correct,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "extra": await with_passes(verdict.extra, benchmark, sample, method, details),
    }


def _trace(evaluation: Evaluation, key: Key, method: MethodConfig, window: int | None) -> str:
    place = evaluation.config.methods.index(method)
    cell = f"{place}-{slug(method.name)}-{key.budget}-{window or 'own'}"
    return f"traces/{cell}/{evaluation.place(key.sample):05d}-{slug(key.sample)}-{key.attempt}.jsonl.gz"


def _apart(built: Method, method: MethodConfig, budget: Budget) -> Method:
    """With a folder of its own for what it keeps of its jobs: budgets, and some fields, make no other job of one."""
    if not isinstance(built, Fields) or built.folder is None:
        return built
    fields = sorted((name, value) for name, value in method.fields.items() if name != "folder")
    return built.model_copy(update={"folder": built.folder / digest([fields, budget.model_dump(mode="json")])})


def _with_trace(row: Row, folder: Path) -> Row:
    """Without the name of a trace that the disk did not take."""
    return row if row.trace is None or (folder / row.trace).exists() else replace(row, trace=None)


def job_seed(seed: int, sample: str, attempt: int) -> int:
    """A job's seed: its own for every problem and attempt, the same for all methods."""
    digest = hashlib.blake2s(f"{seed} {attempt} {sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _no_result(
    window: int | None, finish: str, reason: str, job: Job | None, trace: str, *, is_final: bool = False
) -> Row:
    """A row without a verdict. `is_final`: running it again would change nothing, so it counts as wrong."""
    return Row(
        window=window,
        correct=False,
        extracted=None,
        reason=reason,
        finish=finish,
        error=None if is_final else reason,
        trace=None if job is None else trace,
        **({"counts": {}} if job is None else _cost(job.trace)),
    )
