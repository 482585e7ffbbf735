"""Prompts and other texts as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Tokenizer

Prompt = str | list[dict[str, str]] | list[int]
"""Text (BOS is put in front where the model has one), chat messages, or token ids as they are."""


def text_tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """BOS, where there is one, and the text."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + tokenizer.encode(text)


def prompt_tokens(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The tokens a root branch is opened with."""
    if isinstance(prompt, str):
        return text_tokens(prompt, tokenizer)
    if prompt and isinstance(prompt[0], dict):
        return tokenizer.chat([message for message in prompt if isinstance(message, dict)])
    return [token for token in prompt if isinstance(token, int)]


def context_text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a context, without BOS in front and EOS behind."""
    first = 1 if tokens and tokens[0] == tokenizer.bos_id else 0
    last = len(tokens) - (1 if tokens and tokens[-1] in tokenizer.eos_ids else 0)
    return tokenizer.decode(tokens[first:last])


def cut(tokens: Sequence[int], keep: str, then: str, tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """How to make a context's text `keep + then`, where `keep` is a prefix of it, reusing as many tokens as possible.

    Returns how many tokens stay and the tokens to append. A token that reaches over the end of `keep` goes, and the
    part of `keep` it held is encoded anew together with `then`.
    """
    first = 1 if tokens and tokens[0] == tokenizer.bos_id else 0
    low, high = first, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(tokens[first:middle])) <= len(keep):
            low = middle
        else:
            high = middle - 1
    kept = low
    while not keep.startswith(text := tokenizer.decode(tokens[first:kept])):
        kept -= 1
    return kept, tokenizer.encode(keep[len(text) :] + then)
