"""Where a prompt's contexts come in: behind what stands in front of its text, which in a chat is the template's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..engine import Tokenizer
from .prompt import prefix_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A prompt in parts: head, lead, (here come the contexts,) question, tail."""

    head: list[int]
    """Tokens in front."""
    lead: str = ""
    """Text behind them that the next word's token begins with: the space in Llama-2's `[INST] `."""
    question: str
    """What is encoded anew behind contexts."""
    tail: list[int]
    """Tokens behind the message, which stay as they are."""


def find_place(messages: Sequence[dict[str, str]], tokens: Sequence[int], tokenizer: Tokenizer) -> Place:
    """The place in front of the text of the first user message, of a prompt with these tokens; without a chat, behind
    what the tokenizer puts in front.

    What the chat template puts around the text is found by rendering it with other texts in the message's place: what
    does not change is the template's.
    """
    first = next((i for i, message in enumerate(messages) if message.get("role") == "user"), None)
    if first is not None:
        one, other = (
            tokenizer.chat([*messages[:first], {**messages[first], "content": text}, *messages[first + 1 :]])
            for text in ("a", "B")
        )
        text = tokenizer.decode(tokens)
        shown = _alike(tokenizer.decode(one), tokenizer.decode(other))
        if text[:shown] == tokenizer.decode(one)[:shown]:
            head = _alike(one, other)
            tail = min(_alike(one[::-1], behind[::-1]) for behind in (other, tokens))
            asked = tokenizer.decode(tokens[: len(tokens) - tail])
            if asked[:shown] != text[:shown]:
                asked, tail = text, 0
            return Place(
                head=one[:head],
                lead=text[len(tokenizer.decode(one[:head])) : shown],
                question=asked[shown:],
                tail=list(tokens[len(tokens) - tail :]),
            )
    head = prefix_length(tokens, tokenizer)
    return Place(head=list(tokens[:head]), question=tokenizer.decode(tokens[head:]), tail=[])


def _alike(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
