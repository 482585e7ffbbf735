"""Continuous batching: what runs, and what the next forward pass computes (`planner.py`).

A step is a list of *chunks*: consecutive pending tokens of one segment. Decoding branches contribute one token each;
what room is left in the step goes to prefills in chunks, so that a long prompt does not stall running branches
(Sarathi-Serve, arXiv 2403.02310). A segment that was frozen with pending tokens is computed by whoever needs it first.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Sequence
from ctypes import c_int32

from torch import Tensor

from ...engine import FinishReason
from .gangs import Gangs
from .generation import DecodingBranch, Delivery, NativeGeneration
from .model import AFTER_STEP, AT_ONCE
from .pace import FEW, Pace
from .planner import Planner
from .pressure import Pressure
from .results import Results
from .running import Running
from .sampling import Decoded
from .step import Filling, Step
from .store import KVStore

_STEPS_WATCHED = 4
"""Steps of a burst at most while somebody waits: for each token, for what can be drafted, or for a stop string, since
what was decoded behind one is thrown away."""
_STREAM_SECONDS = 0.02
"""What a burst may take while somebody waits for each token."""


class Scheduler:
    """Not thread-safe: callers hold the engine's lock."""

    def __init__(
        self,
        store: KVStore,
        *,
        max_rows: int,
        prefill_chunk: int,
        slice_rows: int | None = None,
        max_steps: int = 1,
        scores: bool = False,
        draft_rows: int = 0,
        recomputes: bool = False,
    ) -> None:
        """`slice_rows`: of a job where others run; None: as many as are fair (`Pace`). `max_steps`: of a burst.
        `scores`: do bursts tell log-probabilities and certainties? `draft_rows`: of a step that verifies drafts; 0:
        none does. `recomputes`: as `Pressure` has it."""
        self.store = store
        self.slice_rows = slice_rows
        self.pace = Pace()
        """Of steps that are planned anew, as where jobs come and go."""
        self.model_pace = Pace()
        """Of the model alone: where steps are repeated in bursts, that is nearly all."""
        self.max_steps = max_steps
        self.scores = scores
        self.running = Running()
        self.gangs = Gangs()
        self._planner = Planner(
            store, self.running, self.gangs, max_rows=max_rows, prefill_chunk=prefill_chunk, draft_rows=draft_rows
        )
        self.pressure = Pressure(store, self.running, self.gangs, recomputes=recomputes)
        # Weakly: the KV memory goes with the last who refers to the engine, not when garbage is looked for.
        self._results = Results(store, weakref.proxy(self))
        self._arrivals = 0
        self._served: Counter[str] = Counter()
        """Rows each job was given while others waited: the fair share is owed to the job with the fewest."""
        self._num_running: Counter[str] = Counter()
        """Generations of each job that has any."""
        self.repeatable: Step | None = None
        """The latest step, if the next one is to go on from it as it is."""
        self.interrupt = c_int32(0)
        """`AFTER_STEP` if what runs has changed, `AT_ONCE` if the step under way is not to be waited for (model.py)."""
        self.step_seconds = 0.0
        """What the model took for the latest step."""
        self._under_way: tuple[Step, float] | None = None
        """What was planned last while something runs, and when."""
        self.num_steps = 0
        self.num_rows = 0

    # -- life of a generation ----------------------------------------------------------------------------------

    def submit(self, generation: NativeGeneration) -> None:
        self._disturb()
        if self._is_worth_dropping_for(generation):
            self.interrupt.value = AT_ONCE
        self._arrivals += 1
        generation.sequence = self._arrivals
        job = generation.branch.job
        self.pressure.note_job(job, self._arrivals)
        if job not in self._num_running:
            # A job that comes back does not get to catch up on the time it was away.
            self._served[job] = min((self._served[other] for other in self._num_running), default=0)
        self._num_running[job] += 1
        self.pressure.add(generation)

    def abort(self, generation: NativeGeneration) -> None:
        """Stop without a result; the branch keeps what was sampled."""
        if not generation.is_done:
            self.retire(generation)

    def retire(self, generation: NativeGeneration) -> None:
        """It has come to its end."""
        self._disturb()
        generation.is_done = True
        generation.branch.generation = None
        self.pressure.remove(generation)
        job = generation.branch.job
        self._num_running[job] -= 1
        if not self._num_running[job]:
            del self._num_running[job]
        if not self._num_running:
            self._served.clear()
            self._under_way = None

    def regroup(self, branch: DecodingBranch, gang: tuple[str, str] | None) -> None:
        """Let a branch leave its gang for another or for none, for all steps that come: who was to go on alone waits
        for it, and who waited for it goes on."""
        if branch.gang != gang:
            self._disturb()
            self.gangs.put(branch, gang)

    def fail(self, error: BaseException) -> list[Delivery]:
        """End every generation with an error (a forward pass failed)."""
        deliveries = []
        for g in [*self.running, *self.pressure.suspended]:
            self.retire(g)
            deliveries.append(g.fail(error))
        return deliveries

    def _finish(self, g: NativeGeneration, reason: FinishReason) -> Delivery:
        self.retire(g)
        return g.finish(reason)

    def halt(self, g: NativeGeneration) -> list[Delivery]:
        """The generations of the gang end with this one."""
        members = [] if g.branch.gang is None else self.gangs.companions(g)
        return [self._finish(other, FinishReason.GANG) for other in members]

    def _disturb(self) -> None:
        self.repeatable = None
        self.interrupt.value = max(self.interrupt.value, AFTER_STEP)
        self.pressure.note_change()

    # -- planning ----------------------------------------------------------------------------------------------

    def plan(self) -> tuple[Step, list[Delivery]]:
        """The next step, and generations that end without one. The step is empty if there is nothing to run."""
        step, deliveries = self._plan()
        self._under_way = step, time.perf_counter()
        return step, deliveries

    def _plan(self) -> tuple[Step, list[Delivery]]:
        self.interrupt.value = 0
        step, self.repeatable = self.repeatable, None
        if self.pressure.suspended and self.pressure.resume():
            step = None
        if step is not None and not self._drafts(step) and self._advance(step):
            return step, []
        done = [g for g in self.running.without_logits if next(self._planner.work(g), None) is None]
        deliveries = [d for g in done if not g.is_done for d in (self._finish(g, g.limit_reason), *self.halt(g))]
        filling = self._fill()
        if filling.step.chunks:
            self.pressure.note_step()
        elif filling.short and (loser := self.pressure.loser(filling.short)):
            deliveries += [self._finish(loser, FinishReason.MEMORY), *self.halt(loser)]
        self._served.update(filling.step.jobs)
        return filling.step, deliveries

    def _is_worth_dropping_for(self, newcomer: NativeGeneration) -> bool:
        """Would a job that comes to another wait longer for the step under way than that has taken so far? A step of
        several jobs runs to its end in any case, so what is dropped is made up for."""
        if self._under_way is None or len(self._num_running) != 1 or newcomer.branch.job in self._num_running:
            return False
        step, began = self._under_way
        cost = self.model_pace.cost
        if cost is None or not step.num_rows:
            return False
        if any(g.branch.priority > newcomer.branch.priority for g, _ in (*step.sampling, *step.prefills)):
            return False
        seconds = cost.seconds(step.num_rows)
        if seconds == 0.0 or not step.can_be_dropped:
            return False
        return (time.perf_counter() - began) % seconds < seconds / 2

    def _fill(self) -> Filling:
        """The next step; if there is not enough memory, with some of the generations suspended."""
        tried: list[NativeGeneration] = []
        share = self._share()
        # What a prompt's tokens see of a live view depends on the step they fall into.
        are_prompts_whole = len(self._num_running) < 2
        while True:
            order = self.running.in_order(self._served)
            filling = self._planner.fill(order, share, are_prompts_whole=are_prompts_whole)
            is_stuck = not filling.step.chunks
            if filling.short:
                if not self.pressure.relieve(filling.short, is_stuck=is_stuck):
                    return filling
            elif is_stuck and (unit := self.pressure.force(tried)):
                tried += unit  # who runs may wait for something that they bring about
            else:
                return filling

    def _share(self) -> int | None:
        """Rows of a job in a step; None: any. Jobs of lower priority than another have no claim to its time."""
        is_alone = len(self._num_running) < 2
        if is_alone and len(self.running) <= FEW:
            return None  # they have room for their drafts
        cost = (self.model_pace if is_alone else self.pace).cost
        if self.slice_rows is not None or cost is None:
            return None if is_alone else self.slice_rows
        if is_alone:
            return cost.ample_rows
        wanted: Counter[str] = Counter()
        priority: dict[str, int] = {}
        for peers in self.running.peers():
            rows = [
                1 if g.sampled else max(1, sum(end - s.computed for s, _, end in self._planner.work(g)))
                for g in peers.some()
            ]
            wanted[peers.job] += sum(rows) + len(peers) - len(rows)
            priority[peers.job] = max(peers.priority, priority.get(peers.job, peers.priority))
        if len(wanted) < 2:
            return None
        first = max(priority.values())
        return cost.fair_rows(wanted.values(), min(rows for job, rows in wanted.items() if priority[job] == first))

    def _advance(self, step: Step) -> bool:
        """The short way from a step to the next one of the same branches; False: there are not enough blocks."""
        num_steps = self._num_steps(step)
        if not self._reserve_all(step, num_steps):
            num_steps = 1
            if not self._reserve_all(step, 1):
                return False
        step.advance(self.store.block_size, num_steps)
        self._served.update(step.jobs)
        return True

    def _drafts(self, step: Step) -> bool:
        """Is there something to verify beside the tokens of this step?"""
        return any(self._planner.guess(g) for g, _ in step.sampling) if self._planner.draft_rows else False

    def _num_steps(self, step: Step) -> int:
        """Steps that may run before somebody has to look at what they sampled."""
        num_steps = self.max_steps
        for g, _ in step.sampling:
            if num_steps == 1 or not g.fits_burst(scores=self.scores):
                return 1
            is_watched = g.text is not None or g.is_streamed or g.drafter is not None
            num_steps = min(num_steps, g.limit - len(g.sampled), _STEPS_WATCHED if is_watched else num_steps)
            if g.is_streamed and num_steps * self.step_seconds > _STREAM_SECONDS:
                num_steps = max(1, int(_STREAM_SECONDS / self.step_seconds))
        return num_steps

    def _reserve_all(self, step: Step, num_steps: int) -> bool:
        """Blocks for the tokens that so many steps compute, for all or none."""
        lengths = [len(c.segment.tokens) + num_steps - 1 for c in step.chunks]
        missing = [self.store.blocks_missing(c.segment, n) for c, n in zip(step.chunks, lengths, strict=True)]
        if sum(missing) > self.store.available:
            return False
        for c, n, blocks in zip(step.chunks, lengths, missing, strict=True):
            if blocks:
                self.store.reserve(c.segment, n)
        return True

    # -- results -----------------------------------------------------------------------------------------------

    def commit(
        self,
        step: Step,
        logits: Tensor,
        hidden: Tensor,
        *,
        allowed: Sequence[Tensor | None] | None = None,
        keep_logits: bool = False,
    ) -> list[Delivery]:
        """Take over a step; see `Results.take`."""
        self.num_steps += 1
        self.num_rows += step.num_rows
        for g, count in step.prefills:
            g.note_prefilled(count)
        return self._results.take(step, logits, hidden, allowed=allowed, keep_logits=keep_logits)

    def commit_burst(self, step: Step, decoded: Decoded) -> list[Delivery]:
        """Take over a burst; see `Results.take_burst`."""
        count = len(decoded.tokens)
        self.num_steps += count
        self.num_rows += count * step.num_rows
        for _ in range(1, count):
            self._served.update(step.jobs)
        return self._results.take_burst(step, decoded)

    def note(self, step: Step, count: int, model_seconds: float, seconds: float) -> None:
        """`count` steps of these rows took the model so long, and so long in all, from planning to committing."""
        self.step_seconds = model_seconds / count
        self.model_pace.note(step.num_rows, self.step_seconds)
        self.pace.note(step.num_rows, self.step_seconds + seconds - model_seconds)
