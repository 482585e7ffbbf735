"""`Context`: what a method gets to work with.

A context is one scope of a job: it opens branches, runs parts side by side, runs other methods inside, and keeps the
scope's ledger and its clock on the critical path. What happens in one context happens in program order, so its clock
is a plain counter of spent tokens; parts of `parallel` start at the clock of their parent, which goes on from the
furthest of them. (Awaiting two generations of one context at once is correct, but its tokens then add up.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .branch import TracedBranch
from .budget import Ledger, OutOfBudget
from .engine import Branch, Capabilities, Engine, Tokenizer
from .errors import InvalidInput
from .events import BranchEvent, BranchStarted
from .job_state import JobState
from .result import Outcome
from .trace import BranchRecord, SpanRecord

if TYPE_CHECKING:
    from .methods.base import Method
    from .methods.contexts import ParallelContexts

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
BranchEventT = TypeVar("BranchEventT", bound=BranchEvent)


class Context:
    """One scope of a running job; see the module's text. Made by the job, `parallel` and `run`, not by methods."""

    def __init__(
        self,
        state: JobState,
        *,
        path: tuple[int, ...] = (),
        level: int = 0,
        ledger: Ledger,
        critical_limit: int | None,
        now: int = 0,
        parent: str | None = None,
    ) -> None:
        self.state = state
        self.path = path
        """Place in the job's tree. Slots below it are handed out in program order, so sampling does not depend on
        scheduling: branch roots are at `path + (slot,)`, parts of `parallel` at `path + (slot, index)`."""
        self.level = level
        """Depth of nested `parallel` scopes; `Budget.depth` limits it."""
        self.ledger = ledger
        self.critical_limit = critical_limit
        self.now = now
        """Spent tokens on the critical path up to here."""
        self.parent = parent
        """The branch that this scope's root branches belong under."""
        self._slot = 0
        self._owned: list[TracedBranch] = []

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        return self.state.engine.tokenizer

    @property
    def capabilities(self) -> Capabilities:
        return self.state.engine.capabilities

    @property
    def context_limit(self) -> int:
        return self.state.engine.context_limit

    @property
    def critical_left(self) -> int | None:
        """Tokens the critical path may still grow by; None: no limit."""
        return None if self.critical_limit is None else max(self.critical_limit - self.now, 0)

    @property
    def is_late(self) -> bool:
        """Is the deadline over?"""
        return self.state.is_late

    @property
    def may_go_deeper(self) -> bool:
        """Does the budget's depth allow another level of children?"""
        depth = self.state.budget.depth
        return depth is None or self.level < depth

    def share(self, parts: int, reserve: int = 0) -> int | None:
        """Tokens each of `parts` would get from `parallel`, by the tighter of both ledgers; None: no limit."""
        shares = []
        if self.ledger.left is not None:
            shares.append(max(self.ledger.left - reserve, 0) // parts)
        if self.critical_left is not None:
            shares.append(max(self.critical_left - reserve, 0))
        return min(shares, default=None)

    # -- branches ----------------------------------------------------------------------------------------------

    def open(
        self,
        tokens: Sequence[int] = (),
        *,
        label: str = "",
        context_limit: int | None = None,
        contexts: ParallelContexts | None = None,
    ) -> TracedBranch:
        """A branch with a context of its own. `tokens` is its prompt, which no ledger counts; `contexts` are attached
        in the midst of it.

        Raises `PromptTooLong`. The branch is closed with the context at the latest.
        """
        limit = min(context_limit or self.context_limit, self.context_limit)
        first = len(tokens) if contexts is None else contexts.at
        branch = self.state.engine.open(
            tokens[:first],
            path=(*self.path, self._next_slot()),
            seed=self.state.seed,
            context_limit=limit,
            job=self.state.job,
            priority=self.state.priority,
        )
        traced = self._trace(branch, "open", self.parent, label, limit)
        traced.record_prompt(tokens[:first])
        count = len(tokens)
        if contexts is not None:
            count += sum(map(len, contexts.texts))
            traced.attach_contexts(contexts.texts, temperature=contexts.temperature, scale=contexts.scale)
            branch.extend(tokens[first:])
            traced.record_prompt(tokens[first:])
        self.emit(BranchStarted, branch=traced.id, parent=traced.record.parent, label=label, prompt_tokens=count)
        return traced

    def trace_fork(
        self,
        parent: TracedBranch,
        branch: Branch,
        label: str,
        view: tuple[SpanRecord, ...],
        packed_at: int | None = None,
    ) -> TracedBranch:
        """Take an engine branch that was forked from `parent` into the books; `packed_at` as in `SegmentWriter`."""
        traced = self._trace(branch, "fork", parent.id, label, parent.context_limit, view, packed_at)
        self.emit(BranchStarted, branch=traced.id, parent=parent.id, label=label, prompt_tokens=0)
        return traced

    async def companion(self, model: str, **options: Any) -> Engine:
        """The engine of another model, loaded with `options` as by `Runtime`, shared by its jobs and closed with it.

        Branches opened there are the caller's to close, and in none of the job's books. Raises what loading raises.
        """
        if self.state.companions is None:
            raise InvalidInput(f"this job can use no other model ({model!r} was asked for)")
        return await self.state.companions.get(model, **options)

    # -- structure ---------------------------------------------------------------------------------------------

    async def parallel(
        self,
        work: Callable[[Context, I], Awaitable[T]],
        items: Sequence[I],
        *,
        parent: TracedBranch | None = None,
        reserve: int = 0,
        until: Callable[[T], bool] | None = None,
        nested: bool = False,
    ) -> list[T | None]:
        """Run `work(part, item)` for all items side by side and wait for all of them.

        Each part is a context of its own with an equal share of the ledger after `reserve` tokens, which are kept back
        on both ledgers for what comes after; unused tokens come back at the end. An item that is a branch belongs to
        its part meanwhile. `parent`: the branch to draw the parts' branches under. `nested`: the parts are one level
        deeper. `until`: once it holds for a result, the other parts are cancelled (their entries are None); which ones
        had finished by then depends on timing. The first exception cancels the other parts and is raised.
        """
        slot = self._next_slot()
        limit = None if self.critical_limit is None else max(self.critical_limit - reserve, self.now)
        parts = [
            Context(
                self.state,
                path=(*self.path, slot, index),
                level=self.level + nested,
                ledger=ledger,
                critical_limit=limit,
                now=self.now,
                parent=parent.id if parent else self.parent,
            )
            for index, ledger in enumerate(self.ledger.split(len(items), reserve))
        ]
        results: list[T | None] = [None] * len(items)
        tasks: list[asyncio.Task[None]] = []

        async def one(index: int) -> None:
            part, item = parts[index], items[index]
            with part._scope(), _lent(item, part):
                result = await work(part, item)
            results[index] = result
            if until is not None and until(result):
                for other in tasks:
                    if other is not asyncio.current_task():
                        other.cancel()

        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(one(index)) for index in range(len(items))]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for part in parts:
                self.ledger.give_back(part.ledger)
                self.now = max(self.now, part.now)
        return results

    async def run(self, method: Method, *, parent: TracedBranch | None = None) -> Outcome:
        """Run another method inside this one, on the same ledger. Raises what `Method.check` raises."""
        method.check(self.state.engine)
        part = Context(
            self.state,
            path=(*self.path, self._next_slot()),
            level=self.level,
            ledger=self.ledger,
            critical_limit=self.critical_limit,
            now=self.now,
            parent=parent.id if parent else self.parent,
        )
        try:
            with part._scope():
                return await method.run(part)
        finally:
            self.now = max(self.now, part.now)

    # -- books -------------------------------------------------------------------------------------------------

    def check_spend(self, tokens: int) -> None:
        """Raise `OutOfBudget` if the context may not inject that many tokens."""
        left = self.critical_left
        if not self.ledger.can_spend(tokens) or (left is not None and tokens > left):
            raise OutOfBudget(f"{tokens} tokens to inject; left are {self.ledger.left} in total, {left} critical")

    def advance(self, tokens: int) -> None:
        """Move the clock by spent tokens."""
        self.now += tokens
        usage = self.state.usage
        usage.critical_tokens = max(usage.critical_tokens, self.now)

    def count(self, name: str, n: int = 1) -> None:
        """Add to `Usage.counts`."""
        if n:
            self.state.usage.counts[name] += n

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under `Usage.phases[name]`."""
        with self.state.phase(name):
            yield

    def emit(self, cls: type[BranchEventT], **values: Any) -> None:
        """Announce an event of a branch."""
        self.state.emit(cls, **values)

    def _next_slot(self) -> int:
        slot, self._slot = self._slot, self._slot + 1
        return slot

    def _trace(
        self,
        branch: Branch,
        origin: Literal["open", "fork"],
        parent: str | None,
        label: str,
        limit: int,
        view: tuple[SpanRecord, ...] = (),
        packed_at: int | None = None,
    ) -> TracedBranch:
        name = ".".join(map(str, branch.path))
        record = BranchRecord(
            id=name,
            parent=parent,
            origin=origin,
            label=label,
            level=self.level,
            step=self.now,
            opened=self.state.seconds,
        )
        traced = TracedBranch(self, branch, record, context_limit=limit, view=view, packed_at=packed_at)
        self._owned.append(traced)
        return traced

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """Branches opened inside are closed at the end."""
        try:
            yield
        finally:
            for branch in self._owned:
                branch.close()


@contextmanager
def _lent(item: object, part: Context) -> Iterator[None]:
    """A branch among the items is charged to its part while that works on it."""
    if not isinstance(item, TracedBranch):
        yield
        return
    owner, item.context = item.context, part
    try:
        yield
    finally:
        item.context = owner
