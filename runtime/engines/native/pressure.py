"""`Pressure`: who waits when there are not enough KV blocks for all, until there are.

A generation that waits is *suspended*: no step computes it, and blocks that only such generations, or branches that
generate nothing, refer to go to the swap space when somebody needs them (`KVStore.swap_out`). Where that is full, it
lets go of what it has written, which is computed again. It goes on from the same bits when there is room, so nobody's
result tells that memory was short. The order is one of age, by priority, deadline, job and arrival: the oldest
generation can have every block, so it comes to its end, and after it the next one. The members of a gang wait and go on
together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from .gangs import Gangs
from .generation import NativeGeneration
from .planner import needs
from .running import Running
from .segment import Segment
from .store import KVStore

_AHEAD = 32
"""Such a part of the store is moved out of what nobody needs when one block is short."""
_AT_ONCE = 128
"""But so many segments at most: the event loop may be waiting for the engine's lock."""

OVERTAKEN = 256
"""Steps in which younger ones may run while the oldest who waits does not fit beside them."""

PATIENCE = 0.5
"""Seconds in which branches that generate nothing may be closed, before somebody ends for the blocks that they hold."""

Unit = list[NativeGeneration]
"""Generations that go on together: one, or those of a gang."""


class Pressure:
    """Decides for a `Scheduler`, of which it changes who runs."""

    def __init__(self, store: KVStore, running: Running, gangs: Gangs, *, recomputes: bool = False) -> None:
        """`recomputes`: is a text the same to the bit that is computed again, at once?"""
        self.store = store
        self.running = running
        self.recomputes = recomputes
        self.suspended: dict[NativeGeneration, bool] = {}
        """Those who wait; have they let go of what they wrote?"""
        self.num_preemptions = 0
        self._companions = gangs.companions
        self._jobs: dict[str, int] = {}
        """Order of arrival of the jobs that have branches."""
        self._refused_at = -1
        """Blocks to be had when the oldest who waits was last refused; -1: something else has changed since."""
        self._num_refused = 0
        """Steps since somebody who waited went on."""
        self._stuck_since: float | None = None
        """When nobody could go on first, while others hold blocks that generate nothing."""

    # -- order -------------------------------------------------------------------------------------------------

    def note_job(self, job: str, arrival: int) -> None:
        self._jobs.setdefault(job, arrival)

    def forget_job(self, job: str) -> None:
        """Its last branch is closed."""
        self._jobs.pop(job, None)

    def age(self, g: NativeGeneration) -> tuple[int, float, int, int]:
        """Least for who goes first."""
        arrival = min((one.sequence for one in self._companions(g)), default=g.sequence)
        return -g.branch.priority, g.branch.deadline, self._jobs.get(g.branch.job, arrival), arrival

    # -- waiting -----------------------------------------------------------------------------------------------

    def add(self, g: NativeGeneration) -> None:
        """A new one; it waits if its companions do."""
        waits = any(one in self.suspended for one in self._companions(g))
        if waits:
            self.suspended[g] = False
        else:
            self.running.add(g)

    def remove(self, g: NativeGeneration) -> None:
        """It has ended."""
        if g in self.running:
            self.running.remove(g)
        else:
            del self.suspended[g]

    def note_change(self) -> None:
        """What runs, or what is idle, is not what it was."""
        self._refused_at = -1

    def relieve(self, short: Sequence[NativeGeneration], *, is_stuck: bool) -> bool:
        """Blocks for the oldest of those that are short of them: what nobody waits for, then what younger ones hold.
        `is_stuck`: nobody can go on, so older ones give way too. False: there is nothing to be had."""
        if self._free():
            return True
        oldest = min(short, key=self.age)
        own, limit = self._companions(oldest), self.age(oldest)
        for g in sorted(self.running, key=self.age, reverse=True):
            if g in own or g not in self.running or not (is_stuck or self.age(g) > limit):
                continue
            if not (self.store.can_swap or self._can_let_go(g)):
                continue
            self._suspend(g)
            if self._free():
                return True
        return False

    def _free(self) -> bool:
        """A block at least, of what no running generation needs."""
        return self._swap(1) if self.store.can_swap else self._let_go()

    def _can_let_go(self, g: NativeGeneration) -> bool:
        return self.recomputes and g.branch.gang is None and g.branch.view.can_let_go

    def _let_go(self) -> bool:
        """Have those who wait let go of what they wrote, the youngest first, until that frees a block."""
        before = self.store.available
        for g in sorted(self.suspended, key=self.age, reverse=True):
            if self._can_let_go(g) and not self.suspended[g]:
                self.suspended[g] = True
                g.drafter = None  # it reads the segment
                g.note_lost(g.branch.view.let_go())
                # What it let go of was in the pool, or makes room in the swap space.
                if self.store.available > before or (self.store.can_swap and self._swap(1)):
                    return True
        return False

    def loser(self, short: Sequence[NativeGeneration]) -> NativeGeneration | None:
        """Nobody can go on, and nothing is to be had: who gives up. The youngest of those that hold blocks which the
        oldest does not need, or whose jobs do: they come back when its method closes it. If there is none, the oldest:
        it has grown past what there is. Who holds nothing can wait. None: nobody yet, since branches that generate
        nothing hold blocks, and may be about to be closed."""
        oldest = min(short, key=self.age)
        own = needs(self._companions(oldest))
        everybody: Unit = [*self.running, *self.suspended]
        if self._idle(needs(everybody)) and self._is_patient():
            return None
        self._stuck_since = None
        kept = self._idle(own)
        jobs = {job for segment in kept for job in segment.jobs}
        holding = [g for g in everybody if any(r > own.get(s, 0) for s, r in needs([g]).items() if s in kept)]
        return max(holding or [g for g in everybody if g.branch.job in jobs] or [oldest], key=self.age)

    def _idle(self, needed: dict[Segment, int]) -> dict[Segment, int]:
        """Where the pool has blocks beside those that are `needed`, and how many; the latest first."""
        counts = {s: self.store.num_idle(s, needed.get(s, 0)) for s in self.store.holders()}
        return {segment: count for segment, count in counts.items() if count}

    def _is_patient(self) -> bool:
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        return now - self._stuck_since < PATIENCE

    def note_step(self) -> None:
        """Somebody goes on."""
        self._stuck_since = None

    @property
    def is_stuck(self) -> bool:
        """Does the next plan tell whether somebody has to give up?"""
        return self._stuck_since is not None

    def _suspend(self, g: NativeGeneration) -> None:
        for one in self._companions(g):
            self.running.remove(one)
            self.suspended[one] = False
            one.num_preemptions += 1
            self.num_preemptions += 1
        self.note_change()

    def _swap(self, blocks: int) -> bool:
        """Free so many blocks by moving out what no running generation needs; of what nobody needs some more, since who
        is short will be so again, and each time all segments are looked at."""
        needed, waiting = needs(self.running), needs(self.suspended)
        idle = [(waiting.get(s, 0) > needed.get(s, 0), s) for s in self._idle(needed)]
        freed = 0
        ahead = self.store.num_blocks // _AHEAD
        for number, (is_waited_for, segment) in enumerate(sorted(idle, key=lambda pair: pair[0])):
            if freed >= blocks + (0 if is_waited_for or number >= _AT_ONCE else ahead):
                break
            freed += self.store.swap_out(segment, needed.get(segment, 0))
        return freed >= blocks

    # -- going on ----------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Let those go on, oldest first, for whom there is room beside what runs; was there any?"""
        self._num_refused += 1
        is_any = self._num_refused > OVERTAKEN and self._overtake()
        while self.suspended and self.store.available > self._refused_at:
            unit = self._companions(min(self.suspended, key=self.age))
            # A block for each that decodes to grow into, twice over, lest it wait again at once.
            room = 2 * (len(self.running) + len(unit)) if self.running else 0
            if not self._make_room(self._missing(unit) + room):
                self._refused_at = self.store.available
                break
            self._go_on(unit)
            is_any = True
        return is_any

    def _overtake(self) -> bool:
        """Younger ones that came meanwhile had what room there was: if that is enough the oldest who waits goes on, and
        they make way (`relieve`)."""
        self._num_refused = 0
        unit = self._companions(min(self.suspended, key=self.age))
        limit = self.age(unit[0])
        stay = needs([*unit, *(g for g in self.running if self.age(g) < limit)])
        if self.store.available + sum(self._idle(stay).values()) < self._missing(unit):
            return False
        self._go_on(unit)
        return True

    def force(self, tried: Iterable[NativeGeneration]) -> Unit:
        """None who runs can go on: the oldest who waits, of those that were not `tried`, takes their place."""
        left = [g for g in self.suspended if g not in tried]
        if not left:
            return []
        unit = self._companions(min(left, key=self.age))
        for g in list(self.running):
            if g in self.running:
                self._suspend(g)
        self._go_on(unit)
        return unit

    def _go_on(self, unit: Unit) -> None:
        self._num_refused = 0
        for g in unit:
            if self.suspended.pop(g):
                g.note_found(g.branch.view.find_more())
            self.running.add(g)
        self.note_change()

    def _missing(self, unit: Unit) -> int:
        """Blocks that the generations need to go on, beside those that they have."""
        return sum(self.store.blocks_missing(s, min(reach, len(s.tokens))) for s, reach in needs(unit).items())

    def _make_room(self, blocks: int) -> bool:
        missing = blocks - self.store.available
        if missing <= 0:
            return True
        idle = self._idle(needs([*self.running, *self.suspended]))
        return sum(idle.values()) >= missing and self.store.can_swap and self._swap(missing)
