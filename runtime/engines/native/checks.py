"""What a branch refuses because no step could ever compute it."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InvalidInput, OutOfBlocks, PromptTooLong


def check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    bad = [t for t in tokens if not 0 <= t < vocab_size]
    if bad:
        raise InvalidInput(f"token id {bad[0]} is outside the vocabulary of {vocab_size}")


def check_prompt(tokens: Sequence[int], position: int, context_limit: int) -> None:
    if position + len(tokens) > context_limit:
        raise PromptTooLong(
            f"{len(tokens)} tokens at position {position} do not fit the context limit of {context_limit} tokens; "
            f"shorten the prompt or raise context_limit"
        )


def check_contexts(contexts: Sequence[Sequence[int]], position: int, context_limit: int) -> None:
    longest = max(map(len, contexts), default=0)
    if position + longest > context_limit:
        raise PromptTooLong(
            f"a context of {longest} tokens at position {position} does not fit the context limit of {context_limit} "
            f"tokens; split it or raise context_limit"
        )


def check_blocks(what: str, need: int, num_blocks: int) -> None:
    """`num_blocks`: of the store."""
    if need > num_blocks:
        raise OutOfBlocks(f"{what} need {need} KV blocks and the store has {num_blocks}; raise kv_tokens")
