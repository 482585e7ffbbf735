"""`Scope`: the books of one part of a job: its ledger, its clock on the critical path, its place in the tree.

What happens in one scope happens in program order, so its clock is a plain counter of spent tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..budget import Ledger, check_shares
from ..engine import Capabilities, Engine, Tokenizer
from ..errors import InvalidInput, OutOfBudget
from ..events import AnyBranchEvent
from ..plain import as_int
from .state import JobState, OpenBranch


def check_text(what: str, value: object) -> None:
    """Nothing else can be read back from a trace there. Raises `InvalidInput`."""
    if not isinstance(value, str):
        raise InvalidInput(f"{what} is a text, not {value!r:.200}")


class Scope:
    """What branches are charged to and announced by; a `Context` is one that methods can work with."""

    def __init__(
        self,
        state: JobState,
        *,
        path: tuple[int, ...] = (),
        level: int = 0,
        ledger: Ledger,
        critical_limit: int | None,
        now: int = 0,
        parent: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        """`engine`: what its branches run on; None: the job's own."""
        self.state = state
        self.engine = engine or state.engine
        self.path = path
        """Place in the job's tree. Slots below it are handed out in program order, so sampling does not depend on
        scheduling: branch roots are at `path + (slot,)`, parts of `parallel` at `path + (slot, index)`."""
        self.level = level
        """Depth of nested `parallel` scopes; `Budget.depth` limits it."""
        self.ledger = ledger
        self.critical_limit = critical_limit
        self.now = now
        """Spent tokens on the critical path up to here."""
        self._reserved = 0
        """Tokens that generations under way may still add to it."""
        self.parent = parent
        """The branch that this scope's root branches belong under."""
        self._slot = 0
        self._owned: list[OpenBranch] = []

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def model(self) -> str | None:
        """The engine's name if it is not the job's own."""
        return None if self.engine is self.state.engine else self.engine.name

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    @property
    def context_limit(self) -> int:
        return self.engine.context_limit

    @property
    def critical_left(self) -> int | None:
        """Tokens that the scope's own work may still add to the critical path, without what its generations under way
        have reserved; None: no limit."""
        beside = self.critical_beside
        return None if beside is None else max(beside - self._reserved, 0)

    @property
    def critical_beside(self) -> int | None:
        """Tokens that a part may add to it, which runs beside the scope's generations and not behind them."""
        return None if self.critical_limit is None else max(self.critical_limit - self.now, 0)

    @property
    def is_late(self) -> bool:
        """Is the deadline over?"""
        return self.state.is_late

    @property
    def may_go_deeper(self) -> bool:
        """Does the budget's depth allow another level of children?"""
        depth = self.state.budget.depth
        return depth is None or self.level < depth

    def share(self, parts: int, reserve: int = 0) -> int | None:
        """Tokens each of `parts` would get from `parallel`, by the tighter of both ledgers; None: no limit. Raises
        `InvalidInput` for less than one part of what is limited, and for less than nothing that is kept back."""
        is_limited = self.ledger.left is not None or self.critical_limit is not None
        reserve, parts = check_shares(reserve, parts, least=1 if is_limited else 0)
        shares = []
        if self.ledger.left is not None:
            shares.append(max(self.ledger.left - reserve, 0) // parts)
        if self.critical_beside is not None:
            shares.append(max(self.critical_beside - reserve, 0))
        return min(shares, default=None)

    # -- books -------------------------------------------------------------------------------------------------

    def check_spend(self, tokens: int) -> None:
        """Raise `OutOfBudget` if the context may not inject that many tokens."""
        left = self.critical_left
        if not self.ledger.can_spend(tokens) or (left is not None and tokens > left):
            raise OutOfBudget(f"{tokens} tokens to inject; left are {self.ledger.left} in total, {left} critical")

    def reserve(self, tokens: int) -> int:
        """Set aside up to `tokens` in both ledgers; returns how many to `settle`."""
        reserved = self.ledger.reserve(tokens)
        self._reserved += reserved
        return reserved

    def settle(self, reserved: int, used: int) -> None:
        """End a reservation of which `used` tokens were spent."""
        self._reserved -= reserved
        self.ledger.settle(reserved, used)
        self.advance(used)

    def advance(self, tokens: int) -> None:
        """Move the clock by spent tokens."""
        self.now += tokens
        usage = self.state.usage
        usage.critical_tokens = max(usage.critical_tokens, self.now)

    def count(self, name: str, n: int = 1) -> None:
        """Add to `Usage.counts`. Raises `InvalidInput` for a name that is no text, or a number that is not whole."""
        check_text("what is counted", name)
        number = int(n) if isinstance(n, bool) else as_int(n)
        if number is None:
            raise InvalidInput(f"{name!r:.200} is counted in whole numbers, not {n!r:.200}")
        if number:
            self.state.usage.counts[name] += number

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under `Usage.phases[name]`. Raises `InvalidInput` for a name that is no text."""
        check_text("a phase", name)
        with self.state.phase(name):
            yield

    def emit(self, cls: type[AnyBranchEvent], **values: Any) -> None:
        """Announce an event of a branch."""
        self.state.emit(cls, **values)

    def next_slot(self) -> int:
        """The place of the next branch or part below this scope."""
        slot, self._slot = self._slot, self._slot + 1
        return slot

    def own(self, branch: OpenBranch) -> None:
        """The branch is closed with the scope, at the latest."""
        self._owned.append(branch)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Branches opened inside are closed at the end."""
        try:
            yield
        finally:
            for branch in self._owned:
                branch.close()
            self._owned.clear()  # each knows its scope: the engine would be there until the next collection of garbage
