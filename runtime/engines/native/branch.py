"""`NativeBranch`: the contract's view operations, under the engine's lock; the bookkeeping is in view.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ....attention.plan import Group
from ...engine import Block, Branch, SamplingParams
from ...errors import BranchBusy, BranchClosed, InvalidInput, OutOfBlocks, PromptTooLong
from .blocks import NativeBlock
from .generation import NativeGeneration
from .sampling import branch_seed
from .segment import Span
from .view import View

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
        view: View | None = None,
        parent: NativeBranch | None = None,
    ) -> None:
        self.engine = engine
        self.path = path
        self.seed = seed
        self.context_limit = context_limit
        self.job = job
        self.priority = priority
        self.parent = parent
        self.view = view or View(engine.store)
        self.sampling_seed = branch_seed(seed, path)
        self.num_sampled = 0
        self.num_forks = 0
        self.generation: NativeGeneration | None = None
        self.logits: Tensor | None = None
        """(V,) float32 logits after the last computed token, if the engine keeps them (`keep_logits`)."""
        self.reused_tokens = 0
        """Tokens found in the prefix index since the last `generate`."""
        self.is_closed = False
        self.gang: tuple[str, str] | None = None
        """(job, name)."""
        engine.register(self)

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[int]:
        with self.engine.lock:
            return self.view.tokens

    @property
    def length(self) -> int:
        with self.engine.lock:
            return self.view.num_text + self.view.num_own

    @property
    def position(self) -> int:
        with self.engine.lock:
            return self.view.position

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
            reused = self.view.reuse(tokens)
            self.reused_tokens += reused
            tokens = tokens[reused:]
            own, store = self.view.open_segment(), self.engine.store
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
            if generation.wants_logits and not self.view.num_own and not self.view.continues:
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
            view = self.view
            view.freeze()
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
                    view=View(view.store, view.spans, view.next_position, is_packed=view.is_packed),
                    parent=self,
                )
                for i in range(n)
            ]

    def merge(self, branches: Sequence[Branch]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            self._take(spans, position)

    def attach(self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0) -> None:
        if temperature <= 0:
            raise InvalidInput(f"temperature must be positive, not {temperature}")
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            group = Group(temperature=temperature, factor=scale * temperature)
            self._take([Span(s.segment, s.start, s.end, s.shift, group) for s in spans if len(s)], position)

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0
    ) -> None:
        if temperature <= 0:
            raise InvalidInput(f"temperature must be positive, not {temperature}")
        with self.engine.lock:
            self._check_idle()
            longest = max(map(len, contexts), default=0)
            if self.position + longest > self.context_limit:
                raise PromptTooLong(
                    f"a context of {longest} tokens at position {self.position} does not fit the context limit of "
                    f"{self.context_limit} tokens; split it or raise context_limit"
                )
            for text in contexts:
                self._check_ids(text)
            store = self.engine.store
            need = sum(-(-len(text) // store.block_size) for text in contexts)
            if need > store.num_blocks:
                raise OutOfBlocks(
                    f"the contexts need {need} KV blocks and the store has {store.num_blocks}; raise kv_tokens"
                )
            self.view.freeze()
            group = Group(temperature=temperature, factor=scale * temperature)
            segments = [self.view.context(text) for text in contexts if text]
            self.reused_tokens += sum(s.computed for s in segments)
            spans = [Span(s, 0, len(s.tokens), 0, group) for s in segments]
            self._take(spans, self.view.next_position + longest)
            for segment in segments:
                if segment.pending and not segment.held:
                    store.freeze(segment)
                    if self.engine.contexts is not None and segment.name is not None:
                        self.engine.contexts.request(segment, self)

    def watch(self, branch: Branch, shift: int = 0) -> None:
        with self.engine.lock:
            self._check_idle()
            other = self._same_engine(branch)
            if other is self:
                raise InvalidInput("a branch cannot watch itself")
            target = other.view.open_segment()
            self.view.freeze()
            self.view.append([Span(target, 0, None, shift)])

    def rewind(self, length: int) -> None:
        with self.engine.lock:
            self._check_idle()
            if not 0 <= length <= self.length:
                raise InvalidInput(f"cannot rewind {self.length} tokens to {length}")
            if self.view.is_packed and length < self.view.num_text:
                raise InvalidInput("an arranged view can be rewound within its own segment only")
            if length == self.length:
                return
            self.view.cut(length)
            if self.view.is_observed:
                # What comes now is not to take the place of what was seen there.
                self.view.freeze()
                self.view.close_own()

    def seek(self, position: int) -> None:
        with self.engine.lock:
            self._check_idle()
            if not 0 <= position <= self.context_limit:
                raise InvalidInput(f"position {position} is outside the context of {self.context_limit}")
            self.view.freeze()
            self.view.next_position = position

    def block(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            live = Span(self.view.open_segment(), 0, None)
            return NativeBlock(self.engine.store, (*self.view.unsealed(), live), self.engine.lock)

    def seal(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            view = self.view
            view.freeze()
            view.close_own()  # if it is empty, nobody may append to it any more
            block = NativeBlock(self.engine.store, view.unsealed(), self.engine.lock)
            view.num_sealed = len(view.spans)
            return block

    def arrange(self, blocks: Sequence[Block]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans: list[Span] = []
            for block in blocks:
                if not isinstance(block, NativeBlock) or block.store is not self.engine.store:
                    raise InvalidInput("blocks of another engine cannot be arranged")
                spans += block.spans
            own = self.view.own
            if any(span.segment is own for span in spans):
                raise InvalidInput("the own segment comes last by itself")
            if own is not None and own.tokens and not own.is_packed:
                raise InvalidInput("seal or rewind what was written before the view is arranged")
            self.view.arrange(spans)

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
            self.view.close()
            self.parent = None
            self.engine.unregister(self)
        self.engine.wake()

    def note_reused(self, tokens: int) -> None:
        """Tokens that this branch wanted were found encoded; under the engine's lock."""
        if self.generation is not None:
            self.generation.num_reused += tokens
        else:
            self.reused_tokens += tokens

    # -- inside ------------------------------------------------------------------------------------------------

    def _leave_gang(self) -> None:
        if self.gang is not None:
            gangs = self.engine.scheduler.gangs
            gangs[self.gang].discard(self)
            if not gangs[self.gang]:
                del gangs[self.gang]
            self.gang = None

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
            other.view.freeze()
            spans += other.view.written()
            position = max(position, other.position)
        return spans, position

    def _take(self, spans: Sequence[Span], position: int) -> None:
        """Append spans, and go on at `position` at the earliest."""
        self.view.freeze()
        self.view.append(spans)
        self.view.next_position = max(self.view.next_position, position)
