"""`Service`: takes clients' jobs, within their limits, and runs them on the runtime."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ..budget import Budget
from ..engine import Engine
from ..errors import InvalidInput, PlaitError
from ..events import Failed, Text
from ..job_spec import JobSpec
from ..methods.base import Decoding, Method, blaming_method
from ..methods.nesting import all_methods, fan_out
from ..methods.prompt import LONG_PROMPT, Prompt
from ..methods.registry import METHODS
from ..runtime import Runtime
from ..trace.spans import send_spans
from .bodies import check_lengths, parse_json
from .keys import Client, Keys
from .metrics import Metrics
from .problems import Refused, as_event
from .settings import ServerSettings
from .work import Work

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGE_BODY = 1 << 16
"""Bytes of one that is parsed in a thread."""


class Service:
    """The jobs of a server; `close` ends those that are left."""

    def __init__(self, runtime: Runtime, model: str, settings: ServerSettings, keys: Keys) -> None:
        """Raises `UnsupportedByEngine` for a runtime whose engines are elsewhere."""
        self.runtime = runtime
        self.model = model
        self.settings = settings
        self.keys = keys
        self.metrics = Metrics(runtime.engine.block_usage)
        self.works: dict[str, Work] = {}
        """Those that have not ended, and those that are kept."""
        self.tokens = 0
        """Of all texts so far."""
        self.is_draining = False
        self._kept: set[str] = set()
        self._long_calls = ThreadPoolExecutor(1, "plait server")
        self._turns = asyncio.Semaphore(settings.max_running)

    @property
    def active(self) -> list[Work]:
        """Works that have not ended."""
        return [work for work in self.works.values() if not work.is_over]

    async def prepare(self, specs: Sequence[JobSpec]) -> None:
        """Encode long prompts in a thread, so that others do not wait for it: what takes them then finds them done.
        What is wrong with them is raised by `start`."""
        for spec in specs:
            method = spec.method
            if isinstance(method, Decoding) and _is_long(method.prompt):
                with suppress(Exception):
                    await self._aside(method.tokens, self.runtime.engine.tokenizer)

    async def parse(self, raw: bytes) -> Any:
        """As `parse_json`, and `check_lengths` of what is there."""
        value = await self._aside(parse_json, raw) if len(raw) > LARGE_BODY else parse_json(raw)
        if isinstance(value, dict):
            check_lengths(value, self.runtime.engine.context_limit)
        return value

    async def _aside(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call in the one thread for what takes long: with more of them, others would wait for each in turn."""
        if self.is_draining:
            return call(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._long_calls, call, *arguments)

    def start(
        self,
        client: Client,
        specs: Sequence[JobSpec],
        *,
        keep: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> list[Work]:
        """Begin the jobs of one request, or put them in the queue: all or none. What is wrong with them is raised
        before any work: `Refused` where it is too much, else as by `Runtime.submit`. `keep`: they can be looked at
        after their end. `headers`: of the request; if they name a span, the jobs' are in it."""
        engine = self.runtime.engine
        budgets = [capped(spec.budget, self.settings.limits) for spec in specs]
        wanted: list[int | None] = []
        widest = 1
        for spec, budget in zip(specs, budgets, strict=True):
            widest = max(widest, self.check_method(spec.method))
            with blaming_method(spec.method):
                spec.method.check(engine)
                wanted.append(_spending(spec.method, budget, engine))
        self._admit(client, len(specs))
        reserved = client.reserve(wanted, widest)
        self._forget()
        works = []
        for spec, budget, asked, got in zip(specs, budgets, wanted, reserved, strict=True):
            if got is not None and got != asked:
                budget = budget.model_copy(update={"total_tokens": got})
            work = Work(f"job-{secrets.token_hex(12)}", client, spec.model_copy(update={"budget": budget}))
            self._begin(work, got or 0, headers or {})
            if keep:
                self._kept.add(work.id)
            works.append(work)
        return works

    def _admit(self, client: Client, count: int) -> None:
        """Raise `Refused` where so many more jobs of a client are too many."""
        if self.is_draining:
            raise Refused(503, "the server is shutting down", code="shutting_down")
        places = self.settings.max_running + self.settings.max_queued
        if count > (most := min(client.max_jobs, places)):
            raise Refused(400, f"the request asks for {count} jobs: {most} at the same time are allowed")
        if client.jobs + count > client.max_jobs:
            raise Refused(429, f"{client.jobs} jobs of this key are running or waiting: try later", retry=1)
        if (active := len(self.active)) + count > places:
            waiting = max(active - self.settings.max_running, 0)
            raise Refused(503, f"{waiting} jobs are waiting: try later", code="busy", retry=5)

    def _begin(self, work: Work, reserved: int, headers: Mapping[str, str]) -> None:
        self.works[work.id] = work
        work.client.jobs += 1
        work.task = asyncio.create_task(self._run(work), name=f"plait server {work.id}")
        parent = {name: value for name, value in headers.items() if name in ("traceparent", "tracestate")}
        work.task.add_done_callback(lambda _: self._ended(work, reserved, parent))

    def allow(self, fields: object) -> None:
        """Raise `Refused` for methods that clients may not use here, those inside others too: asked of a method's JSON,
        before its fields are looked at."""
        waiting = [fields]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                self._allow(value.get("method"))
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value

    def _allow(self, name: object) -> None:
        if isinstance(name, str) and name not in self.settings.methods and METHODS.find(name) is not None:
            allowed = ", ".join(self.settings.methods)
            raise Refused(403, f"this server does not allow the method {name!r}; it allows {allowed}")

    def check_method(self, method: Method) -> int:
        """Its `fan_out`. Raises what a method, and those inside it, may not ask for here."""
        for one in all_methods(method):
            self._allow(one.method)
            # Python's regular expressions may take for ever, and would stop the server for all.
            rule = getattr(one, "answer", None)
            if isinstance(rule, str) and rule.startswith("regex:"):
                raise InvalidInput("the server takes no answer rules by regular expression: take another one")
        with blaming_method(method):
            if (asked := fan_out(method)) > (most := self.settings.max_samples):
                raise InvalidInput(f"{asked} branches side by side are asked for: the server allows {most}")
        return asked

    def find(self, client: Client, id: str) -> Work:
        """A kept job of this client. Raises `Refused`."""
        self._forget()
        work = self.works.get(id)
        if work is None or id not in self._kept or work.client is not client:
            raise Refused(404, f"there is no job {id!r} (any more)", code="unknown_job")
        return work

    def list(self, client: Client) -> list[Work]:
        """This client's kept jobs, the latest first."""
        self._forget()
        return [work for id, work in reversed(self.works.items()) if id in self._kept and work.client is client]

    async def drain(self) -> None:
        """Take no more jobs, and wait for those that run; cancel what is left after the limit."""
        self.is_draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds):
                for work in self.active:
                    await work.wait()
        await self.close()

    async def close(self) -> None:
        """Cancel all jobs and wait until they have freed what they hold."""
        self.is_draining = True
        tasks = [work.task for work in self.works.values() if work.task is not None and not work.task.done()]
        for work in self.active:
            work.cancel("the server is shutting down")
        await asyncio.gather(*tasks, return_exceptions=True)
        self._long_calls.shutdown(wait=False)

    async def _run(self, work: Work) -> None:
        method = work.spec.method.method
        self.metrics.queued.labels(method).inc()
        try:
            await self._turns.acquire()
        finally:
            self.metrics.queued.labels(method).dec()
        self.metrics.running.labels(method).inc()
        try:
            await self._follow(work)
        finally:
            self.metrics.running.labels(method).dec()
            self._turns.release()

    async def _follow(self, work: Work) -> None:
        job = await self.runtime.submit(work.spec, id=work.id)
        work.job, work.state = job, "running"
        seen = False
        failed: Failed | None = None
        try:
            async for event in job:
                if isinstance(event, Text):
                    if not seen:
                        self.metrics.first.labels(work.spec.method.method).observe(time.time() - work.created)
                    seen = True
                    self.tokens += event.tokens
                if isinstance(event, Failed) and not event.cancelled:
                    failed = event  # It says more than clients are told.
                else:
                    work.add(event)
            work.result = await job
        except asyncio.CancelledError as error:
            job.cancel(str(error) or "cancelled")
            await job.wait()
            raise
        except BaseException as error:
            if failed is not None:
                work.add(replace(failed, error=as_event(error)))
            raise
        finally:
            self._account(work)

    def _account(self, work: Work) -> None:
        assert work.job is not None
        usage = (work.job.trace.end or {}).get("usage") or {}
        work.client.spent += usage.get("total_tokens", 0)
        self.metrics.preempted.labels(work.spec.method.method).inc(usage.get("preemptions", 0))
        for kind in ("prompt", "generated", "injected", "reused"):
            self.metrics.tokens.labels(kind, work.spec.method.method).inc(usage.get(f"{kind}_tokens", 0))

    def _ended(self, work: Work, reserved: int, parent: Mapping[str, str]) -> None:
        work.client.jobs -= 1
        work.client.reserved -= reserved
        task = work.task
        assert task is not None
        error = None if task.cancelled() else task.exception()
        if work.job is None:  # Its readers are told what the job would have told them.
            reason = "cancelled before it started" if error is None else as_event(error)
            work.add(Failed(job=work.id, time=0.0, error=reason, cancelled=error is None))
        if task.cancelled():
            work.end("cancelled")
        elif error is not None:
            if not isinstance(error, PlaitError):
                logger.error("job %s failed", work.id, exc_info=error)
            work.end("failed", error)
        else:
            work.end("done")
        reason = work.result.finish_reason.value if work.result else work.state
        self.metrics.jobs.labels(work.spec.method.method, reason).inc()
        if work.id not in self._kept:
            self.works.pop(work.id, None)
        if work.job is not None and work.job.trace.began is not None:
            try:
                send_spans(work.job.trace, headers=parent)
            except Exception:  # of whatever the provider calls
                logger.exception("job %s: no spans", work.id)

    def _forget(self) -> None:
        """Drop ended jobs that are too old or too many."""
        ended = [work for work in self.works.values() if work.is_over]
        too_many = len(ended) - self.settings.keep_jobs
        oldest = time.monotonic() - self.settings.keep_seconds
        for number, work in enumerate(sorted(ended, key=lambda work: work.ended_at)):
            if number < too_many or work.ended_at < oldest:
                self.works.pop(work.id, None)
                self._kept.discard(work.id)


def _is_long(prompt: Prompt) -> bool:
    """Does encoding it take milliseconds?"""
    texts = (
        [prompt]
        if isinstance(prompt, str)
        else [text for part in prompt if isinstance(part, dict) for text in part.values()]
    )
    return sum(map(len, texts)) > LONG_PROMPT


def _spending(method: Method, budget: Budget, engine: Engine) -> int | None:
    """Tokens that a job can spend at most; None: no limit is known."""
    limits = (method.most_tokens(engine), budget.total_tokens)
    return min((limit for limit in limits if limit is not None), default=None)


def capped(budget: Budget, limits: Budget) -> Budget:
    """A budget that allows no more than the limits do."""
    asked, most = budget.model_dump(exclude_none=True), limits.model_dump(exclude_none=True)
    return Budget(**asked | {name: min(asked.get(name, most[name]), most[name]) for name in most})
