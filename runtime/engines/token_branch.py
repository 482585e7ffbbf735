"""`TokenBranch` and `TokenGeneration`: branches of an engine without KV, whose views are plain lists of tokens.

The view operations have their token-level meaning: fork copies the list, merge concatenates what the branches wrote
and goes on at the furthest position, rewind cuts; watched and attached branches, on engines that say that they have
them, change positions but no tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator, Sequence
from typing import Any, Protocol

from ..engine import Block, Branch, Capabilities, Completion, Costs, SamplingParams, Tokenizer
from ..errors import BranchBusy, BranchClosed, InvalidInput, UnsupportedByEngine
from .branch_checks import (
    check_contexts,
    check_fork,
    check_forked,
    check_ids,
    check_length,
    check_position,
    check_prompt,
)
from .text_stream import is_behind
from .token_feed import TokenFeed


class BranchEngine(Protocol):
    """What a branch needs of the engine that serves it."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    context_limit: int
    capabilities: Capabilities
    branches: set[TokenBranch]
    """Open ones."""
    tasks: set[asyncio.Task[Completion]]
    """Those of the generations that run."""

    def check_params(self, params: SamplingParams) -> None:
        """Raise `InvalidInput` for what the vocabulary does not allow."""
        ...

    def complete(self, generation: TokenGeneration) -> Coroutine[Any, Any, Completion]:
        """Do what `generation.params` ask for, adding tokens through `generation.append`."""
        ...


class TokenBranch:
    """See `engine.Branch`."""

    def __init__(
        self,
        engine: BranchEngine,
        *,
        path: tuple[int, ...],
        seed: int,
        context_limit: int,
        job: str,
        priority: int = 0,
        parent: TokenBranch | None = None,
    ) -> None:
        self.engine = engine
        self.parent = parent
        self.path = path
        self.seed = seed
        self.context_limit = context_limit
        self.job = job
        self.priority = priority
        self.is_closed = False
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._position = 0
        self._inherited = 0
        """Leading tokens that came with the fork."""
        self._forks = 0
        self._num_cut = 0
        self.generation: TokenGeneration | None = None

    @property
    def tokens(self) -> list[int]:
        return list(self._tokens)

    @property
    def length(self) -> int:
        return len(self._tokens)

    @property
    def position(self) -> int:
        return self._position

    @property
    def num_written(self) -> int:
        """Tokens so far, with those that were cut: what is drawn by it is another draw after a rewind."""
        return self.length + self._num_cut

    def extend(self, tokens: Sequence[int]) -> None:
        self._check_idle()
        check_prompt(tokens, self._position, self.context_limit)
        check_ids(tokens, self.engine.vocab_size)
        self._append(tokens)

    def _append(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        self._positions += range(self._position, self._position + len(tokens))
        self._position += len(tokens)

    def generate(self, params: SamplingParams | None = None) -> TokenGeneration:
        self._check_idle()
        self.engine.check_params(params := params or SamplingParams())
        self.generation = TokenGeneration(self, params)
        return self.generation

    def fork(self, n: int) -> list[Branch]:
        self._check_idle()
        check_fork(n)
        return [self._fork() for _ in range(n)]

    def _fork(self) -> TokenBranch:
        path = (*self.path, self._forks)
        child = type(self)(
            self.engine, path=path, seed=self.seed, context_limit=self.context_limit, job=self.job,
            priority=self.priority, parent=self,
        )  # fmt: skip
        self._forks += 1
        child._tokens, child._positions = list(self._tokens), list(self._positions)
        child._position, child._inherited = self._position, self.length
        self.engine.branches.add(child)
        return child

    def merge(self, branches: Sequence[Branch]) -> None:
        self._check_idle()
        for branch in self._forked(branches):
            self._tokens += branch._tokens[branch._inherited :]
            self._positions += branch._positions[branch._inherited :]
            self._position = max(self._position, branch._position)

    def attach(
        self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        self._check_idle()
        self._check_contexts_allowed()
        self._position = max([self._position, *(branch._position for branch in self._forked(branches))])

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        self._check_idle()
        self._check_contexts_allowed()
        check_contexts(contexts, self._position, self.context_limit, self.engine.vocab_size)
        self._position += max(map(len, contexts), default=0)

    def watch(self, branch: Branch, shift: int = 0) -> None:
        self._check_idle()
        if not self.engine.capabilities.live_views:
            raise self._has_no_live_views()
        if self._same_engine(branch) is self:
            raise InvalidInput("a branch cannot watch itself")

    def seek(self, position: int) -> None:
        self._check_idle()
        check_position(position, self.context_limit)
        self._position = position

    def block(self) -> Block:
        raise self._has_no_live_views()

    def seal(self) -> Block:
        raise self._has_no_live_views()

    def arrange(self, blocks: Sequence[Block]) -> None:
        raise self._has_no_live_views()

    def lockstep(self, gang: str | None) -> None:
        raise self._has_no_live_views()

    def rewind(self, length: int) -> None:
        self._check_idle()
        check_length(length, self.length)
        self._cut(length)

    def _cut(self, length: int) -> None:
        if length < self.length:
            self._position = self._positions[length]
            self._num_cut += self.length - length
            del self._tokens[length:], self._positions[length:]
            self._inherited = min(self._inherited, length)

    def close(self) -> None:
        self.is_closed = True
        self.parent = None
        self.engine.branches.discard(self)
        if self.generation is not None:
            self.generation.stop()

    def _check_idle(self) -> None:
        if self.is_closed:
            raise BranchClosed(f"branch {self.path} is closed")
        if self.generation is not None and not self.generation.is_done:
            raise BranchBusy(f"branch {self.path} is generating")

    def _check_contexts_allowed(self) -> None:
        if not self.engine.capabilities.parallel_contexts:
            raise UnsupportedByEngine(f"engine {self.engine.name} has no parallel contexts; the native engine has them")

    def _has_no_live_views(self) -> UnsupportedByEngine:
        return UnsupportedByEngine(f"engine {self.engine.name} has no live views; the native engine has")

    def _same_engine(self, branch: Branch) -> TokenBranch:
        if not isinstance(branch, TokenBranch) or branch.engine is not self.engine:
            raise InvalidInput("branches of another engine")
        branch._check_idle()
        return branch

    def _forked(self, branches: Sequence[Branch]) -> list[TokenBranch]:
        """Those of this engine that were forked from this one; raises for any other before anything changes."""
        ours = [self._same_engine(branch) for branch in branches]
        for branch in ours:
            check_forked(branch.path, branch.parent, self)
        return ours


class TokenGeneration:
    """See `engine.Generation`. A task runs the engine's `complete`, which adds tokens through `append`."""

    def __init__(self, branch: TokenBranch, params: SamplingParams) -> None:
        self.branch = branch
        self.params = params
        self.start = branch.length
        self.behind = is_behind(branch.engine.tokenizer, branch)
        """Did other text stand there then?"""
        self.costs = Costs()
        """As far as `complete` says."""
        self._shown = TokenFeed()
        """New tokens that iteration may give out: no stop string can take them back."""
        self._task = asyncio.create_task(branch.engine.complete(self))
        branch.engine.tasks.add(self._task)
        self._task.add_done_callback(self._finished)

    # -- for the engine ----------------------------------------------------------------------------------------

    @property
    def new(self) -> list[int]:
        """Tokens sampled so far."""
        return self.branch._tokens[self.start :]

    def append(self, tokens: Sequence[int]) -> None:
        self.branch._append(tokens)

    def show(self, count: int) -> None:
        """Let iteration have the first `count` new tokens."""
        self._shown.put(self.branch._tokens[self.start + len(self._shown) : self.start + count])

    def keep(self, count: int) -> None:
        """Roll back all but the first `count` new tokens."""
        self.branch._cut(self.start + count)

    # -- for the caller ----------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        return self._task.done() or self._task.cancelling() > 0

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._result().__await__()

    async def _result(self) -> Completion:
        try:
            return await self._task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise BranchClosed("the generation was stopped") from None

    def __aiter__(self) -> AsyncIterator[int]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[int]:
        given = 0
        try:
            while (token := await self._shown.at(given)) is not None:
                given += 1
                yield token
        except BaseException:
            self.stop()
            raise
        await self

    async def aclose(self) -> None:
        self.stop()
        await asyncio.wait([self._task])

    def stop(self) -> None:
        self._task.cancel()

    def _finished(self, task: asyncio.Task[Completion]) -> None:
        self.branch.engine.tasks.discard(task)
        if not task.cancelled() and task.exception() is None:
            self._shown.put(task.result().token_ids[len(self._shown) :])
        self._shown.end()
