"""`Rollouts`: jobs of any method on the model that is being trained, and what came of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic.fields import FieldInfo

from ...evals.benchmark import Benchmark, Sample
from ...evals.config import MethodConfig
from ...runtime import errors
from ...runtime.budget import Budget
from ...runtime.engines.native.engine import NativeEngine
from ...runtime.errors import EngineClosed, PlaitError, PromptTooLong
from ...runtime.methods.base import Method
from ...runtime.methods.registry import METHODS
from ...runtime.plugins import blaming
from ...runtime.result import Result, Usage
from ...runtime.runtime import Runtime
from ...runtime.trace.trace import Trace
from . import credit
from .judges import Judge
from .rewards import grown, outcome, told

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Samples from the model's own distribution: what log-probabilities are recorded of, and what is trained."""
SET = {**PLAIN, "logprobs": True}
"""What rollouts set of a method's fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A rollout to be made."""

    benchmark: Benchmark
    sample: Sample
    seed: int
    is_greedy: bool = False
    """The likeliest tokens, and no verdicts: to see what the model can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout that was made."""

    sample: Sample
    trace: Trace
    outcome: float | None
    """1.0 right, 0.0 wrong, None: nobody can say, since it took too long, its prompt was too long for the model, the
    machine failed it, or the benchmark gave no verdict."""
    reason: str
    reward: float | None
    """The outcome, with what there is for being fast."""
    usage: Usage | None
    told: dict[str, credit.Told] = field(default_factory=dict)
    """What children told, by branch, where credit needs it."""
    grown: dict[str, float | None] = field(default_factory=dict)
    """Grades of leaves that were not pruned, by branch, where credit needs them."""


class Rollouts:
    """Runs jobs on an engine, from a thread without an event loop; a context manager."""

    def __init__(
        self,
        engine: NativeEngine,
        method: MethodConfig,
        *,
        budget: Budget | None = None,
        timeout: float | None = None,
        concurrency: int = 64,
        mode: credit.Mode = "shared",
        judge: Judge | None = None,
        latency: float = 0.0,
    ) -> None:
        """`engine`: not started. `latency`: factor of the acceleration term. `mode`: `shared` needs no verdicts."""
        self.engine = engine
        self._methods = {greedy: sampled(method, greedy=greedy) for greedy in (False, True)}
        self._budget = budget or Budget()
        self._timeout = timeout
        self._concurrency = concurrency
        self._mode = mode
        self._judge = judge
        self._latency = latency
        self._runner = asyncio.Runner()
        self._runtime: Runtime | None = None

    def __enter__(self) -> Rollouts:
        runtime = Runtime(engine=self.engine)
        self._runner.run(runtime.__aenter__())
        self._runtime = runtime
        return self

    def __exit__(self, *_: object) -> None:
        if self._runtime is not None:
            self._runner.run(self._runtime.__aexit__(None, None, None))
        self._runtime = None
        self._runner.close()

    def run(self, requests: Sequence[Request]) -> list[Rollout]:
        """One rollout for each request, in their order. Raises whatever is wrong with the method."""
        return self._runner.run(self._run(requests))

    async def _run(self, requests: Sequence[Request]) -> list[Rollout]:
        turns = asyncio.Semaphore(self._concurrency)

        async def one(request: Request) -> Rollout:
            async with turns:
                return await self._rollout(request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(request)) for request in requests]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _rollout(self, request: Request) -> Rollout:
        sample = request.sample
        method = self._methods[request.is_greedy].build(request.benchmark, sample, None)
        job = None
        assert self._runtime is not None
        try:
            async with asyncio.timeout(self._timeout) as limit:
                job = await self._runtime.submit(
                    method, budget=self._budget, seed=request.seed, metadata={"sample": sample.id}
                )
                result = await job
        except EngineClosed:
            raise
        except Exception as error:  # One job's failure is no judgement of the model; the others go on.
            if job is None and not isinstance(error, PromptTooLong):
                raise
            trace = Trace() if job is None else job.trace
            reason = "timeout" if limit.expired() else errors.told(error)
            return Rollout(sample=sample, trace=trace, outcome=None, reason=reason, reward=None, usage=None)
        try:
            # What a benchmark raises is as little a judgement of the model.
            with blaming(f"{request.benchmark.name} on {sample.id!r}"):
                return await self._judged(request, method, result)
        except PlaitError as error:
            return Rollout(
                sample=sample,
                trace=result.trace,
                outcome=None,
                reason=f"no verdict: {error}",
                reward=None,
                usage=result.usage,
            )

    async def _judged(self, request: Request, method: Method, result: Result) -> Rollout:
        benchmark, sample, trace = request.benchmark, request.sample, result.trace
        usage, tokenizer = result.usage, self.engine.tokenizer
        right, reason = await outcome(benchmark, sample, method, result)
        is_judged = right is not None and not request.is_greedy and self._mode != "shared"
        children: dict[str, credit.Told] = {}
        leaves: dict[str, float | None] = {}
        if is_judged and self._judge is not None:
            children = await asyncio.to_thread(told, sample, trace, tokenizer, self._judge)
        if is_judged and self._mode == "tree":
            leaves = await asyncio.to_thread(grown, benchmark, sample, method, trace, tokenizer)
        return Rollout(
            sample=sample,
            trace=trace,
            outcome=right,
            reason=reason,
            reward=credit.accelerated(right, usage.critical_tokens, usage.total_tokens, self._latency),
            usage=usage,
            told=children,
            grown=leaves,
        )


def failures(rollouts: Sequence[Rollout]) -> str | None:
    """How many of them nobody could judge, and mostly why; None: all were judged."""
    reasons = Counter(rollout.reason for rollout in rollouts if rollout.outcome is None)
    if not reasons:
        return None
    ((reason, _),) = reasons.most_common(1)
    return f"{reasons.total()} of {len(rollouts)} rollouts failed, mostly by: {reason}"


def sampled(method: MethodConfig, *, greedy: bool = False) -> MethodConfig:
    """The method with what rollouts set of its fields, and of those of the methods inside it, if they have them."""
    values = {**SET, "temperature": 0.0, "logprobs": False} if greedy else SET
    return MethodConfig(fields=_with(method.fields, values))


def _with(value: Any, values: dict[str, Any]) -> Any:
    """JSON in which every method has these values of the fields that it knows."""
    if isinstance(value, list):
        return [_with(one, values) for one in value]
    if not isinstance(value, dict):
        return value
    known = _known(value)
    return {
        **{name: _with(one, values) for name, one in value.items()},
        **{name: one for name, one in values.items() if name in known},
    }


def _known(value: dict[str, Any]) -> dict[str, FieldInfo]:
    """The fields of the method that this is the JSON of; none if it is no method's."""
    name = value.get("method")
    cls = METHODS.find(name) if isinstance(name, str) else None
    return {} if cls is None else cls.model_fields


def unlike(fields: dict[str, Any]) -> list[str]:
    """Fields, of a method or of one inside it, by which rollouts would not sample from the model's own distribution.
    Of methods inside all fields are written out: those that are as they are by default say nothing."""
    found = [name for name in SET if name in fields]
    todo = list(fields.values())
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            known = _known(one)
            names = [name for name in SET if name in known]
            odd = [name for name in names if one.get(name) not in (None, SET[name], known[name].default)]
            found += [f"{one['method']}.{name}" for name in odd]
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


def rollout_seed(seed: int, place: int, sample: str, member: int) -> int:
    """A job's seed: its own for every problem in its `place` in the run and every member of its group."""
    digest = hashlib.blake2s(f"{seed} {place} {member} {sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
