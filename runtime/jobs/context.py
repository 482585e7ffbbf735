"""`Context`: what a method gets to work with.

A context is one scope of a job: it opens branches, runs parts side by side, runs other methods inside, and keeps the
scope's ledger and its clock. Parts of `parallel` start at the clock of their parent, which goes on from the furthest of
them, and beside generations that it has under way. (Awaiting two generations of one context at once is correct, but its
tokens then add up, and what the first may spend the second may not.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

from ..budget import check_shares
from ..engine import Engine
from ..errors import BranchBusy, EngineClosed, InvalidInput, PlaitError
from ..events import BranchStarted
from ..result import Outcome, check_outcome
from .branch import AT_A_TIME, TracedBranch
from .scope import Scope, check_text
from .state import contained

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741


class Runnable(Protocol):
    """What a context can run: a `Method`, or anything else that has these two."""

    def check(self, engine: Engine) -> None:
        """Raise what is wrong with running this on `engine`, before any work."""
        ...

    async def run(self, ctx: Context) -> Outcome: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelContexts:
    """What `Context.open` attaches behind the first `at` tokens of a prompt."""

    at: int
    texts: tuple[tuple[int, ...], ...]
    temperature: float
    scale: float
    bias: float = 0.0


class Context(Scope):
    """One scope of a running job; see the module's text. Made by the job, `parallel` and `run`, not by methods."""

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

        Raises `PromptTooLong`, `InvalidInput` for a label that is no text, and `BranchClosed` once the job has ended.
        The branch is closed with the context at the latest.
        """
        self.state.check_runs()
        check_text("a label", label)
        limit = min(context_limit or self.context_limit, self.context_limit)
        first = len(tokens) if contexts is None else contexts.at
        branch = self.engine.open(
            tokens[:first],
            path=(*self.path, self.next_slot()),
            seed=self.state.seed,
            context_limit=limit,
            job=self.state.job,
            priority=self.state.priority,
            deadline=self.state.deadline,
        )
        traced = TracedBranch(self, branch, parent=self.parent, label=label, context_limit=limit)
        traced.record_prompt(tokens[:first])
        count = len(tokens)
        if contexts is not None:
            count += sum(map(len, contexts.texts))
            traced.attach_contexts(
                contexts.texts, temperature=contexts.temperature, scale=contexts.scale, bias=contexts.bias
            )
            branch.extend(tokens[first:])
            traced.record_prompt(tokens[first:])
        self.emit(BranchStarted, branch=traced.id, parent=traced.record.parent, label=label, prompt_tokens=count)
        return traced

    async def companion(self, model: str, **options: Any) -> Engine:
        """The engine of another model, loaded with `options` as by `Runtime`, shared by its jobs and closed with it.

        Branches opened there are the caller's to close, and in none of the job's books. Raises what loading raises.
        """
        self.state.check_runs()
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
        on both ledgers for what comes after; unused tokens come back at the end. An item that is a branch, or a tuple
        with branches in it, belongs to its part meanwhile. `parent`: the branch to draw the parts' branches under.
        `nested`: the parts are one level deeper. `until`: once it holds for a result, the other parts are cancelled
        (their entries are None); which ones had finished by then depends on timing. The first exception, be it of
        `until`, cancels the other parts and is raised: `JobFailed` for a part that was not cancelled, but awaited
        something that was. `InvalidInput` if `reserve` is less than nothing.
        """
        self.state.check_runs()
        reserve, _ = check_shares(reserve)
        slot = self.next_slot()
        limit = None if self.critical_limit is None else max(self.critical_limit - reserve, self.now)
        ledgers = self.ledger.split(len(items), reserve)
        began, around = self.now, self.state.slots_around
        parts: list[Context] = []
        results: list[T | None] = [None] * len(items)
        tasks: list[asyncio.Task[None]] = []
        failures: list[BaseException] = []
        is_over = False
        num_left = len(items)

        def end_others() -> None:
            nonlocal is_over
            is_over = True
            for other in tasks:
                if other is not asyncio.current_task():
                    other.cancel()

        async def one(index: int, part: Context) -> None:
            nonlocal num_left
            try:
                with contained(f"part {index} of parallel"):
                    with part.closing(), _lent(items[index], part), self.state.inside(around):
                        result = await work(part, items[index])
                    is_last = until is not None and bool(until(result))
            except (asyncio.CancelledError, KeyboardInterrupt):
                raise
            except BaseException as error:
                # Not left to the group, which would cancel this context's task and not take that back.
                failures.append(error)
                end_others()
                return
            finally:
                num_left -= 1
                if num_left:  # the last one keeps nobody waiting
                    for branch in _branches(items[index]):
                        branch.sit_out(self, True)
            results[index] = result
            if is_last:
                end_others()

        try:
            async with asyncio.TaskGroup() as group:
                for index, ledger in enumerate(ledgers):
                    if index and index % AT_A_TIME == 0:
                        await asyncio.sleep(0)
                    if is_over:
                        break
                    part = Context(
                        self.state,
                        path=(*self.path, slot, index),
                        level=self.level + nested,
                        ledger=ledger,
                        critical_limit=limit,
                        now=began,
                        parent=parent.id if parent else self.parent,
                        engine=self.engine,
                    )
                    parts.append(part)
                    tasks.append(group.create_task(one(index, part)))
        finally:
            for ledger in ledgers:
                self.ledger.give_back(ledger)
            for part in parts:
                self.now = max(self.now, part.now)
            for branch in chain.from_iterable(map(_branches, items)):
                branch.sit_out(self, False)
        if failures:
            raise failures[0]
        return results

    @asynccontextmanager
    async def lockstep(self, branches: Sequence[TracedBranch]) -> AsyncIterator[None]:
        """Inside, these branches step together: no forward pass runs one of them without all, so that what they see of
        each other (`TracedBranch.watch`) depends on nothing else. When the generation of one ends, those of the others
        end in the same pass (`Finish.GANG`). Who has no budget left sits out, and so do those of a part of this
        context's `parallel` that is over until all parts are. Raises `InvalidBudget` if there are more than may decode
        at a time, and so do generations of other branches inside if the branches are all that may; leaving raises
        `BranchBusy` if one is still generating, unless an exception is raised already."""
        slots = self.state.slots(len(branches))
        gang = ".".join(map(str, (*self.path, self.next_slot())))
        inside: list[TracedBranch] = []
        failed: PlaitError | None = None
        async with slots:
            try:
                for branch in branches:
                    branch.lockstep(gang)
                    inside.append(branch)
                yield
            finally:
                for branch in inside:
                    try:
                        if not branch.is_closed:
                            branch.lockstep(None)
                    except (BranchBusy, EngineClosed) as error:
                        failed = failed or error
            if failed is not None:  # and nothing else, which would say more
                raise failed

    async def run(self, method: Runnable, *, parent: TracedBranch | None = None) -> Outcome:
        """Run another method inside this one, on the same ledger. Raises what its `check` raises, `InvalidInput` if it
        gives no `Outcome`, and `JobFailed` as `parallel` does."""
        self.state.check_runs()
        method.check(self.engine)
        name = getattr(method, "method", type(method).__name__)
        with self._part(self.engine, parent) as part, contained(f"the method {name!r}"):
            return check_outcome(name, await method.run(part))

    @contextmanager
    def on(self, engine: Engine, *, parent: TracedBranch | None = None) -> Iterator[Context]:
        """A part of this scope, on the same ledger, whose branches run on another engine (a `companion`): they are in
        the job's books and in its trace, all but their KV blocks."""
        if engine is not self.state.engine:
            self.state.trace.tokenizers[engine.name] = engine.tokenizer
        with self._part(engine, parent) as part:
            yield part

    @contextmanager
    def _part(self, engine: Engine, parent: TracedBranch | None) -> Iterator[Context]:
        part = Context(
            self.state,
            path=(*self.path, self.next_slot()),
            level=self.level,
            ledger=self.ledger,
            critical_limit=self.critical_limit,
            now=self.now,
            parent=parent.id if parent else self.parent,
            engine=engine,
        )
        try:
            with part.closing():
                yield part
        finally:
            self.now = max(self.now, part.now)


@contextmanager
def _lent(item: object, part: Context) -> Iterator[None]:
    """Branches of an item are charged to its part while that works on it."""
    branches = _branches(item)
    owners = [branch.scope for branch in branches]
    for branch in branches:
        branch.scope = part
    try:
        yield
    finally:
        for branch, owner in zip(branches, owners, strict=True):
            branch.scope = owner


def _branches(item: object) -> list[TracedBranch]:
    return [thing for thing in (item if isinstance(item, tuple) else (item,)) if isinstance(thing, TracedBranch)]
