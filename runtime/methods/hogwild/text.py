"""What is put into Hogwild! workers' text, and where a step ends.

Headings, step prefixes and the rule for the end of a step are the protocol of arXiv 2504.06261 and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ...engine import Tokenizer

SEPARATOR = "\n\n"
PIVOT = "<...>"
"""Stands where somebody's text breaks off."""
PAST_STEPS = "### Past steps"
IN_PROGRESS = "### Work in progress"
OTHERS = f"{IN_PROGRESS} (others){SEPARATOR}"
OWN = f"{PIVOT}{SEPARATOR}{IN_PROGRESS} (own){SEPARATOR}"
SPLIT = f" <the assistant will continue here>{SEPARATOR}"
"""In front of a worker's own text in the contiguous layout."""
SELF_CHECK = "Quick check: am I doing redundant work? (yes/no): "
DEFAULT_NAMES = ("Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi")

_SENTENCE_ENDS = frozenset(
    ".?!"
    "\u3002\u06d4\u061f\u0964\u0965\u2026\u203d"  # CJK, Urdu, Arabic, Devanagari, ellipsis, interrobang
    "\u0f0d\u1803\u0589\u10fb\u00b6\u2767"  # Tibetan, Mongolian, Armenian, Georgian, ends of paragraphs
)
"""Those of the published codes."""
_FENCES = ("```", "~~~", "$$")
_LOOP_TOKENS, _LOOP_TIMES, _LOOP_PERIOD = 24, 3, 32


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens that matter by what is in them."""

    blank: tuple[int, ...]
    """Those that hold a blank line."""
    hashes: tuple[int, ...]
    """Those that are a single number sign: what headings begin with."""
    is_split: bool
    """Does the tokenizer write the blank line between two paragraphs as several tokens, none of which holds it?"""


_pieces: WeakKeyDictionary[Tokenizer, Pieces] = WeakKeyDictionary()


def pieces(tokenizer: Tokenizer) -> Pieces:
    """Found by decoding the whole vocabulary once: about a second for 150,000 tokens."""
    if tokenizer not in _pieces:
        texts = [(token, tokenizer.decode([token])) for token in range(tokenizer.vocab_size)]
        blank = tuple(token for token, text in texts if SEPARATOR in text)
        written = tokenizer.encode_continuation((), f"One.{SEPARATOR}Two")
        _pieces[tokenizer] = Pieces(
            blank=blank,
            hashes=tuple(token for token, text in texts if text == "#"),
            is_split=not set(blank) & set(written),
        )
    return _pieces[tokenizer]


def has_open_fence(text: str) -> bool:
    """Is a block of code or mathematics begun and not ended?"""
    return any(text.count(fence) % 2 for fence in _FENCES)


def ends_step(text: str, *, minds_fences: bool = True) -> bool:
    """Is the step complete: does a sentence end before its last blank line, and (`minds_fences`) outside code and
    mathematics?"""
    before, blank, _ = text.rpartition(SEPARATOR)
    return bool(blank) and before.strip()[-1:] in _SENTENCE_ENDS and not (minds_fences and has_open_fence(text))


def is_looping(tokens: Sequence[int]) -> bool:
    """Do the tokens end in the same few again and again?"""
    for period in range(1, _LOOP_PERIOD + 1):
        length = max(_LOOP_TOKENS, _LOOP_TIMES * period)
        tail = tokens[-length:]
        if len(tail) == length and tail[period:] == tail[:-period]:
            return True
    return False


def prefix(name: str, step: int) -> str:
    """In front of a worker's step; steps count from 1."""
    return f"**{name} [{step}]:** "


def workspace(name: str) -> str:
    """Heading of a worker's text in the contiguous layout."""
    return f"# {name} workspace"


def opener(name: str, *, is_first: bool, has_steps: bool, is_apart: bool) -> str:
    """What a worker's text begins with. `is_apart`: with a blank line, so that it does not run into the text of the
    worker it is read behind."""
    head = prefix(name, 1) if has_steps else f"{workspace(name)}{SEPARATOR}"
    gap = SEPARATOR if is_apart or not has_steps else ""
    return f"{gap}{head}Hi, I'm {name}." + (" Here's how we can" if is_first else "")


def forgeries(name: str, names: Sequence[str], *, has_steps: bool) -> tuple[str, ...]:
    """How others' steps and the headings of the protocol begin, which a worker is not to write."""
    others = [other for other in names if other != name]
    if not has_steps:
        return tuple(workspace(other) for other in others)
    return (*(f"**{other} [" for other in others), PAST_STEPS, IN_PROGRESS)
