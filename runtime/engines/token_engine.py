"""`TokenEngine`: an engine without KV; the base of those that do not compute attention themselves."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..engine import BlockUsage, Capabilities, Completion, Constraint, SamplingDefaults, SamplingParams, Tokenizer
from ..errors import EngineClosed, UnsupportedByEngine
from .branch_checks import check_place
from .token_branch import TokenBranch, TokenGeneration

BLOCK_TOKENS = 16
TOTAL_BLOCKS = 1 << 20


class TokenEngine(ABC):
    """See `engine.Engine`."""

    branch_type: type[TokenBranch] = TokenBranch

    def __init__(
        self, name: str, tokenizer: Tokenizer, *, context_limit: int, capabilities: Capabilities | None = None,
        sampling_defaults: SamplingDefaults | None = None, vocab_size: int | None = None,
    ) -> None:  # fmt: skip
        """`vocab_size`: of the model, where it is known; else the tokenizer's."""
        self.name = name
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        self.context_limit = context_limit
        self.capabilities = capabilities or Capabilities(logprobs=True, constrained=True)
        self.sampling_defaults = sampling_defaults or SamplingDefaults()
        self.branches: set[TokenBranch] = set()
        """Open ones."""
        self.tasks: set[asyncio.Task[Completion]] = set()
        """Those of the generations that run."""
        self.is_closed = False

    @abstractmethod
    async def complete(self, generation: TokenGeneration) -> Completion:
        """Do what `generation.params` ask for, adding tokens through `generation.append`."""

    def check_params(self, params: SamplingParams) -> None:
        """Raise `InvalidInput` for what the vocabulary does not allow."""
        params.check_vocabulary(self.vocab_size)
        if params.constraint is not None:
            self.check_constraint(params.constraint)

    def check_constraint(self, constraint: Constraint) -> None:
        """See `engine.Engine`: there are none, but for engines that say otherwise."""
        raise UnsupportedByEngine(f"engine {self.name} takes no constraints; the native engine does")

    def open(
        self,
        tokens: Sequence[int] = (),
        *,
        path: tuple[int, ...] = (),
        seed: int = 0,
        context_limit: int | None = None,
        job: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> TokenBranch:
        if self.is_closed:
            raise EngineClosed(f"engine {self.name} is closed")
        check_place(seed, priority, deadline, context_limit)
        limit = min(context_limit or self.context_limit, self.context_limit)
        branch = self.branch_type(self, path=path, seed=seed, context_limit=limit, job=job, priority=priority)
        branch.extend(tokens)
        self.branches.add(branch)
        return branch

    def block_usage(self, job: str | None = None) -> BlockUsage:
        """As if every branch held blocks of its own."""
        used = sum(math.ceil(b.length / BLOCK_TOKENS) for b in self.branches if job is None or b.job == job)
        return BlockUsage(total=TOTAL_BLOCKS, free=TOTAL_BLOCKS - used, cached=0, used=used)

    async def start(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        for branch in list(self.branches):
            branch.close()
        if self.tasks:
            await asyncio.wait(self.tasks)
