"""What a job may spend: `Budget` as the caller states it, `Ledger` as the runtime keeps it.

Two ledgers, both in tokens. A *spent* token is one that was sampled, or injected into a context after its prompt (join
text, forced tags). Prompts, a child's message included, are counted apart (`Usage.prompt_tokens`); tokens rolled back
behind a stop string are in no ledger.

- total: all spent tokens of all branches.
- critical path: spent tokens on the longest chain in which each waited for the one before: along a thread they add up,
  of children that run side by side only the longest counts.

Concurrent parts get their share before they start, in equal parts whatever the schedule, and hand back what they did
not use when all of them are done: so what a part may spend depends on the tree alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InvalidBudget, InvalidInput, OutOfBudget
from .mistakes import mistakes
from .plain import as_int, check_plain


class Budget(BaseModel):
    """Limits of one job; None: no limit. Raises `InvalidBudget` when a limit allows no work."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    critical_tokens: int | None = None
    """Spent tokens on the longest dependent chain."""
    total_tokens: int | None = None
    """Spent tokens of all branches together."""
    seconds: float | None = None
    """Wall time from the start of the job; generations running then are stopped and the method concludes. `TreeSearch`
    scores what was written by then for a tenth of that time at most; loading another model, which the jobs after it
    use too, and a call of a plain Python function are not cut off."""
    width: int | None = None
    """Branches that may decode at the same time; more wait their turn."""
    depth: int | None = None
    """Levels of children below the root; 0: no spawning at all."""

    if not TYPE_CHECKING:

        def __init__(self, **data: Any) -> None:
            try:
                check_plain(data)
            except ValueError as error:
                raise InvalidBudget(f"budget.{error}") from None
            try:
                super().__init__(**data)
            except ValidationError as error:
                where, what = mistakes(error)[0]
                if not where:  # from below
                    raise InvalidBudget(what) from None
                raise InvalidBudget(f"budget.{where}: {what.lower()}") from None

    def model_post_init(self, _context: Any) -> None:
        for name in ("critical_tokens", "total_tokens", "seconds", "width"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidBudget(f"budget.{name} is {value}: it must be positive (leave it out for no limit)")
        if self.depth is not None and self.depth < 0:
            raise InvalidBudget(f"budget.depth is {self.depth}: it must be 0 (no spawning) or more")


def check_shares(reserve: int, parts: int = 1, *, least: int = 1) -> tuple[int, int]:
    """What is to be kept back and the number of parts, `least` or more, that the rest is divided by, as plain numbers.
    Raises `InvalidInput`."""
    kept, count = as_int(reserve), as_int(parts)
    if kept is None or kept < 0:
        raise InvalidInput(f"reserve is a number of tokens, 0 or more, not {reserve!r:.200}")
    if count is None or count < least:
        raise InvalidInput(f"the ledger is shared by {least} part or more, not {parts!r:.200}")
    return kept, count


class Ledger:
    """Tokens one scope may still spend.

    `reserve` before work of unknown size, `settle` with what it really cost; `split` into equal shares for concurrent
    parts and `give_back` each of them when all are done. `left` is None where there is no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.left = limit
        self.spent = 0
        """Tokens charged here; shares handed back have added theirs."""

    def can_spend(self, tokens: int) -> bool:
        return self.left is None or tokens <= self.left

    def spend(self, tokens: int) -> None:
        if not self.can_spend(tokens):
            raise OutOfBudget(f"{tokens} tokens to spend, {self.left} left in the budget")
        self.spent += tokens
        if self.left is not None:
            self.left -= tokens

    def reserve(self, tokens: int) -> int:
        """Set aside up to `tokens`; returns how many. Nobody else can spend them until `settle`."""
        if self.left is None:
            return tokens
        taken = min(tokens, self.left)
        self.left -= taken
        return taken

    def settle(self, reserved: int, used: int) -> None:
        """End a reservation of which `used` tokens were spent."""
        assert 0 <= used <= reserved, f"{used} tokens used of {reserved} reserved"
        self.spent += used
        if self.left is not None:
            self.left += reserved - used

    def split(self, parts: int, reserve: int = 0) -> list[Ledger]:
        """`parts` ledgers with equal shares of all but `reserve` tokens; the remainder of the division stays here."""
        if self.left is None:
            return [Ledger() for _ in range(parts)]
        share = max(self.left - reserve, 0) // parts if parts else 0
        self.left -= share * parts
        return [Ledger(share) for _ in range(parts)]

    def give_back(self, share: Ledger) -> None:
        """Take what is left of a share, and its spending, into this ledger."""
        self.spent += share.spent
        if self.left is not None and share.left is not None:
            self.left += share.left
        share.left, share.spent = 0, 0
