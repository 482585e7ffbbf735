"""What a branch refuses because no step could ever compute it."""

from __future__ import annotations

from collections.abc import Sequence

from ....attention.plan import Group
from ...errors import InvalidInput, OutOfBlocks, PromptTooLong
from ...sampling import MIN_TEMPERATURE
from .segment import Span
from .view import View


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


def check_blocks(what: str, need: int, num_blocks: int) -> None:
    """`num_blocks`: of the store."""
    if need > num_blocks:
        raise OutOfBlocks(f"{what} need {need} KV blocks and the store has {num_blocks}; raise kv_tokens")


def check_position(position: int, context_limit: int) -> None:
    if not 0 <= position <= context_limit:
        raise InvalidInput(f"position {position} is outside the context of {context_limit}")


def check_rewind(view: View, length: int) -> None:
    if not 0 <= length <= view.length:
        raise InvalidInput(f"cannot rewind {view.length} tokens to {length}")
    if view.is_packed and length < view.num_text:
        raise InvalidInput("an arranged view can be rewound within its own segment only")


def check_arrangement(view: View, spans: Sequence[Span]) -> None:
    own = view.own
    if any(span.segment is own for span in spans):
        raise InvalidInput("the own segment comes last by itself")
    # What is joined to it was found in the store, and would else be a part of it.
    if own is not None and (own.tokens or own.is_joined) and not own.is_packed:
        raise InvalidInput("seal or rewind what was written before the view is arranged")


def group_of(temperature: float, scale: float, bias: float) -> Group:
    """The group that APE's settings ask for."""
    largest = 1 / MIN_TEMPERATURE
    if not (MIN_TEMPERATURE <= temperature <= largest and abs(scale) <= largest and abs(bias) <= largest):
        raise InvalidInput(
            f"temperature {temperature}, scale {scale} and bias {bias}: finite, not beyond 1e6, the temperature at "
            "least 1e-6"
        )
    return Group(temperature=temperature, factor=scale * temperature, bias=bias)
