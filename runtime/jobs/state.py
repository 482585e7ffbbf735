"""`JobState`: what all contexts and branches of one running job share, and the books they keep together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Protocol

from ..budget import Budget
from ..engine import Block, Engine
from ..errors import BranchClosed, InvalidBudget, InvalidInput, JobFailed, told
from ..event_queue import EventHub
from ..events import AnyEvent, BudgetUsed
from ..result import Usage
from ..trace.record import SegmentRecord
from ..trace.trace import Trace
from ..trace.writer import TracedBlock, note_sights
from .companions import Companions

KV_SAMPLE_SECONDS = 0.005
"""Between two samples of a job's KV blocks."""


@asynccontextmanager
async def cut_off(at: float | None) -> AsyncIterator[None]:
    """Whatever waits inside is cut off at that time of the event loop, without an error; None: never."""
    limit = asyncio.timeout_at(at)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise


@contextmanager
def contained(who: str) -> Iterator[None]:
    """What somebody's code raises inside fails `who` and nothing else: `InvalidInput` for `SystemExit`, which out of a
    task ends the event loop, and `JobFailed` for a `CancelledError` if nobody has cancelled the current task. What it
    waited for was: a task group or a job would take that for a cancellation of the task, and report no failure."""
    try:
        yield
    except SystemExit as error:
        raise InvalidInput(f"{who} raised {told(error)}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise JobFailed(f"{who} was not cancelled, but something that it waited for was: {error!r}") from error


class OpenBranch(Protocol):
    """What the job needs of a branch that is open."""

    def close(self) -> None:
        """Free it; idempotent."""
        ...


class JobState:
    """Engine, trace, events, usage, deadline and width of one job. Made inside the job's task."""

    def __init__(
        self,
        engine: Engine,
        trace: Trace,
        hub: EventHub,
        *,
        job: str,
        budget: Budget,
        seed: int,
        priority: int,
        companions: Companions | None = None,
        model_files: Mapping[str, str] | None = None,
    ) -> None:
        """Without `companions` the job has only its engine's model."""
        self.engine = engine
        self.model_files = model_files or {}
        """Fingerprints of the engine's model and of what its options name; empty: of none on this disk, or of an engine
        that was given as such."""
        self.companions = companions
        self.trace = trace
        self.hub = hub
        self.job = job
        self.budget = budget
        self.seed = seed
        self.priority = priority
        self.usage = Usage()
        self.started = time.perf_counter()
        loop = asyncio.get_running_loop()
        self.deadline = None if budget.seconds is None else loop.time() + budget.seconds
        """In the event loop's time."""
        self._slots = asyncio.Semaphore(budget.width) if budget.width is not None else None
        self._gang_turn = asyncio.Lock()
        self._around: Counter[asyncio.Task[Any] | None] = Counter()
        """Slots that gangs hold which a task is inside of."""
        self.details: dict[str, Any] = {}
        """JSON values for `Result.details`, beside those of the method."""
        self.contexts: dict[tuple[Any, ...], int] = {}
        """Trace segments of attached contexts, by what was attached where (`TracedBranch.attach_contexts`)."""
        self.branches: dict[str, OpenBranch] = {}
        """Open branches by id."""
        self.blocks: set[TracedBlock] = set()
        """Open blocks. They outlive the scope of their branch: what one part sealed, others may arrange."""
        self.late: list[tuple[SegmentRecord, int, Block]] = []
        """Segments frozen with pending tokens under a view with live spans, and their lengths."""
        self.has_ended = False
        """Tasks that a method left behind may go on, but not with branches of the job."""
        self._phases: dict[str, tuple[int, float]] = {}
        """Active phase -> (how many times it is active, since when)."""
        self._kv_at = self.started
        self._kv_used = 0
        self._kv_sum = 0.0

    @property
    def seconds(self) -> float:
        """Since the job started, to the microsecond."""
        return round(time.perf_counter() - self.started, 6)

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline

    def check_runs(self) -> None:
        """Raise `BranchClosed` once the job has ended."""
        if self.has_ended:
            raise BranchClosed(f"job {self.job} has ended: await what its method begins before the method returns")

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Held while a branch decodes, so that no more do than the budget's width. The order changes no result. Raises
        `InvalidBudget` as `slots` does."""
        self._check_slots(1, "a branch is to generate")
        return self._slots or nullcontext()

    def slots(self, count: int) -> AbstractAsyncContextManager[None]:
        """Held while a gang of `count` branches decodes. All are taken in one turn, so that two gangs never hold a part
        each and wait for the rest. Behind the deadline, when nothing is decoded any more, without them. Raises
        `InvalidBudget` if the budget's width has less beside those of the gangs around: they would never be free."""
        self._check_slots(count, f"{count} branches are to step together")
        return self._hold(count)

    @asynccontextmanager
    async def _hold(self, count: int) -> AsyncIterator[None]:
        taken = 0
        try:
            if self._slots is not None:
                async with cut_off(self.deadline), self._gang_turn:
                    while taken < count:
                        await self._slots.acquire()
                        taken += 1
            with self.inside(taken):
                yield
        finally:
            for _ in range(taken):
                assert self._slots is not None
                self._slots.release()

    @property
    def slots_around(self) -> int:
        """Slots that gangs hold which the current task is inside of, itself or by the `parallel` it is a part of."""
        return self._around[asyncio.current_task()]

    @contextmanager
    def inside(self, slots: int) -> Iterator[None]:
        """The current task is inside of gangs that hold so many slots more."""
        task = asyncio.current_task()
        self._around[task] += slots
        try:
            yield
        finally:
            self._around[task] -= slots
            if not self._around[task]:
                del self._around[task]

    def _check_slots(self, count: int, what: str) -> None:
        width = self.budget.width
        if width is not None and (around := self.slots_around) + count > width:
            beside = f" beside the {around} whose `lockstep` it is inside of" if around else ""
            raise InvalidBudget(f"{what}{beside}: budget.width is {width}")

    def emit(self, cls: type[AnyEvent], **values: Any) -> None:
        """Build and send an event; free when nobody reads."""
        if self.hub.has_readers:
            self.hub.emit(cls(job=self.job, time=self.seconds, **values))

    def emit_budget(self) -> None:
        self.emit(BudgetUsed, total_tokens=self.usage.total_tokens, critical_tokens=self.usage.critical_tokens)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time during which at least one part of the job is inside `name` counts for the phase, once."""
        depth, since = self._phases.get(name, (0, 0.0))
        self._phases[name] = (depth + 1, since if depth else time.perf_counter())
        try:
            yield
        finally:
            depth, since = self._phases.pop(name)
            if depth > 1:
                self._phases[name] = (depth - 1, since)
            else:
                now = time.perf_counter()
                self.usage.phases[name] = self.usage.phases.get(name, 0.0) + now - since

    def sample_memory(self) -> None:
        """Note how many KV blocks the job holds now."""
        now = time.perf_counter()
        if self._kv_used and now - self._kv_at < KV_SAMPLE_SECONDS:
            return
        used = self.engine.block_usage(self.job).used
        # Memory grows while decoding, so the mean of two samples stands for the time between them.
        self._kv_sum += (now - self._kv_at) * (self._kv_used + used) / 2
        self._kv_at, self._kv_used = now, used
        self.usage.peak_kv_blocks = max(self.usage.peak_kv_blocks, used)

    def note_late(self, *, is_end: bool = False) -> None:
        """Note what late tokens saw, where all of them are computed or nobody is left to do so."""
        waiting, self.late = self.late, []
        for segment, length, block in waiting:
            if block.computed < length and not is_end:
                self.late.append((segment, length, block))
            else:
                note_sights(segment, block)
                block.close()

    def finish(self) -> None:
        """Close what is still open and complete the usage."""
        self.has_ended = True
        self.note_late(is_end=True)
        for branch in list(self.branches.values()):
            branch.close()
        for block in list(self.blocks):
            block.close()
        self.usage.seconds = self.seconds
        sampled = self._kv_at - self.started
        self.usage.mean_kv_blocks = self._kv_sum / sampled if sampled > 0 else 0.0
