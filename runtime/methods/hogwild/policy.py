"""The two published codes of Hogwild! (arXiv 2504.06261) and what they do differently.

`package` is the authors' optimised package, `repo` the repository of the paper. What is listed here and in `text` is
what their greedy tokens depend on; the wording of the rules is a job's own (`rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ...engine import Tokenizer
from .text import OTHERS, SEPARATOR, Pieces

Layout = Literal["combined", "interleaved", "contiguous"]


@runtime_checkable
class NamesSpecial(Protocol):
    """A tokenizer that tells its special tokens apart."""

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Name (`eos_token`) or text -> token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one of the codes does."""

    others: str
    """Heading in front of the others' unfinished steps."""
    has_past: bool
    """Does the prompt end with the heading of the past steps?"""
    minds_fences: bool
    """Does an open block of code or mathematics keep a step from ending?"""
    joins_newlines: bool
    """Does a blank line of several tokens end a step, where the tokenizer writes it so?"""
    is_endless: bool
    """Are headings and ends of sequences impossible (`forbidden`), and does a group without steps not end by itself?"""
    encodes_again: bool
    """Is the concluding sequence encoded from its text, and its prompt searched for answers too?"""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of fields that a job does not set."""

    def forbidden(self, tokenizer: Tokenizer, found: Pieces, layout: Layout) -> tuple[int, ...]:
        """Tokens that no worker can sample: `#` alone, `</think>`, BOS and EOS; without steps every special token."""
        if not self.is_endless:
            return ()
        end_of_thought = tokenizer.encode_continuation((), "</think>")
        banned = {*found.hashes, *(end_of_thought if len(end_of_thought) == 1 else ())}
        special = special_ids(tokenizer)
        for name, token in special.items():
            if layout == "contiguous" or name in ("bos_token", "eos_token"):
                banned.add(token)
        return tuple(sorted(banned))


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Special tokens by name, as far as the tokenizer tells."""
    if isinstance(tokenizer, NamesSpecial):
        return dict(tokenizer.special_ids)
    named = {} if tokenizer.bos_id is None else {"bos_token": tokenizer.bos_id}
    return {**named, **({"eos_token": tokenizer.eos_ids[0]} if tokenizer.eos_ids else {})}


POLICIES: Mapping[str, Policy] = {
    "package": Policy(
        others=OTHERS,
        has_past=True,
        minds_fences=True,
        joins_newlines=True,
        is_endless=False,
        encodes_again=False,
    ),
    "repo": Policy(
        others=SEPARATOR + OTHERS,
        has_past=False,
        minds_fences=False,
        joins_newlines=False,
        is_endless=True,
        encodes_again=True,
        defaults={
            "self_check_every": 256,
            "check_repeats": False,
            "max_step": None,
            "ban_impersonation": False,
            "accepts": "number",
            "conclusion_tokens": 16,
        },
    ),
}
