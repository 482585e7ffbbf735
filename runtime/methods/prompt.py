"""Prompts and other texts as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, StrictInt, StrictStr

from ..engine import Tokenizer
from ..engines.text_stream import decode_behind
from ..errors import InvalidInput

ROLES = ("system", "developer", "user", "assistant", "tool")
LONG_PROMPT = 4096
"""Characters of one that is encoded in a thread."""


def _check_messages(prompt: Prompt) -> Prompt:
    for number, message in enumerate(prompt if isinstance(prompt, list) else ()):
        if isinstance(message, dict):
            if message.get("role") not in ROLES:
                raise ValueError(f"message {number}: role is {message.get('role')!r}; known: {', '.join(ROLES)}")
            if "content" not in message:
                raise ValueError(f"message {number}: it has no content")
    return prompt


Prompt = Annotated[StrictStr | list[dict[StrictStr, StrictStr]] | list[StrictInt], AfterValidator(_check_messages)]
"""Text, chat messages, or token ids as they are."""


def chat_messages(prompt: Prompt, *, chat: bool = False, system: str | None = None) -> list[dict[str, str]]:
    """The messages of a prompt that is a chat, or that is to be put as one; empty for any other. `system` goes in front
    of those that have no system message."""
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}] if chat or system is not None else []
    else:
        messages = [message for message in prompt if isinstance(message, dict)]
    if messages and system is not None:
        if messages[0].get("role") == "system":
            raise InvalidInput("the prompt begins with a system message, and there is `system` too: give one of them")
        messages = [{"role": "system", "content": system}, *messages]
    return messages


def prompt_tokens(
    prompt: Prompt,
    tokenizer: Tokenizer,
    *,
    chat: bool = False,
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The tokens a root branch is opened with: a text as the tokenizer encodes whole texts, a chat by the model's
    template, which may have `tools`, token ids as they are. Raises `InvalidInput` for a chat without a template, or one
    that it refuses, and for tools without a chat."""
    messages = chat_messages(prompt, chat=chat, system=system)
    if messages:
        return tokenizer.chat(messages, tools) if tools else tokenizer.chat(messages)
    if tools:
        raise InvalidInput("tools are for chats: give messages, or chat=true with a text")
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if chat or system is not None:
        raise InvalidInput("chat and system are for text and messages; this prompt is token ids")
    return [token for token in prompt if isinstance(token, int)]


def prefix_length(tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many tokens in front are what the tokenizer puts there."""
    prefix = tokenizer.prefix_ids
    return len(prefix) if tuple(tokens[: len(prefix)]) == prefix else 0


def context_text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a context, without what the tokenizer puts in front and EOS behind."""
    first = prefix_length(tokens, tokenizer)
    last = len(tokens) - (1 if tokens and tokens[-1] in tokenizer.eos_ids else 0)
    return tokenizer.decode(tokens[first:last])


def cut(
    tokens: Sequence[int], keep: str, then: str, tokenizer: Tokenizer, *, behind: bool = False
) -> tuple[int, list[int]]:
    """How to make a context's text `keep + then`, where `keep` is a prefix of it, reusing as many tokens as possible.

    Returns how many tokens stay and the tokens to append. A token that reaches over the end of `keep` goes, and the
    part of `keep` it held is encoded anew together with `then`. `behind`: does other text stand in front?
    """
    first = prefix_length(tokens, tokenizer)
    low, high = first, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode_behind(tokenizer, tokens[first:middle], behind=behind)) <= len(keep):
            low = middle
        else:
            high = middle - 1
    kept = low
    while not keep.startswith(text := decode_behind(tokenizer, tokens[first:kept], behind=behind)):
        kept -= 1
    return kept, tokenizer.encode_continuation(tokens[:kept], keep[len(text) :] + then)
