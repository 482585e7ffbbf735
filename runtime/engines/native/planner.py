"""What a step is filled with: of every generation that is ready its next token, and as much of prefills as there is
room for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .alike import Alike
from .drafting import Drafter
from .gangs import Gangs
from .generation import NativeGeneration
from .running import Peers, Running
from .segment import GROWING, Segment, Span
from .step import Filling
from .store import KVStore

_UNBOUNDED = 1 << 30

Work = tuple[Segment, tuple[Span, ...], int]
"""A segment, what it sees, and how many of its tokens are to be computed."""


class Planner:
    """Fills steps for a `Scheduler`, which owns `running` and `gangs` and changes them."""

    def __init__(
        self,
        store: KVStore,
        running: Running,
        gangs: Gangs,
        *,
        max_rows: int,
        prefill_chunk: int,
        draft_rows: int = 0,
    ) -> None:
        """`draft_rows`: of a step in which drafts are verified, at most; 0: none are."""
        self.store = store
        self.running = running
        self.gangs = gangs
        self.max_rows = max_rows
        self.prefill_chunk = prefill_chunk
        self.draft_rows = draft_rows

    def fill(self, order: Iterable[Peers], share: int | None = None, *, are_prompts_whole: bool = False) -> Filling:
        """A step for the generations, in this order. `share`: rows of a job at most, but for gangs that are begun and,
        if these come whole, prompts."""
        filling = Filling(self.max_rows, self.prefill_chunk, _UNBOUNDED if share is None else share, are_prompts_whole)
        alike = Alike(self.store)
        met: set[tuple[str, str]] = set()
        for peers in order:
            num_met = 0
            for part in (peers.begun(), peers.fresh()):
                for g in part:
                    if filling.rows_of(g) < 1:
                        break
                    num_met += 1
                    gang = g.branch.gang
                    if gang is None:
                        # What it finds may be in the swap space.
                        if not alike.awaits(g, filling.planned) and self._bring(filling, [g]):
                            self._add(filling, g)
                    elif gang not in met:
                        met.add(gang)
                        self._add_gang(filling, gang)
            if filling.rows_left < 1:
                break
            filling.step.num_left_out += len(peers) - num_met
        return filling

    def _add_gang(self, filling: Filling, gang: tuple[str, str]) -> None:
        """What the members wrote themselves goes into this very step as a whole, or not at all, and with it frozen text
        that looks on, which sees it. Other text that they only read is computed before, in chunks like any other."""
        members = self.gangs.members(gang)
        generations = [g for g in members if g is not None]
        if len(generations) < len(members):
            return  # somebody is not ready
        if not self._bring(filling, generations):
            return
        owns = {own: g for g in generations if (own := g.branch.view.own) is not None}
        whole = {own: len(own.tokens) for own in owns}
        for g in generations:
            for segment, view, end in self.work(g):
                if segment in whole:
                    continue
                if any(span.is_live or span.segment in whole for span in view):
                    whole[segment] = end
                elif not self._prefill(filling, g, segment, view, end):
                    return
        rows = sum(end - segment.computed for segment, end in whole.items())
        missing = sum(self.store.blocks_missing(segment, end) for segment, end in whole.items())
        if missing > self.store.available:
            filling.short.append(generations[0])
            return
        if filling.rows_left < rows <= self.max_rows:
            return  # a later step has room for them
        for segment, end in whole.items():
            self.store.reserve(segment, end)
        limits = filling.prefill_room, filling.max_rows, filling.share
        # Checked above, and a large gang still has to run.
        filling.prefill_room = filling.max_rows = filling.share = _UNBOUNDED
        for own, g in owns.items():
            if own.due > own.computed:  # before a member that looks on asks for that alone
                self._prefill(filling, g, own, own.view, len(own.tokens))
        for g in generations:
            self._add(filling, g)
        filling.prefill_room, filling.max_rows, filling.share = limits

    def _bring(self, filling: Filling, generations: Sequence[NativeGeneration]) -> bool:
        """Have all that the generations need in the pool; False: there is not enough room."""
        if not self.store.num_swapped:
            return True
        for segment, reach in needs(generations).items():
            if segment.num_swapped and not self.store.bring_back(segment, reach):
                filling.short.append(generations[0])
                return False
        return True

    def _add(self, filling: Filling, g: NativeGeneration) -> None:
        """As much of what the generation waits for as there is room for; its token, if nothing is left to wait for."""
        own = g.branch.view.own
        # What was let go of is computed again first.
        if g.sampled and own is not None and own.pending == 1:
            self._add_decoding(filling, g)
            return
        for segment, view, end in self.work(g):
            if not self._prefill(filling, g, segment, view, end):
                return
        if not g.wants_logits:
            filling.step.prefilled.append(g)
        elif (row := self._last_row(filling, g)) is not None:
            filling.step.sampling.append((g, row))

    def _add_decoding(self, filling: Filling, g: NativeGeneration) -> None:
        """The short way for a generation that has sampled: all it waits for is its own last token."""
        own = g.branch.view.own
        assert own is not None
        if not self.store.reserve(own, len(own.tokens)):
            filling.short.append(g)
            return
        draft = self._draft(filling, g)
        count = 1 + len(draft)
        chunk = filling.add(own, own.view, own.computed, count, is_prefill=False, draft=draft)
        filling.planned[own] = chunk
        filling.step.jobs[g.branch.job] += count
        filling.step.sampling.append((g, chunk.row))
        if draft:
            filling.step.drafts.append((g, chunk))
        # A lineage means that the view has nothing live.
        filling.step.num_plain += own.lineage is not None and g.branch.gang is None

    def _draft(self, filling: Filling, g: NativeGeneration) -> list[int]:
        """What the generation may sample next, to be verified in the step, with KV blocks for it."""
        own = g.branch.view.own
        assert own is not None
        draft = self.guess(g, min(filling.rows_of(g), filling.max_rows // max(self.running.num_begun, 1)))
        length = len(own.tokens) + len(draft)
        # Guesses are not worth that anybody waits for blocks.
        missing = self.store.blocks_missing(own, length)
        if missing and self.store.available < missing + self.running.num_begun:
            return []
        self.store.reserve(own, length)
        g.num_drafted += len(draft)
        return draft

    def guess(self, g: NativeGeneration, rows: int = _UNBOUNDED) -> list[int]:
        """What a generation that has sampled may sample next, if it is to be verified; `rows` of the step are its."""
        own = g.branch.view.own
        rows = min(rows, self.draft_rows // max(len(self.running), 1), g.limit - len(g.sampled))
        # Each token of a gang, or under a live view, sees what others write meanwhile; a constraint is asked in turn.
        is_alone = own is not None and own.lineage is not None and not own.is_watched and g.branch.gang is None
        if rows < 2 or not is_alone or g.matcher is not None:
            return []
        if g.drafter is None:
            g.drafter = Drafter(g.branch.view)
        return g.drafter.guess(rows - 1)

    def _prefill(
        self, filling: Filling, g: NativeGeneration, segment: Segment, view: tuple[Span, ...], end: int
    ) -> bool:
        """As much of the segment's first `end` tokens as there is room for; are these, with what is planned, all?"""
        if segment.is_loading:
            return False
        chunk = filling.planned.get(segment)
        if chunk is None:
            count = min(end - segment.computed, filling.rows_of(g))
            if segment.pending > 1:
                count = min(count, filling.prefill_room)
            if count < 1:
                return False
            if not self._reserve(segment, segment.computed + count):
                filling.short.append(g)
                return False
            if segment.pending > 1:
                filling.prefill_room -= count
            chunk = filling.planned[segment] = filling.add(segment, view, segment.computed, count)
            filling.step.jobs[g.branch.job] += count
            if not g.sampled:
                filling.step.prefills.append((g, count))
        return chunk.begin + chunk.count >= end

    @staticmethod
    def work(g: NativeGeneration) -> Iterator[Work]:
        """Segments with pending tokens that the branch needs, in the order in which they can be computed."""
        visited: set[Segment] = set()

        def visit(view: tuple[Span, ...]) -> Iterator[Work]:
            for span in view:
                segment = span.segment
                if span.wanted > segment.computed and segment not in visited:
                    visited.add(segment)
                    yield from visit(segment.view)
                    yield segment, segment.view, segment.due if span.is_live else len(segment.tokens)

        yield from visit(g.branch.view.spans)
        own = g.branch.view.own
        if own is not None and own.pending:
            yield own, own.view, len(own.tokens)

    def _reserve(self, segment: Segment, length: int) -> bool:
        """Blocks for the segment's first `length` tokens; a new prompt leaves one block to each running branch."""
        missing = self.store.blocks_missing(segment, length)
        if missing and not segment.computed and len(self.running) > 1:
            if missing + self.running.num_begun > self.store.available:
                return False
        return self.store.reserve(segment, length)

    def _last_row(self, filling: Filling, g: NativeGeneration) -> int | None:
        """The row that ends in the branch's last token; computed again if its KV is there but its logits are gone."""
        own = g.branch.view.own
        if own is not None and own.tokens:
            segment, view, end, span = own, own.view, len(own.tokens), None
        else:
            *before, span = g.branch.view.spans
            assert span.end is not None
            segment, view, end = span.segment, tuple(before), span.end
        chunk = filling.planned.get(segment)
        if chunk is not None and chunk.begin < end <= chunk.begin + chunk.count:
            return chunk.row + end - 1 - chunk.begin
        key = segment, end
        if key not in filling.recomputed:
            if filling.rows_left < 1:
                return None
            # The row writes its keys and values once more, with the values they have.
            filling.recomputed[key] = filling.add(segment, view, end - 1, 1, span=span).row
        return filling.recomputed[key]


def needs(generations: Iterable[NativeGeneration]) -> dict[Segment, int]:
    """Segments whose keys and values are read or written when these generations go on, in an order of its own, and how
    far (`Segment.ends`); one that has to be computed as a whole, as far as it goes."""
    found: dict[Segment, int] = {}
    entered: set[Segment] = set()

    def visit(spans: Iterable[Span]) -> None:
        for span in spans:
            segment = span.segment
            is_pending = span.wanted > segment.computed
            found[segment] = max(found.get(segment, 0), GROWING if is_pending else span.reach)
            if is_pending and segment not in entered:
                entered.add(segment)
                visit(segment.view)

    for g in generations:
        view = g.branch.view
        visit(view.spans)
        if view.own is not None:
            found[view.own] = GROWING
            visit(view.own.view)
    return found
