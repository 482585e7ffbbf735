"""`NativeBranch`: the view operations. They edit spans under the engine's lock and never touch a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...attention.plan import Group
from ..engine import Block, Branch, SamplingParams
from ..errors import BranchBusy, BranchClosed, InvalidInput, OutOfBlocks, PromptTooLong
from .blocks import NativeBlock
from .generation import NativeGeneration
from .sampling import branch_seed
from .segment import Segment, Span

if TYPE_CHECKING:
    from .engine import NativeEngine


class NativeBranch:
    """One line of decoding; see `runtime.engine.Branch` for the contract."""

    def __init__(
        self,
        engine: NativeEngine,
        *,
        path: tuple[int, ...],
        seed: int,
        context_limit: int,
        job: str,
        priority: int,
        view: tuple[Span, ...] = (),
        position: int = 0,
        parent: NativeBranch | None = None,
        is_packed: bool = False,
    ) -> None:
        self.engine = engine
        self.path = path
        self.seed = seed
        self.context_limit = context_limit
        self.job = job
        self.priority = priority
        self.parent = parent
        self.view = view
        """Spans in order, without the own segment."""
        self.base = len(view)
        """Spans that came with the fork: what follows them is this branch's own work."""
        self.num_sealed = len(view)
        """Spans that came with the fork, with `arrange`, or were sealed: a block is what follows them."""
        self.own: Segment | None = None
        """The open segment this branch appends to."""
        self._position = position
        """Next position when there is no own segment."""
        self.sampling_seed = branch_seed(seed, path)
        self.num_sampled = 0
        self.num_forks = 0
        self.generation: NativeGeneration | None = None
        self.logits: Tensor | None = None
        """(V,) float32 logits after the last computed token, if the engine keeps them (`keep_logits`)."""
        self.reused_tokens = 0
        """Tokens found in the prefix index since the last `generate`."""
        self.is_closed = False
        self.is_packed = is_packed
        """Are the view's spans read one behind another (`arrange`)?"""
        self.gang: tuple[str, str] | None = None
        """(job, name)."""
        engine.store.hold(view)
        engine.register(self)

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[int]:
        with self.engine.lock:
            out: list[int] = []
            for span in self.view:
                if span.is_text:
                    out += span.segment.tokens[span.start : span.end]
            if self.own is not None:
                out += self.own.tokens
            return out

    @property
    def length(self) -> int:
        with self.engine.lock:
            own = 0 if self.own is None else len(self.own.tokens)
            return own + sum(len(span) for span in self.view if span.is_text)

    @property
    def position(self) -> int:
        own = self.own
        if self.is_packed:
            with self.engine.lock:
                return sum(map(len, self.view)) + (0 if own is None else len(own.tokens))
        return own.start + len(own.tokens) if own is not None and own.tokens else self._position

    def segments(self) -> list[Segment]:
        """Every segment the view holds, the own one last."""
        own = [] if self.own is None else [self.own]
        return [span.segment for span in self.view] + own

    # -- view operations ---------------------------------------------------------------------------------------

    def extend(self, tokens: Sequence[int]) -> None:
        with self.engine.lock:
            self._check_idle()
            if not tokens:
                return
            if self.position + len(tokens) > self.context_limit:
                raise PromptTooLong(
                    f"{len(tokens)} tokens at position {self.position} do not fit the context limit of "
                    f"{self.context_limit} tokens; shorten the prompt or raise context_limit"
                )
            self._check_ids(tokens)
            store = self.engine.store
            # Only a text that is written in one go is looked up: decoded tokens are new anyway.
            if self.own is None or not self.own.tokens:
                found = store.match(self.open_segment().lineage, tokens)
                if found:
                    self._append_spans(found)
                    reused = sum(map(len, found))
                    self.reused_tokens += reused
                    tokens = tokens[reused:]
            own = self.open_segment()
            need = store.blocks_missing(own, len(own.tokens) + len(tokens))
            if need > store.num_blocks:
                raise OutOfBlocks(
                    f"{len(tokens)} tokens need {need} KV blocks and the store has {store.num_blocks}; raise kv_tokens"
                )
            own.tokens.extend(tokens)

    def generate(self, params: SamplingParams | None = None) -> NativeGeneration:
        with self.engine.lock:
            self._check_idle()
            if params is not None:
                self._check_ids(params.forced)
            generation = NativeGeneration(self, params or SamplingParams(), self.engine.loop)
            if generation.wants_logits and (self.own is None or not self.own.tokens) and not self._continues():
                raise InvalidInput("nothing to decode from: extend the branch after merge, watch or attach")
            self.generation = generation
            self.reused_tokens = 0
            self.engine.scheduler.submit(generation)
        self.engine.wake()
        return generation

    def fork(self, n: int) -> list[Branch]:
        with self.engine.lock:
            self._check_idle()
            if n < 1:
                raise InvalidInput(f"cannot fork into {n} branches")
            self._freeze()
            first = self.num_forks
            self.num_forks += n
            return [
                NativeBranch(
                    self.engine,
                    path=(*self.path, first + i),
                    seed=self.seed,
                    context_limit=self.context_limit,
                    job=self.job,
                    priority=self.priority,
                    view=self.view,
                    position=self._position,
                    parent=self,
                    is_packed=self.is_packed,
                )
                for i in range(n)
            ]

    def merge(self, branches: Sequence[Branch]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            self._freeze()
            self._append_spans(spans)
            self._position = max(self._position, position)

    def attach(self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0) -> None:
        if temperature <= 0:
            raise InvalidInput(f"temperature must be positive, not {temperature}")
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            self._freeze()
            group = Group(temperature=temperature, factor=scale * temperature)
            self._append_spans([Span(s.segment, s.start, s.end, s.shift, group) for s in spans if len(s)])
            self._position = max(self._position, position)

    def watch(self, branch: Branch, shift: int = 0) -> None:
        with self.engine.lock:
            self._check_idle()
            other = self._same_engine(branch)
            if other is self:
                raise InvalidInput("a branch cannot watch itself")
            target = other.open_segment()
            self._freeze()
            self._append_spans([Span(target, 0, None, shift)])

    def rewind(self, length: int) -> None:
        with self.engine.lock:
            self._check_idle()
            if not 0 <= length <= self.length:
                raise InvalidInput(f"cannot rewind {self.length} tokens to {length}")
            if self.is_packed and length < sum(len(span) for span in self.view if span.is_text):
                raise InvalidInput("an arranged view can be rewound within its own segment only")
            self.cut(length)
            if self.is_packed:
                # Others may have seen what goes: what comes now is not to take its place in the same segment.
                self._freeze()

    def cut(self, length: int) -> None:
        """`rewind` for callers that hold the lock and know that `length` is in range."""
        store = self.engine.store
        own = self.own
        before_own = sum(len(span) for span in self.view if span.is_text)
        if length < before_own:
            self._close_own()
            at, keep = self._locate(length)
            span = self.view[at]
            rest = (Span(span.segment, span.start, span.start + keep, span.shift),) if keep else ()
            self._set_view((*self.view[:at], *rest))
            self._position = span.segment.start + span.start + keep + span.shift
            self.base = min(self.base, len(self.view))
        elif own is not None and length < before_own + len(own.tokens):
            keep = length - before_own
            self._position = own.start + keep
            if own.pins:
                # Somebody else relies on the tokens: leave the segment to them and go on in a new one.
                store.freeze(own)
                self._set_view((*self.view, Span(own, 0, keep)) if keep else self.view)
                self._close_own()
            else:
                store.truncate(own, keep)

    def seek(self, position: int) -> None:
        with self.engine.lock:
            self._check_idle()
            if not 0 <= position <= self.context_limit:
                raise InvalidInput(f"position {position} is outside the context of {self.context_limit}")
            self._freeze()
            self._position = position

    def block(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            live = Span(self.open_segment(), 0, None)
            return NativeBlock(self.engine.store, (*self._unsealed(), live), self.engine.lock)

    def seal(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            self._freeze()
            self._close_own()  # if it is empty, nobody may append to it any more
            block = NativeBlock(self.engine.store, self._unsealed(), self.engine.lock)
            self.num_sealed = len(self.view)
            return block

    def arrange(self, blocks: Sequence[Block]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans: list[Span] = []
            for block in blocks:
                if not isinstance(block, NativeBlock) or block.store is not self.engine.store:
                    raise InvalidInput("blocks of another engine cannot be arranged")
                spans += block.spans
            own = self.own if self.own is not None and self.own.tokens else None
            if any(span.segment is self.own for span in spans):
                raise InvalidInput("the own segment comes last by itself")
            if own is not None and not own.is_packed:
                raise InvalidInput("seal or rewind what was written before the view is arranged")
            kept = self._unsealed() if self.is_packed else []
            if own is None and not kept:
                self._position = 0
            self._set_view((*spans, *kept))
            self.base = self.num_sealed = len(spans)
            self.is_packed = True
            if own is not None:
                # What is there was computed under the view as it was; from here on the new one counts.
                own.view = self.view

    def lockstep(self, gang: str | None) -> None:
        with self.engine.lock:
            self._check_idle()
            self._leave_gang()
            if gang is not None:
                self.gang = self.job, gang
                self.engine.scheduler.gangs[self.gang].add(self)
        self.engine.wake()

    def close(self) -> None:
        with self.engine.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self._leave_gang()
            if self.generation is not None:
                self.generation.stop()
            self.engine.store.drop(self.view)
            self.view = ()
            self._close_own()
            self.parent = None
            self.engine.unregister(self)
        self.engine.wake()

    # -- inside ------------------------------------------------------------------------------------------------

    def open_segment(self) -> Segment:
        """The segment to append to, made if there is none."""
        if self.own is None:
            self.own = Segment(self._position)
            self.engine.store.acquire(self.own, pin=False)
        if not self.own.tokens:
            self.own.view = self.view
            self.own.start = self._position
            self.own.is_packed = self.is_packed
            lineage = None if self.is_packed else self.engine.store.lineage_of(self.view, self._position)
            self.own.lineage = lineage
        return self.own

    def _leave_gang(self) -> None:
        if self.gang is not None:
            gangs = self.engine.scheduler.gangs
            gangs[self.gang].discard(self)
            if not gangs[self.gang]:
                del gangs[self.gang]
            self.gang = None

    def _unsealed(self) -> list[Span]:
        """The frozen part of what a block covers."""
        return [span for span in self.view[self.num_sealed :] if span.is_text]

    def _check_idle(self) -> None:
        if self.is_closed:
            raise BranchClosed(f"branch {self.path} is closed")
        self.engine.check_open()
        if self.generation is not None:
            raise BranchBusy(f"branch {self.path} is generating")

    def _check_ids(self, tokens: Sequence[int]) -> None:
        bad = [t for t in tokens if not 0 <= t < self.engine.vocab_size]
        if bad:
            raise InvalidInput(f"token id {bad[0]} is outside the vocabulary of {self.engine.vocab_size}")

    def _same_engine(self, branch: Branch) -> NativeBranch:
        if not isinstance(branch, NativeBranch) or branch.engine is not self.engine:
            raise InvalidInput("branches of different engines cannot share a view")
        branch._check_idle()
        return branch

    def _contributions(self, branches: Sequence[Branch]) -> tuple[list[Span], int]:
        """The text spans each branch wrote since it was forked from this one, and the furthest next position."""
        spans: list[Span] = []
        position = 0
        for branch in branches:
            other = self._same_engine(branch)
            if other.parent is not self:
                raise InvalidInput(f"branch {other.path} was not forked from {self.path}")
            other._freeze()
            spans += [span for span in other.view[other.base :] if span.is_text]
            position = max(position, other.position)
        return spans, position

    def _locate(self, length: int) -> tuple[int, int]:
        """The span that holds the view's token number `length`, and how many of the span's tokens come before it."""
        for i, span in enumerate(self.view):
            if span.is_text:
                if length < len(span):
                    return i, length
                length -= len(span)
        raise AssertionError("the view is shorter")

    def _continues(self) -> bool:
        """Was the view's last token written under exactly what stands before it? Then its logits can be had."""
        if not self.view or not self.view[-1].is_text or self.view[-1].shift:
            return False
        *before, last = self.view
        segment = last.segment
        if len(before) == len(segment.view) and all(_same(a, b) for a, b in zip(before, segment.view, strict=True)):
            return last.start == 0
        store = self.engine.store
        lineage = store.lineage_of(before, segment.start + last.start)
        return lineage is not None and lineage == store.key_at(segment, last.start)

    def _freeze(self) -> None:
        """Turn the own segment into a span; an empty one stays, since others may watch it already."""
        own = self.own
        if own is None or not own.tokens:
            return
        self._position = own.start + len(own.tokens)
        self.engine.store.freeze(own)
        self._append_spans([Span(own, 0, len(own.tokens))])
        self._close_own()

    def _close_own(self) -> None:
        if self.own is not None:
            own, self.own = self.own, None
            self.engine.store.release(own, pin=False)

    def _append_spans(self, spans: Sequence[Span]) -> None:
        self._set_view((*self.view, *spans))
        if spans and spans[-1].is_text and (self.own is None or not self.own.tokens):
            last = spans[-1]
            assert last.end is not None
            self._position = max(self._position, last.segment.start + last.end + last.shift)

    def _set_view(self, view: tuple[Span, ...]) -> None:
        old, self.view = self.view, view
        self.num_sealed = min(self.num_sealed, len(view))
        self.engine.store.hold(view)
        self.engine.store.drop(old)


def _same(a: Span, b: Span) -> bool:
    return (a.segment, a.start, a.end, a.shift, a.group) == (b.segment, b.start, b.end, b.shift, b.group)
