"""One run of `CodeMonkeys`: its stages, one after another (arXiv 2501.14723, section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

from ..runtime.jobs.context import Context, ParallelContexts
from ..runtime.result import Finish, Outcome
from .applying import applicable
from .chat import Chat, shared_prompt
from .contexts import check_shows, choose
from .costs import StageCost
from .edits.base import Excerpt, Source
from .executions import all_of
from .fields import Fields, Stage
from .machines.editing import EditData, EditMachine
from .machines.machine import BUDGET, LATE, MEMORY
from .machines.selection import SYSTEM as SELECTION_SYSTEM
from .machines.selection import SelectionMachine
from .machines.testing import SYSTEM as TEST_SYSTEM
from .machines.testing import TestData, TestMachine, first_message
from .patches import touched
from .report import candidate_json, check_json, test_json, trajectory_json
from .sandbox.base import Execution
from .selecting import Chosen, block
from .voting import Candidate, gather, rank, take_check, take_results
from .work import Work

CONTEXT = "The code of the project that belongs to the issue:\n"
"""In front of the parts of the repository, in the system's message."""


class Run:
    """See `CodeMonkeys`."""

    def __init__(self, fields: Fields, ctx: Context) -> None:
        self.fields = fields
        self.ctx = ctx
        self.work = Work(fields, ctx)
        self.form = fields.form

    async def run(self) -> Outcome:
        job = {} if self.fields.folder is None else await asyncio.to_thread(self._identity)
        with self.work.folder.open(job):
            self.work.costs.load(get_args(Stage))
            self.work.executions.load()
            return await self._run()

    def _identity(self) -> dict[str, Any]:
        """What makes a job that was stopped the same one: folders of other models may have the same name."""
        state = self.ctx.state
        found = {**self.fields.identity(), "model": self.ctx.engine.name, "seed": state.seed}
        return {**found, "model_files": dict(state.model_files)} if state.model_files else found

    async def _run(self) -> Outcome:
        fields, work = self.fields, self.work
        await asyncio.to_thread(check_shows, fields, self.ctx)
        if fields.shows_tests:
            chosen = await choose(work, self.ctx)
            tests = await self._tests(self.ctx, chosen)
        else:
            chosen, tests = await self._side_by_side()
        work.note("context", {**chosen.report, "form": self.form.name, "shown": fields.context})
        edits = await self._edits(chosen, tests)
        return await self._choose(tests, edits)

    async def _side_by_side(self) -> tuple[Chosen, list[TestData]]:
        """What a test is for is in the issue alone: they need not wait for the files."""
        chosen: list[Chosen] = []
        tests: list[TestData] = []

        async def one(part: Context, name: str) -> None:
            if name == "context":
                chosen.append(await choose(self.work, part))
            else:
                tests.extend(await self._tests(part, None))

        left = self.ctx.share(1)
        await self.ctx.parallel(one, ["context", "tests"], reserve=0 if left is None else left // 2)
        return chosen[0], tests

    # -- trajectories --------------------------------------------------------------------------------------------

    async def _tests(self, ctx: Context, chosen: Chosen | None) -> list[TestData]:
        fields, work = self.fields, self.work
        if fields.test_calls == 0:
            return []
        context = "" if chosen is None else "".join(map(block, chosen.excerpts))
        async with work.stage("tests", ctx) as (part, cost):
            chat = work.open(part, "tests", TEST_SYSTEM, cost, label="tests")
            question = first_message(fields.project_name, fields.issue, context)
            chat.read(question)
            labels = [f"test {number}" for number in range(fields.n)]
            machines = [
                TestMachine(label, one, work.folder, work.executions, attempts=fields.test_calls, question=question)
                for label, one in zip(labels, await work.fork(chat, labels), strict=True)
            ]
            return await work.run(part, machines)

    async def _edits(self, chosen: Chosen, tests: Sequence[TestData]) -> list[EditData]:
        fields, work = self.fields, self.work
        async with work.stage("edits") as (part, cost):
            views = chosen.dealt(fields.n, one_each=fields.context == "function")
            chats: dict[tuple[Excerpt, ...], list[Chat]] = {}
            for view in dict.fromkeys(views):
                numbers = [number for number in range(fields.n) if views[number] == view]
                labels = [f"edit {number}" for number in numbers]
                chats[view] = await work.fork(self._opened(part, view, cost), labels)
            machines = []
            for number, view in enumerate(views):
                test = tests[number] if tests else TestData(state="")
                machines.append(
                    EditMachine(
                        f"edit {number}",
                        chats[view].pop(0),
                        work.folder,
                        work.executions,
                        attempts=fields.edit_calls,
                        form=self.form,
                        source=Source(files=fields.source.files(), excerpts=view, paths=fields.source.paths()),
                        executable=fields.source.executable,
                        script=test.script,
                        original=test.original,
                    )
                )
            return await work.run(part, machines)

    def _opened(self, part: Context, view: Sequence[Excerpt], cost: StageCost) -> Chat:
        """The conversation that all trajectories which see these parts begin with."""
        fields = self.fields
        system = fields.edit_system()
        parts = [block(excerpt) for excerpt in view]
        if fields.encoding == "sequential" or not parts:
            return self.work.open(part, "edits", f"{system}\n{CONTEXT}{''.join(parts)}", cost, label="context")
        tokens = shared_prompt([{"role": "system", "content": system}], part.tokenizer)
        encode = part.tokenizer.encode_continuation
        contexts = ParallelContexts(
            at=len(tokens),
            texts=tuple(tuple(encode(tokens, text)) for text in parts),
            temperature=part.capabilities.context_temperature,
            scale=part.capabilities.context_scale,
        )
        return self.work.open(part, "edits", system, cost, label="context", contexts=contexts)

    # -- the choice ----------------------------------------------------------------------------------------------

    async def _choose(self, tests: Sequence[TestData], edits: Sequence[EditData]) -> Outcome:
        patches = [(f"edit {number}", data.patch) for number, data in enumerate(edits) if data.patch]
        candidates = gather([*patches, *self.fields.foreign()])
        found = await asyncio.to_thread(applicable, self.fields.source, [one.patch for one in candidates])
        for candidate, applies in zip(candidates, found, strict=True):
            candidate.applies = applies
        scripts = _scripts(tests, edits)
        originals = await self._vote([one for one in candidates if one.applies], scripts)
        order = rank(candidates, originals, self.fields.vote)
        finalists = [one for one in order if one.applies][: self.fields.finalists]
        chosen, why = (finalists[0], "votes") if finalists else (None, "no candidate")
        if len(finalists) == 1:
            why = "only candidate" if len(order) == 1 else why
        elif len(finalists) > 1 and self.fields.selection_calls and not self.ctx.is_late:
            choice = await self._select(finalists, scripts)
            if choice is not None:
                chosen, why = finalists[choice], "selection"
        details = {
            "candidates": [candidate_json(one, originals) for one in order],
            "chosen": None if chosen is None else order.index(chosen),
            "chosen_by": why,
            "tests": [test_json(*pair) for pair in zip(scripts, originals, strict=True)],
            "test_trajectories": list(map(trajectory_json, tests)),
            "edit_trajectories": list(map(trajectory_json, edits)),
            "executions": self.work.executions.count,
            "failed_machines": self.work.failed,
            "costs": self.work.costs.to_json(),
        }
        patch = None if chosen is None else chosen.patch
        return Outcome(text=patch or "", answer=patch, finish=self._finish(), details=details)

    async def _vote(self, candidates: Sequence[Candidate], scripts: Sequence[str]) -> list[Execution]:
        """Run every test on the original code and on every candidate; what they gave on the original."""
        run, check, trunk = self.work.executions, self.fields.check_command, self.work.trunk
        trunk.enter("votes")
        with self.ctx.phase("votes"):
            originals = await all_of(
                run.test(script, "", trunk, on="original", test=f"test {i}") for i, script in enumerate(scripts)
            )
            pairs = list(product(range(len(scripts)), range(len(candidates))))
            found = await all_of(
                run.test(scripts[i], candidates[k].patch, trunk, on=candidates[k].sources[0], test=f"test {i}")
                for i, k in pairs
            )
            take_results(candidates, dict(zip(pairs, found, strict=True)))
            if check:
                before = await run.check(check, "", trunk, on="original")
                self.work.note("check_before", check_json(before))
                after = await all_of(run.check(check, one.patch, trunk, on=one.sources[0]) for one in candidates)
                take_check(candidates, before, after)
        return originals

    async def _select(self, finalists: Sequence[Candidate], scripts: Sequence[str]) -> int | None:
        """The number of the finalist that the selection chooses; None: it chooses none."""
        fields, work = self.fields, self.work
        texts = fields.source.files()
        paths = dict.fromkeys(path for one in finalists for path in touched(one.patch) if path in texts)
        example = next((scripts[number] for number in finalists[0].passed), scripts[0] if scripts else None)
        async with work.stage("selection") as (part, cost):
            chat = work.open(part, "selection", SELECTION_SYSTEM, cost, label="selection")
            machine = SelectionMachine(
                "selection",
                chat,
                work.folder,
                work.executions,
                attempts=fields.selection_calls,
                issue=fields.issue,
                project=fields.project_name,
                patches=[one.patch for one in finalists],
                files="".join(block(Excerpt(path=path, text=texts[path])) for path in paths),
                example=example,
            )
            (data,) = await work.run(part, [machine])
        return data.choice

    def _finish(self) -> Finish:
        if self.ctx.is_late or LATE in self.work.wanting:
            return Finish.DEADLINE
        if MEMORY in self.work.wanting:
            return Finish.MEMORY
        if BUDGET in self.work.wanting:
            is_critical = self.ctx.critical_left == 0 or self.ctx.ledger.left is None
            return Finish.CRITICAL_TOKENS if is_critical else Finish.TOTAL_TOKENS
        return Finish.STOP


def _scripts(tests: Sequence[TestData], edits: Sequence[EditData]) -> list[str]:
    """The last test of every trajectory: its edit machine may have rewritten it."""
    found = []
    for number, edit in enumerate(edits):
        script = edit.script or (tests[number].script if number < len(tests) else None)
        if script is not None:
            found.append(script)
    return found
