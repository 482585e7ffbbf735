"""`Work`: what all stages of one job share, and how a stage is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeVar

from ..runtime.errors import EngineClosed, PlaitError, told
from ..runtime.jobs.branch import TracedBranch
from ..runtime.jobs.context import Context, ParallelContexts
from .chat import Chat, shared_prompt
from .costs import Costs, StageCost
from .executions import Executions
from .fields import Fields, Stage
from .folder import Folder
from .machines.machine import WANTS, Data, Machine

D = TypeVar("D", bound=Data)


class Work:
    """One job: its fields, folder, books and executions, and the trunk that all its branches are drawn under."""

    def __init__(self, fields: Fields, ctx: Context) -> None:
        self.fields = fields
        self.ctx = ctx
        self.folder = Folder(fields.folder)
        self.costs = Costs(prices=fields.prices, folder=self.folder)
        self.executions = Executions(
            fields.sandbox,
            fields.source.snapshot,
            self.folder,
            seconds=fields.seconds,
            at_once=fields.executions,
            deadline=ctx.state.deadline,
        )
        self.trunk = ctx.open(label=f"issue of {fields.project_name}")
        self.failed: dict[str, str] = {}
        """Machines that an engine's error ended, and what it was."""
        self.wanting: set[str] = set()
        """`BUDGET`, `LATE`, `MEMORY`: what machines ended for want of."""

    def open(
        self,
        part: Context,
        stage: Stage,
        system: str,
        cost: StageCost,
        *,
        label: str,
        contexts: ParallelContexts | None = None,
    ) -> Chat:
        """A conversation of a stage, which begins with this message. Raises `PromptTooLong`."""
        messages = [{"role": "system", "content": system}]
        tokens = shared_prompt(messages, part.tokenizer)
        branch = part.open(tokens, label=label, context_limit=self.fields.context_limit, contexts=contexts)
        return Chat(branch, messages, self.fields.sampling(part, stage), cost, self.fields.generators.get(stage))

    @asynccontextmanager
    async def stage(self, name: Stage, ctx: Context | None = None) -> AsyncIterator[tuple[Context, StageCost]]:
        """A scope on the stage's model, inside `ctx` or the job's own, and its account. Raises what loading the model
        raises."""
        ctx = ctx or self.ctx
        other = self.fields.models.get(name)
        engine = ctx.engine if other is None else await ctx.companion(other.model, **other.options)
        if name == "edits":
            self.fields.check_engine(engine)
        self.trunk.enter(name)
        with (
            ctx.on(engine, parent=self.trunk) as part,
            ctx.phase(name),
            self.costs.stage(name, engine.name) as cost,
        ):
            yield part, cost

    async def run(self, part: Context, machines: Sequence[Machine[D]], *, at_once: int | None = None) -> list[D]:
        """Run them side by side to their ends, `at_once` at a time. An error of the engine ends one machine, and is
        noted."""
        slots = nullcontext() if at_once is None else asyncio.Semaphore(at_once)

        async def one(scope: Context, item: tuple[TracedBranch, Machine[D]]) -> D:
            branch, machine = item
            try:
                async with slots:
                    await machine.run()
            except EngineClosed:
                raise
            except PlaitError as error:
                self.failed[machine.name] = told(error)
                scope.count("failed_machines")
            finally:
                branch.close()
            if machine.data.state in WANTS:
                self.wanting.add(machine.data.state)
            return machine.data

        items = [(machine.chat.branch, machine) for machine in machines]
        found = await part.parallel(one, items)
        return [data for data in found if data is not None]

    async def fork(self, chat: Chat, labels: Sequence[str], names: Sequence[str] = ()) -> list[Chat]:
        """Conversations that go on from this one, whose beginning is read once, and not at all where all machines of
        these `names` (the labels, if they are not given) had ended in an earlier run."""
        if not all(map(self._has_ended, names or labels)):
            await chat.prefill()
        return chat.fork(len(labels), labels)

    def _has_ended(self, name: str) -> bool:
        kept = Machine.kept(Data, self.folder, name)
        return kept is not None and kept.has_ended

    def note(self, name: str, value: Any) -> None:
        """Add to the result's details."""
        self.ctx.state.details[name] = value
