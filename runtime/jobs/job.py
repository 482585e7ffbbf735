"""`Job`: one method at work on an engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..budget import Budget, Ledger
from ..engine import Engine
from ..errors import EngineClosed, OutOfBudget, told
from ..event_queue import EventHub, EventQueue
from ..events import AnyEvent, Done, Failed, Started
from ..result import Finish, Outcome, Result, check_outcome
from ..trace.trace import Trace
from .companions import Companions
from .context import Context, Runnable
from .state import JobState, contained

logger = logging.getLogger(__name__)


class Reasoning(Runnable, Protocol):
    """A method, as far as a job knows it."""

    @property
    def method(self) -> str:
        """Its name."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...
    def settings(self, engine: Engine) -> dict[str, Any]:
        """What the trace's header says of it beside its fields."""
        ...


class Description(Protocol):
    """What a job needs of a `JobSpec`."""

    @property
    def method(self) -> Reasoning: ...
    @property
    def budget(self) -> Budget: ...
    @property
    def seed(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def metadata(self) -> dict[str, Any]: ...


class Job:
    """A running job, made by `Runtime.submit`.

    `await job` gives its `Result`, as awaiting an `asyncio.Task` would: it raises what the job raised, and cancelling
    the awaiting task cancels the job. `async for event in job` gives events from then on, until the last one; any
    number of readers may do that, and one that is cancelled leaves the job running. Of a generation that began while
    nobody read, no text is announced, only its end. In another event loop than the one it runs in, both raise
    `EngineClosed`; once it has ended it may be read in any.
    """

    def __init__(
        self,
        id: str,
        spec: Description,
        engine: Engine,
        *,
        companions: Companions | None = None,
        model_files: Mapping[str, str] | None = None,
        trace_file: Path | None = None,
    ) -> None:
        self.id = id
        self.spec = spec
        self.trace = Trace(
            {
                "model": engine.name,
                "method": spec.method.model_dump(mode="json"),
                "seed": spec.seed,
                "settings": {
                    "job": id,
                    "budget": spec.budget.model_dump(exclude_none=True),
                    "priority": spec.priority,
                    "metadata": spec.metadata,
                    **spec.method.settings(engine),
                },
            },
            engine.tokenizer,
        )
        """Grows while the job runs; whole once it has ended, however it ended."""
        self._engine = engine
        self._companions = companions
        self._model_files = model_files
        self._hub = EventHub()
        self._trace_file = trace_file
        self._task = asyncio.create_task(self._run(), name=f"plait job {id}")
        self._task.add_done_callback(self._ended)

    @property
    def is_done(self) -> bool:
        return self._task.done()

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask the job to end; everything it holds is freed before `await job` raises `CancelledError`.

        False: it has ended already.
        """
        return self._task.cancel(reason)

    def on_end(self, call: Callable[[], object]) -> None:
        """Call once the job has ended, on the event loop."""
        self._task.add_done_callback(lambda _: call())

    def __await__(self) -> Generator[Any, None, Result]:
        self._check_loop()
        return self._task.__await__()

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        self._check_loop()
        # Subscribes now and not at the first step, so that nothing in between is missed.
        return _read(self._hub, self._hub.subscribe())

    async def wait(self) -> None:
        """Wait until the job has ended and freed everything; never raises what the job raised."""
        self._check_loop()
        if not self._task.done():
            await asyncio.wait([self._task])

    def _check_loop(self) -> None:
        # Else a reader would sleep on what only the job's own loop can wake.
        if not self._task.done() and asyncio.get_running_loop() is not self._task.get_loop():
            raise EngineClosed("the job runs in another event loop: await and read it there")

    async def _run(self) -> Result:
        spec = self.spec
        self.trace.began = time.time()
        state = JobState(
            self._engine,
            self.trace,
            self._hub,
            job=self.id,
            budget=spec.budget,
            seed=spec.seed,
            priority=spec.priority,
            companions=self._companions,
            model_files=self._model_files,
        )
        context = Context(state, ledger=Ledger(spec.budget.total_tokens), critical_limit=spec.budget.critical_tokens)
        with context.closing():
            return await self._work(state, context)

    async def _work(self, state: JobState, context: Context) -> Result:
        spec = self.spec
        state.emit(Started, method=spec.method.method, model=self._engine.name)
        end: dict[str, Any] = {"finish": Finish.FAILED.value, "answer": None}
        last: AnyEvent | None = None
        try:
            outcome = await self._outcome(context)
            details = {**state.details, **outcome.details}
            end = {"finish": outcome.finish.value, "answer": outcome.answer, "details": details}
        except asyncio.CancelledError as error:
            end["finish"] = Finish.CANCELLED.value
            reason = str(error) or "cancelled"
            last = Failed(job=self.id, time=state.seconds, error=reason, cancelled=True)
            raise
        except BaseException as error:
            end["error"] = told(error)
            last = Failed(job=self.id, time=state.seconds, error=end["error"], cancelled=False)
            raise
        finally:
            state.finish()
            self.trace.end = {**end, "usage": state.usage.to_json()}
            usage = state.usage
            logger.debug("job %s: %s, %d tokens in %.3f s", self.id, end["finish"], usage.total_tokens, usage.seconds)
            try:
                if self._trace_file is not None:
                    self.trace.save_or_warn(self._trace_file)
            finally:
                self._hub.end(last or self._done(state))
        return Result(
            text=outcome.text,
            answer=outcome.answer,
            finish_reason=outcome.finish,
            usage=state.usage,
            trace=self.trace,
            details=details,
        )

    async def _outcome(self, context: Context) -> Outcome:
        name = self.spec.method.method
        try:
            with contained(f"the method {name!r}"):
                return check_outcome(name, await self.spec.method.run(context))
        except OutOfBudget:
            reason = Finish.CRITICAL_TOKENS if context.critical_left == 0 else Finish.TOTAL_TOKENS
            return Outcome(text="", answer=None, finish=reason)

    def _done(self, state: JobState) -> Done:
        assert self.trace.end is not None
        return Done(
            job=self.id,
            time=state.seconds,
            answer=self.trace.end["answer"],
            reason=self.trace.end["finish"],
            total_tokens=state.usage.total_tokens,
            critical_tokens=state.usage.critical_tokens,
        )

    def _ended(self, task: asyncio.Task[Result]) -> None:
        if not task.cancelled():
            task.exception()  # Retrieved: a job nobody awaits must not warn when it is collected.
        elif self.trace.end is None:
            # A task cancelled before its first step has run nothing, `finally` included.
            self.trace.end = {"finish": Finish.CANCELLED.value, "answer": None}
            self._hub.end(Failed(job=self.id, time=0.0, error="cancelled before it started", cancelled=True))
            if self._trace_file is not None:
                self.trace.save_or_warn(self._trace_file)


async def _read(hub: EventHub, queue: EventQueue) -> AsyncIterator[AnyEvent]:
    try:
        async for event in queue:
            yield event
    finally:
        hub.unsubscribe(queue)
