"""Which of the tokens that end a text ends a turn of the assistant: models of chats have several."""

from __future__ import annotations

from functools import lru_cache

from ..runtime.engines.native.tokenizer import HFTokenizer
from ..runtime.errors import InvalidInput


@lru_cache(maxsize=4)
def turn_end(tokenizer: HFTokenizer) -> tuple[int, ...]:
    """The first one that the chat template puts behind what the assistant says; where it puts none, the tokenizer's own
    end, else the first that the model names. Empty: there is none."""
    ends = tokenizer.eos_ids
    if len(ends) > 1:
        own = tokenizer.special_ids.get("eos_token", ends[0])
        ends = tuple(token for token in (*_behind(tokenizer), own) if token in ends) or ends
    return ends[:1]


def _behind(tokenizer: HFTokenizer) -> list[int]:
    """The tokens behind the assistant's words: those that two chats which differ in these alone end with."""
    question = {"role": "user", "content": "a"}
    try:
        one, other = (tokenizer.chat([question, {"role": "assistant", "content": text}]) for text in ("a", "B"))
    except InvalidInput:  # there is no template, or one that does not take what stands there
        return []
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return one[len(one) - count :] if one != other else []
