"""`NativeBranch`: the contract's view operations, under the engine's lock; the bookkeeping is in view.py."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from ...engine import Block, Branch, SamplingParams, Tokenizer
from ...errors import BranchBusy, BranchClosed, InvalidInput
from ..branch_checks import check_contexts, check_fork, check_forked, check_ids, check_position, check_prompt
from ..constraints.matcher import Compiler
from .blocks import NativeBlock, spans_of
from .checks import check_arrangement, check_blocks, check_has_positions, check_rewind, group_of
from .context_tier import ContextTier
from .generation import NativeGeneration
from .sampling import branch_seed
from .scheduler import Scheduler
from .segment import Span
from .view import View


class BranchEngine(Protocol):
    """What a branch needs of the engine that serves it."""

    @property
    def lock(self) -> threading.RLock: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def contexts(self) -> ContextTier | None: ...
    @property
    def constraints(self) -> Compiler: ...
    def check_open(self) -> None: ...
    def register(self, branch: NativeBranch) -> None: ...
    def unregister(self, branch: NativeBranch) -> None: ...
    def wake(self) -> None: ...


class NativeBranch:
    """One line of decoding; see `runtime.engine.Branch` for the contract."""

    def __init__(
        self,
        engine: BranchEngine,
        view: View,
        *,
        path: tuple[int, ...],
        seed: int,
        context_limit: int,
        job: str,
        priority: int,
        deadline: float | None = None,
        parent: NativeBranch | None = None,
    ) -> None:
        self.engine = engine
        self.view = view
        self.path = path
        self.seed = seed
        self.context_limit = context_limit
        self.job = job
        self.priority = priority
        self.deadline = math.inf if deadline is None else deadline
        self.parent = parent
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
            return self.view.length

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
            check_prompt(tokens, self.view.position, self.context_limit)
            check_ids(tokens, self.engine.vocab_size)
            reused = self.view.reuse(tokens)
            self.reused_tokens += reused
            tokens = tokens[reused:]
            own, store = self.view.open_segment(), self.view.store
            need = store.blocks_missing(own, len(own.tokens) + len(tokens))
            check_blocks(f"{len(tokens)} tokens", need, store.num_blocks)
            own.tokens.extend(tokens)

    def generate(self, params: SamplingParams | None = None) -> NativeGeneration:
        engine = self.engine
        with engine.lock:
            self._check_idle()
            params = params or SamplingParams()
            params.check_vocabulary(engine.vocab_size)
            generation = NativeGeneration(
                self,
                params,
                tokenizer=engine.tokenizer,
                loop=engine.loop,
                lock=engine.lock,
                abort=engine.scheduler.abort,
                matcher=engine.constraints.matcher(params),
            )
            if generation.wants_logits and not self.view.num_own and not self.view.continues:
                raise InvalidInput("nothing to decode from: extend the branch after merge, watch or attach")
            self.generation = generation
            self.reused_tokens = 0
            engine.scheduler.submit(generation)
        engine.wake()
        return generation

    def fork(self, n: int) -> list[Branch]:
        with self.engine.lock:
            self._check_idle()
            check_fork(n)
            first = self.num_forks
            self.num_forks += n
            return [
                NativeBranch(
                    self.engine,
                    self.view.fork(),
                    path=(*self.path, first + i),
                    seed=self.seed,
                    context_limit=self.context_limit,
                    job=self.job,
                    priority=self.priority,
                    deadline=self.deadline,
                    parent=self,
                )  # fmt: skip
                for i in range(n)
            ]

    def merge(self, branches: Sequence[Branch]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            self.view.take(spans, position)

    def attach(
        self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        group = group_of(temperature, scale, bias)
        with self.engine.lock:
            self._check_idle()
            spans, position = self._contributions(branches)
            self.view.take([replace(span, group=group) for span in spans if len(span)], position)

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        group = group_of(temperature, scale, bias)
        with self.engine.lock:
            self._check_idle()
            view, store = self.view, self.view.store
            check_has_positions(view, "contexts cannot be encoded")
            check_contexts(contexts, view.position, self.context_limit, self.engine.vocab_size)
            check_blocks("the contexts", sum(-(-len(text) // store.block_size) for text in contexts), store.num_blocks)
            segments = view.attach_contexts(contexts, group)
            self.reused_tokens += sum(s.computed for s in segments)
            for segment in segments:
                if segment.pending and not segment.held:
                    store.freeze(segment)
                    if self.engine.contexts is not None and segment.name is not None:
                        self.engine.contexts.request(segment, self.note_reused)

    def watch(self, branch: Branch, shift: int = 0) -> None:
        with self.engine.lock:
            self._check_idle()
            other = self._same_engine(branch)
            if other is self:
                raise InvalidInput("a branch cannot watch itself")
            if shift:
                check_has_positions(self.view, "what is watched cannot be shifted")
            target = other.view.show()
            self.view.freeze()
            self.view.append([Span(target, 0, None, shift)])

    def rewind(self, length: int) -> None:
        with self.engine.lock:
            self._check_idle()
            check_rewind(self.view, length)
            self.view.rewind(length)

    def seek(self, position: int) -> None:
        with self.engine.lock:
            self._check_idle()
            check_position(position, self.context_limit)
            check_has_positions(self.view, "there is no position to seek")
            self.view.freeze()
            self.view.next_position = position

    def block(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            return NativeBlock(self.view.store, self.view.block(), self.engine.lock)

    def seal(self) -> NativeBlock:
        with self.engine.lock:
            self._check_idle()
            return NativeBlock(self.view.store, self.view.seal(), self.engine.lock)

    def arrange(self, blocks: Sequence[Block]) -> None:
        with self.engine.lock:
            self._check_idle()
            spans = spans_of(blocks, self.view.store)
            check_arrangement(self.view, spans)
            self.view.arrange(spans)

    def lockstep(self, gang: str | None) -> None:
        with self.engine.lock:
            self._check_idle()
            self.engine.scheduler.regroup(self, None if gang is None else (self.job, gang))
        self.engine.wake()

    def close(self) -> None:
        with self.engine.lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.engine.scheduler.regroup(self, None)
            if self.generation is not None:
                self.generation.stop()
            self.view.close()
            self.parent = None
            self.engine.unregister(self)
        self.engine.wake()

    def note_reused(self, tokens: int) -> None:
        """Tokens that this branch wanted were found encoded; under the engine's lock."""
        if self.generation is not None:
            self.generation.note_found(tokens)
        else:
            self.reused_tokens += tokens

    # -- inside ------------------------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        if self.is_closed:
            raise BranchClosed(f"branch {self.path} is closed")
        self.engine.check_open()
        if self.generation is not None:
            raise BranchBusy(f"branch {self.path} is generating")

    def _same_engine(self, branch: Branch) -> NativeBranch:
        if not isinstance(branch, NativeBranch) or branch.engine is not self.engine:
            raise InvalidInput("branches of different engines cannot share a view")
        branch._check_idle()
        return branch

    def _contributions(self, branches: Sequence[Branch]) -> tuple[list[Span], int]:
        """The text spans each branch wrote since it was forked from this one, and the furthest next position."""
        others = [self._same_engine(branch) for branch in branches]
        for other in others:
            check_forked(other.path, other.parent, self)
        spans: list[Span] = []
        position = 0
        for other in others:
            other.view.freeze()
            spans += other.view.written()
            position = max(position, other.position)
        return spans, position
