"""`TracedBranch`: an engine branch whose every step is recorded, announced and paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from ..engine import Branch, SamplingParams
from ..engines.branch_checks import check_fork
from ..engines.text_stream import decode_behind, is_behind
from ..errors import BranchBusy, BranchClosed, EngineClosed, InvalidInput
from ..events import (
    BranchStarted,
    Forked,
    Joined,
    Merged,
    Pruned,
)
from ..result import Generated
from ..trace.record import BranchRecord, JoinRecord, Piece, SpanRecord, with_own_numbers
from ..trace.writer import SegmentWriter, TracedBlock
from .call import Call
from .notes import Notes
from .scope import Scope, check_text

AT_A_TIME = 32
"""Branches or parts that are begun in one turn of the event loop: thousands of them must not hold it up."""


class TracedBranch(Notes):
    """One line of decoding inside a `Context`; the operations are those of `engine.Branch`.

    Tokens are charged to the scope that owns the branch: the context that opened it or, for items of
    `Context.parallel`, the part that works on it.
    """

    def __init__(
        self,
        scope: Scope,
        branch: Branch,
        *,
        parent: str | None,
        label: str,
        context_limit: int,
        origin: Literal["open", "fork"] = "open",
        view: tuple[SpanRecord, ...] = (),
        packed_at: int | None = None,
    ) -> None:
        """Takes an engine branch into the books of a scope, which closes it; `packed_at` as in `SegmentWriter`."""
        state = scope.state
        record = BranchRecord(
            id=".".join(map(str, branch.path)),
            parent=parent,
            origin=origin,
            label=label,
            level=scope.level,
            step=scope.now,
            opened=state.seconds,
            model=scope.model,
        )
        super().__init__(scope, record)
        self.engine_branch = branch
        self.context_limit = context_limit
        self._gang: str | None = None
        """Whoever runs it holds the slots of all its members, those too that sit out."""
        self._home = scope
        """Whose it was when it came into its gang; a part of `parallel` that it is lent to meanwhile is another."""
        self._calls: list[Call] = []
        """Those under way."""
        self._segments = SegmentWriter(state.trace, self.id, view, packed_at)
        state.trace.branches[self.id] = self.record
        state.branches[self.id] = self
        state.usage.branches += 1
        scope.own(self)

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> tuple[int, ...]:
        return self.engine_branch.path

    @property
    def tokens(self) -> list[int]:
        return self.engine_branch.tokens

    @property
    def length(self) -> int:
        return self.engine_branch.length

    @property
    def position(self) -> int:
        return self.engine_branch.position

    @property
    def is_closed(self) -> bool:
        return self.id not in self.scope.state.branches

    @property
    def room(self) -> int:
        """Tokens that `extend` would take now: what the context window and both ledgers leave."""
        room = self.context_limit - self.position
        for left in (self.scope.ledger.left, self.scope.critical_left):
            if left is not None:
                room = min(room, left)
        return max(room, 0)

    # -- editing the view --------------------------------------------------------------------------------------

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens and charge them. Raises `OutOfBudget` or `PromptTooLong`; see `room`."""
        if tokens:
            self._inject(tokens)

    def join(self, tokens: Sequence[int], children: Mapping[str, bool]) -> None:
        """`extend` by text that carries the results of other branches.

        `children`: their ids, and whether each handed back a result. Raises `InvalidInput` for what is no branch of the
        job.
        """
        unknown = [name for name in children if name not in self.scope.state.trace.branches]
        if unknown:
            raise InvalidInput(f"{unknown[0]!r:.200} is joined, which is no branch of this job")
        names, found = tuple(children), tuple(name for name in children if children[name])
        step = self.scope.now
        piece = self._inject(tokens)
        self._note_join(names, found, segment=self._segments.own(self.position).id, step=step, time=piece.began)
        self.scope.emit(Joined, branch=self.id, children=names, found=found, text=piece.text)

    def fork(self, n: int, labels: Sequence[str] = ()) -> list[TracedBranch]:
        """n children that share this view; the first have the labels. Raises `InvalidInput`."""
        children = self._fork(n, labels)
        self.scope.emit(Forked, branch=self.id, children=tuple(child.id for child in children))
        return children

    async def fork_many(self, n: int) -> list[TracedBranch]:
        """As `fork`, with turns of the event loop in between. Nothing may be written here meanwhile."""
        children = self._fork(min(n, AT_A_TIME))
        while len(children) < n:
            await asyncio.sleep(0)
            children += self._fork(min(n - len(children), AT_A_TIME))
        self.scope.emit(Forked, branch=self.id, children=tuple(child.id for child in children))
        return children

    def _fork(self, n: int, labels: Sequence[str] = ()) -> list[TracedBranch]:
        check_fork(n)
        if len(labels) > n or not all(isinstance(label, str) for label in labels):
            raise InvalidInput(f"labels must be {n} texts at most for {n} branches, not {labels!r:.200}")
        self._leave_to_readers()
        forks = self.engine_branch.fork(n)
        self._segments.freeze()
        view, packed_at = self._segments.view(), self._segments.packed_at
        names = [*labels, *[""] * (n - len(labels))]
        children = []
        for branch, label in zip(forks, names, strict=True):
            limit = self.context_limit
            child = TracedBranch(
                self.scope, branch, parent=self.id, label=label, context_limit=limit, origin="fork", view=view,
                packed_at=packed_at,
            )  # fmt: skip
            self.scope.emit(BranchStarted, branch=child.id, parent=self.id, label=label, prompt_tokens=0)
            children.append(child)
        return children

    def merge(self, branches: Sequence[TracedBranch]) -> None:
        """Append what the branches wrote since they were forked from this one."""
        for branch in (self, *branches):
            branch._leave_to_readers()
        self.engine_branch.merge([branch.engine_branch for branch in branches])
        self._segments.see(self._taken_over(branches))
        children = tuple(branch.id for branch in branches)
        now = self.scope.state.seconds
        self._note_join(children, children, segment=None, step=self.scope.now, time=now)
        self.scope.emit(Merged, branch=self.id, children=children)

    def attach(
        self, branches: Sequence[TracedBranch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        """See what the branches wrote since their fork as one group (APE)."""
        for branch in (self, *branches):
            branch._leave_to_readers()
        self.engine_branch.attach([b.engine_branch for b in branches], temperature=temperature, scale=scale, bias=bias)
        group = self.scope.state.trace.new_group(temperature, scale, bias)
        self._segments.see([replace(span, group=group) for span in self._taken_over(branches)])

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        """See these texts, each encoded on its own behind this view, as one group (APE). They are prompt: no ledger
        counts them. How much they saw of live text in that view is not in the trace, and no training sample is made of
        it."""
        self._leave_to_readers()
        state, position = self.scope.state, self.position
        view = self._segments.view()
        behind = is_behind(self.scope.tokenizer, self.engine_branch)
        self.engine_branch.attach_contexts(contexts, temperature=temperature, scale=scale, bias=bias)
        state.usage.prompt_tokens += sum(map(len, contexts))
        spans, group = [], state.trace.new_group(temperature, scale, bias)
        is_live, alike = any(span.length is None for span in view), with_own_numbers(view)
        for text in contexts:
            # Branches that attach the same context to the same view share its segment, as they do in the engine. What
            # is live is never the same.
            key = position, alike, tuple(text)
            segment = state.contexts.get(key)
            if segment is None or is_live:
                segment = state.trace.add_prompt(self.id, position, view, self._given("prompt", text, behind=behind))
                state.contexts[key] = segment
            spans.append(SpanRecord(segment=segment, length=len(text), group=group))
        self._segments.see(spans)

    def watch(self, branch: TracedBranch, shift: int = 0) -> None:
        """See the branch's own segment live."""
        self._leave_to_readers()
        self.engine_branch.watch(branch.engine_branch, shift)
        own = branch._segments.own(branch.position)
        self._segments.see([SpanRecord(segment=own.id, length=None, shift=shift)])

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens; the trace keeps it."""
        if length != self.length:
            self._leave_to_readers(self.length - length)
            self.engine_branch.rewind(length)
            self._segments.rewind(length)

    def seek(self, position: int) -> None:
        """Let the next token go to `position`."""
        self._leave_to_readers()
        self.engine_branch.seek(position)
        self._segments.freeze()

    def block(self) -> TracedBlock:
        """A handle on what is being written, until that ends as `engine.Branch.block` says; closed with the job at the
        latest."""
        return TracedBlock(self.engine_branch.block(), self._segments.block(self.position), self.scope.state.blocks)

    def seal(self) -> TracedBlock:
        """End what is being written and give a handle on it, closed with the job at the latest."""
        self._leave_to_readers()
        return TracedBlock(self.engine_branch.seal(), self._segments.seal(), self.scope.state.blocks)

    def arrange(self, blocks: Sequence[TracedBlock]) -> None:
        """Replace the view by these blocks, one behind another, what is being written last."""
        own = self.engine_branch.block()
        computed = own.computed
        own.close()
        self.engine_branch.arrange([block.block for block in blocks])
        self._segments.arrange([span for block in blocks for span in block.spans], computed)

    def lockstep(self, gang: str | None) -> None:
        """Step together with the other branches of the gang; None: leave it, though a generation under way, for which
        it raises `BranchBusy`, ends in step."""
        if gang is None:
            self._gang = None
        self.engine_branch.lockstep(gang)
        self._gang, self._home = gang, self.scope

    def sit_out(self, lender: Scope, sits: bool) -> None:
        """Keep the others of its gang, if it has one, waiting no more; or step together with them again. Only if
        `lender`, whose `parallel` it was lent to, had it in the gang: a part that lends it on goes on with it."""
        if self._gang is not None and self._home is lender and not self.is_closed:
            with suppress(BranchBusy, EngineClosed):  # who decodes keeps nobody waiting
                self.engine_branch.lockstep(None if sits else self._gang)

    def prune(self, reason: str) -> None:
        """Give the branch up and close it. Raises `InvalidInput` if the reason is no text."""
        check_text("a reason", reason)
        self.record.pruned = reason
        self.scope.emit(Pruned, branch=self.id, reason=reason)
        self.close()

    def close(self) -> None:
        """Free the branch; idempotent."""
        if self.is_closed:  # its calls may be under way still: they keep what was there the first time
            return
        self.record.closed = self.scope.state.seconds
        if not self.scope.state.has_ended:  # else the books are closed, too
            for call in self._calls:
                call.keep()
        self.engine_branch.close()
        self.scope.state.branches.pop(self.id, None)

    @staticmethod
    def _taken_over(branches: Sequence[TracedBranch]) -> list[SpanRecord]:
        """What the branches wrote since their fork, which ends there."""
        for branch in branches:
            branch._segments.freeze()
        return [span for branch in branches for span in branch._segments.written()]

    @property
    def looks_on(self) -> bool:
        """Does the engine know how much of live spans is seen?"""
        return self._segments.is_live and self.scope.capabilities.live_views

    def _leave_to_readers(self, dropped: int = 0) -> None:
        """What is being written is about to be frozen, without its last `dropped` tokens: pending ones are computed by
        whoever reads them, and what they see of live spans is known only then."""
        segment = self._segments.open_segment
        if segment is None or not self.looks_on:
            return
        block = self.engine_branch.block()
        if block.computed < len(segment) - dropped:
            self.scope.state.late.append((segment, len(segment) - dropped, block))
        else:
            block.close()

    async def generate(self, params: SamplingParams) -> Generated:
        """Decode until a stop condition, a limit of the context's budget or the deadline.

        Running out of budget is not an error: `finish` says so, and what was sampled stays. Errors of the engine are
        noted in the trace and raised.
        """
        if self.is_closed:
            raise BranchClosed(f"branch {self.id} is closed")
        gang = self._gang
        call = Call(
            self.scope, self.engine_branch, self.record, self._segments, context_limit=self.context_limit, gang=gang
        )
        self._calls.append(call)
        try:
            return await call.run(params)
        finally:
            self._calls.remove(call)
            if gang is not None and self._gang is None and not self.is_closed:  # left meanwhile
                with suppress(BranchBusy, EngineClosed):
                    self.engine_branch.lockstep(None)

    # -- recording ---------------------------------------------------------------------------------------------

    def record_prompt(self, tokens: Sequence[int]) -> None:
        """Note the tokens the engine branch was opened with; they are in no ledger."""
        self.scope.state.usage.prompt_tokens += len(tokens)
        if tokens:
            behind = is_behind(self.scope.tokenizer, self.engine_branch, self.length - len(tokens))
            self._segments.write(self._given("prompt", tokens, behind=behind), self.position - len(tokens))

    def _note_join(
        self, children: tuple[str, ...], found: tuple[str, ...], *, segment: int | None, step: int, time: float | None
    ) -> None:
        join = JoinRecord(branch=self.id, children=children, found=found, segment=segment, step=step, time=time)
        self.scope.state.trace.joins.append(join)

    def _inject(self, tokens: Sequence[int]) -> Piece:
        scope, position = self.scope, self.position
        scope.check_spend(len(tokens))
        behind = is_behind(scope.tokenizer, self.engine_branch)
        self.engine_branch.extend(tokens)
        piece = self._given("injected", tokens, behind=behind)
        scope.ledger.spend(len(tokens))
        scope.state.usage.injected_tokens += len(tokens)
        scope.advance(len(tokens))
        self._segments.write(piece, position)
        return piece

    def _given(self, kind: Literal["prompt", "injected"], tokens: Sequence[int], *, behind: bool) -> Piece:
        now = self.scope.state.seconds
        text = decode_behind(self.scope.tokenizer, tokens, behind=behind)
        return Piece(kind=kind, token_ids=list(tokens), text=text, step=self.scope.now, began=now, ended=now)
