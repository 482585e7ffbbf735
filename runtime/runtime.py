"""`Runtime`: an engine, and the jobs that run on it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .budget import Budget
from .engine import Engine, Tokenizer
from .engines.loading import load_in_thread
from .engines.model_digest import model_digest, option_digests
from .engines.registry import load_engine
from .errors import EngineClosed, InvalidInput, InvalidJob
from .job_spec import JobSpec
from .jobs.companions import Companions
from .jobs.job import Job
from .methods.base import Method, blaming_method
from .plain import check_plain
from .plugins import Registry, has_methods, is_subclass
from .trace.trace import writable

logger = logging.getLogger(__name__)

AT_ONCE = 100
"""Jobs that are ended in one go: with thousands, the event loop has other things to do in between."""

_runtimes: Registry[type[Runtime]] = Registry(
    "runtime scheme",
    "plait.runtimes",
    "a subclass of Runtime",
    lambda name, cls: is_subclass(cls, Runtime),
)
"""Subclasses that run jobs elsewhere, by the scheme of their address."""


class Runtime:
    """Runs jobs on one engine; an async context manager.

    `Runtime("countdown")` names a shipped model, a folder, a GGUF file, a model of the Hugging Face hub (`org/name`,
    `org/name@revision`, `org/name:FILE.gguf`), or `replay:FILE` and other schemes. It is loaded on entering, in a
    thread; `options` go to the loader. `Runtime(engine=...)` takes an engine that exists. Either way the engine is
    started on entering and closed on leaving. Leaving cancels all jobs and waits for them: no task outlives the
    runtime. Entered again, it loads its model anew; an engine that was given may be one that cannot be started again.

    `Runtime("mqtt://host/pool")` runs them on the workers of a pool instead, with the same operations: `docs/mqtt.md`.
    """

    _is_entered = False
    """From the moment that opening begins until closing has ended."""
    _is_open = False
    _loop: asyncio.AbstractEventLoop | None = None

    def __new__(cls, model: str | Path | None = None, **options: Any) -> Self:
        scheme, mark, _ = str(model).partition("://")
        found = _runtimes.find(scheme) if mark and cls is Runtime else None
        return super().__new__(cls if found is None or not issubclass(found, cls) else found)

    def __init__(self, model: str | Path | None = None, *, engine: Engine | None = None, **options: Any) -> None:
        if (model is None) == (engine is None):
            raise InvalidInput("give either a model or an engine: Runtime('countdown') or Runtime(engine=...)")
        if model is not None and not isinstance(model, (str, Path)):
            raise InvalidInput(f"model: this is a {type(model).__name__}, no name; an engine is Runtime(engine=...)")
        if engine is not None and options:
            raise InvalidInput(f"options {', '.join(options)} are for loading a model; this engine is loaded already")
        if engine is not None and not has_methods(engine, Engine):
            raise InvalidInput(f"engine: this is a {type(engine).__name__}, which has not the methods of an Engine")
        self._model = model
        self._options = options
        self._engine = engine
        self._companions = Companions()
        self._model_files: dict[str, str] = {}
        """See `JobState`."""
        self._jobs: dict[str, Job] = {}
        self._numbers = count(1)

    @property
    def engine(self) -> Engine:
        """Raises `EngineClosed` before the runtime is entered with a model string."""
        if self._engine is None:
            raise EngineClosed("the runtime is not open: use `async with plait.Runtime(...) as rt`")
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The engine's; None where the engines are elsewhere."""
        return self.engine.tokenizer

    def check(self, method: Method) -> None:
        """Raise what is wrong with the method on this engine, as `submit` does; may block."""
        method.check(self.engine)

    @property
    def jobs(self) -> list[Job]:
        """Jobs that have not ended."""
        return list(self._jobs.values())

    async def __aenter__(self) -> Self:
        """Raises `InvalidInput` where it has been entered and not been left, or where no asyncio event loop runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidInput("a runtime needs a running asyncio event loop: `asyncio.run(main())`") from None
        if self._is_entered:
            raise InvalidInput("the runtime has been entered already: share it, or make one for each `async with`")
        self._is_entered = True
        try:
            await self._open()
        except BaseException:
            self._is_entered = False
            raise
        self._is_open, self._loop = True, loop
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # In another event loop nobody could wait for the jobs there are.
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise EngineClosed("the runtime was opened in another event loop: leave it there")
        self._is_open = False
        try:
            await self._close()
        finally:
            self._is_entered = False

    async def _open(self) -> None:
        """Make ready for jobs; what raises leaves nothing behind."""
        if self._model is not None:
            model, options = self._model, self._options
            self._engine = None  # of an earlier time, closed: it need not stay in memory beside the new one
            began = time.perf_counter()

            def load() -> Engine:
                self._model_files = _model_files(str(model), options)
                return load_engine(model, options)

            self._engine = await load_in_thread(load)
            kv = self._engine.block_usage()
            logger.info(
                "loaded %s in %.2f s: windows of %d tokens, %d KV blocks of %d",
                self._model,
                time.perf_counter() - began,
                self._engine.context_limit,
                kv.total,
                kv.block_size,
            )
        try:
            await self.engine.start()
        except BaseException:
            await self.engine.close()
            raise

    async def _close(self) -> None:
        """End all jobs, and free what `_open` took."""
        try:
            await self._cancel_all()
        finally:
            try:
                await self._companions.close()
            finally:
                await self.engine.close()

    async def submit(
        self,
        job: Method | JobSpec,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        priority: int = 0,
        metadata: dict[str, Any] | None = None,
        id: str | None = None,
        trace_file: str | Path | None = None,
    ) -> Job:
        """Start a job. What is wrong with it is raised here, before any work, as a `PlaitError`.

        A `JobSpec` brings its own budget, seed, priority and metadata. `trace_file`: where the trace is written when
        the job ends, however it ends.
        """
        self._check_open()
        spec = JobSpec.of(job, budget=budget, seed=seed, priority=priority, metadata=metadata)
        with blaming_method(spec.method):
            self.check(spec.method)
        check_id(id)
        name = id or self._new_id(self._jobs)
        if name in self._jobs:
            raise InvalidJob(f"a job {name!r} is running")
        file = writable(trace_file)
        with blaming_method(spec.method):  # it is asked for its settings
            started = Job(
                name,
                spec,
                self.engine,
                companions=self._companions,
                model_files=self._model_files,
                trace_file=file,
            )
        self._jobs[name] = started
        started.on_end(lambda: self._jobs.pop(name, None))
        return started

    def _new_id(self, taken: Container[str]) -> str:
        """`job-1` and so on, but none that a caller has given to a job that runs."""
        return next(id for number in self._numbers if (id := f"job-{number}") not in taken)

    def _check_open(self) -> None:
        """Raise `EngineClosed` where no job can be submitted."""
        if not self._is_open:
            raise EngineClosed("the runtime is not open: use `async with plait.Runtime(...) as rt`")
        if asyncio.get_running_loop() is not self._loop:
            raise EngineClosed("the runtime was opened in another event loop: submit jobs there, or open one here")

    async def _cancel_all(self) -> None:
        untold = self.jobs[::-1]
        # Shielded by repetition: if leaving is itself cancelled, the jobs still come to their end first.
        cancelled: asyncio.CancelledError | None = None
        while self.jobs:
            try:
                while untold:
                    untold.pop().cancel("the runtime is closing")
                    if len(untold) % AT_ONCE == 0:
                        await asyncio.sleep(0)
                await asyncio.gather(*(job.wait() for job in self.jobs))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


def _model_files(model: str, options: dict[str, Any]) -> dict[str, str]:
    digest = model_digest(model)
    return {**option_digests(options), **({} if digest is None else {"model": digest})}


def check_id(id: object) -> None:
    """Raise `InvalidJob` for the id of a job that no trace could hold; None: it is not given."""
    if not isinstance(id, str | None):
        raise InvalidJob(f"the id of a job is a text, not {type(id).__name__}")
    try:
        check_plain(id)
    except ValueError as error:
        raise InvalidJob(f"the id of a job: {error}") from None
