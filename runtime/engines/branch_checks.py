"""What the branches of every engine refuse, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Branch
from ..errors import InvalidInput, PromptTooLong


def check_place(seed: int, priority: int, deadline: float | None, context_limit: int | None) -> None:
    """What a branch is opened with, which the scheduler compares with that of others."""
    for name, value in (("seed", seed), ("priority", priority)):
        if type(value) is not int:
            raise InvalidInput(f"{name} must be an integer, not {value!r}")
    # NaN is neither before nor behind another deadline.
    if deadline is not None and (type(deadline) not in (int, float) or deadline != deadline):
        raise InvalidInput(f"deadline must be a number, not {deadline!r}")
    if context_limit is not None and (type(context_limit) is not int or context_limit < 1):
        raise InvalidInput(f"context_limit must be positive, not {context_limit!r}")


def check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    for kind in set(map(type, tokens)):
        if kind is not int:
            raise InvalidInput(f"token ids are integers, not {kind.__name__}")
    bad = [t for t in tokens if not 0 <= t < vocab_size]
    if bad:
        raise InvalidInput(f"token id {bad[0]} is outside the vocabulary of {vocab_size}")


def check_prompt(tokens: Sequence[int], position: int, context_limit: int) -> None:
    if position + len(tokens) > context_limit:
        raise PromptTooLong(
            f"{len(tokens)} tokens at position {position} do not fit the context limit of {context_limit} tokens; "
            f"shorten the prompt or raise context_limit"
        )


def check_contexts(contexts: Sequence[Sequence[int]], position: int, context_limit: int, vocab_size: int) -> None:
    longest = max(map(len, contexts), default=0)
    if position + longest > context_limit:
        raise PromptTooLong(
            f"a context of {longest} tokens at position {position} does not fit the context limit of {context_limit} "
            f"tokens; split it or raise context_limit"
        )
    for text in contexts:
        check_ids(text, vocab_size)


def check_position(position: int, context_limit: int) -> None:
    if type(position) is not int or not 0 <= position <= context_limit:
        raise InvalidInput(f"position {position!r} is outside the context of {context_limit}")


def check_length(length: int, held: int) -> None:
    """`held`: tokens of the view that is to be cut to `length`."""
    if type(length) is not int or not 0 <= length <= held:
        raise InvalidInput(f"cannot rewind {held} tokens to {length!r}")


def check_fork(n: int) -> None:
    if type(n) is not int or n < 1:
        raise InvalidInput(f"cannot fork into {n!r} branches")


def check_forked(path: tuple[int, ...], parent: object, taker: Branch) -> None:
    """Only what was written since the fork from a branch can be taken over by it. `path`, `parent`: of the branch that
    wrote it."""
    if parent is not taker:
        raise InvalidInput(f"branch {path} was not forked from {taker.path}")
