"""What Hogwild! workers are told and what is put into their text, and where a step ends.

Headings, step prefixes and the rule for the end of a step are the protocol of arXiv 2504.06261 and its code; the
wording of the instructions is our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ...engine import Tokenizer
from ..prompt import Prompt

SEPARATOR = "\n\n"
PIVOT = "<...>"
"""Stands where somebody's text breaks off."""
PAST_STEPS = "### Past steps"
OTHERS = f"### Work in progress (others){SEPARATOR}"
OWN = f"{PIVOT}{SEPARATOR}### Work in progress (own){SEPARATOR}"
SPLIT = f" <the assistant will continue here>{SEPARATOR}"
"""In front of a worker's own text in the contiguous layout."""
SELF_CHECK = "Quick check: am I doing redundant work? (yes/no): "
CONCLUSION = (
    f"{SEPARATOR}Wait, given the limited time, I have to give an answer right now. Considering all my previous "
    "attempts, I have to conclude that the final answer is \\boxed{"
)
DEFAULT_NAMES = ("Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi")

_SENTENCE_ENDS = frozenset(
    ".?!"
    "\u2026\u203c\u2047"  # ellipsis, double marks
    "\u3002\uff1f\uff01\uff0e\uff61"  # Chinese and Japanese
    "\u061f\u06d4"  # Arabic, Urdu
    "\u0964\u0965"  # Devanagari
    "\u1362"  # Ethiopic
)
_FENCES = ("```", "~~~", "$$")
_LOOP_TOKENS, _LOOP_TIMES, _LOOP_PERIOD = 24, 3, 32


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens that matter by what is in them."""

    blank: tuple[int, ...]
    """Those that hold a blank line: only they can end a step."""
    hashes: tuple[int, ...]
    """Those that are nothing but number signs and white space: what headings begin with."""


_pieces: WeakKeyDictionary[Tokenizer, Pieces] = WeakKeyDictionary()


def pieces(tokenizer: Tokenizer) -> Pieces:
    """Found by decoding the whole vocabulary once: about a second for 150,000 tokens."""
    if tokenizer not in _pieces:
        texts = [(token, tokenizer.decode([token])) for token in range(tokenizer.vocab_size)]
        _pieces[tokenizer] = Pieces(
            blank=tuple(token for token, text in texts if SEPARATOR in text),
            hashes=tuple(token for token, text in texts if re.fullmatch(r"\s*#+\s*", text)),
        )
    return _pieces[tokenizer]


def has_open_fence(text: str) -> bool:
    """Is a block of code or mathematics begun and not ended?"""
    return any(text.count(fence) % 2 for fence in _FENCES)


def ends_step(text: str) -> bool:
    """Is the step complete: does a sentence end before its last blank line, outside code and mathematics?"""
    before, blank, _ = text.rpartition(SEPARATOR)
    return bool(blank) and before.strip()[-1:] in _SENTENCE_ENDS and not has_open_fence(text)


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


def opener(name: str, *, is_first: bool, has_steps: bool) -> str:
    """What a worker's text begins with."""
    head = prefix(name, 1) if has_steps else f"# {name} workspace{SEPARATOR}"
    return f"{head}Hi, I'm {name}." + (" Here's how we can" if is_first else "")


def instructions(names: Sequence[str]) -> str:
    """The rules, for a task that follows them."""
    if len(names) == 1:
        team = f"You are {names[0]}, who solves the problem below in short steps."
    else:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        team = (
            f"You are {len(names)} assistants, {listed}, who solve one problem together. All of you write at the same "
            "time, and each sees what the others write while they write it."
        )
    return f"""# Collaborative reasoning

{team}

How the text is laid out:
1. "{PAST_STEPS}" holds finished steps in the order in which they were finished, each under its author's name.
2. "{OTHERS.strip()}" holds what the others are writing now; it breaks off where they are.
3. "### Work in progress (own)" holds your own unfinished step. You write there only, as yourself.

How to work:
- Write short paragraphs; a blank line after a full sentence ends your step and moves it to the past steps.
- Begin with a plan, and agree on who does what. If two plans compete, the one of {names[0]} counts.
- Read what the others write. Use their results, answer their questions, and point out their mistakes.
- Say what you have found and what you will do next, so that nobody has to guess.
- If you notice that somebody does what you are doing, or is ahead of you, stop, even in the middle of a sentence, and
  do something else that is still missing. If asked whether you do redundant work, answer honestly.
- Whoever is sure of the answer writes \\boxed{{answer here}}. Nothing can be changed after that.

# Solve the following problem

"""


def build_prompt(
    prompt: Prompt,
    messages: Sequence[dict[str, str]],
    names: Sequence[str],
    tokenizer: Tokenizer,
    *,
    with_rules: bool,
    with_past: bool,
) -> list[int]:
    """The tokens that all workers share; `messages` are those of a chat.

    Token ids stay as they are. A chat template that knows thinking but does not begin it gets its opening tag, since
    steps are thoughts.
    """
    rules = instructions(names) if with_rules else ""
    past = f"\n{PAST_STEPS}{SEPARATOR}" if with_past else ""
    if not messages:
        if isinstance(prompt, str):
            return tokenizer.encode(f"{rules}{prompt}\n{past}" if past else rules + prompt)
        return [token for token in prompt if isinstance(token, int)]
    messages = [dict(message) for message in messages]
    asked = [message for message in messages if message["role"] == "user"]
    if asked:
        asked[-1]["content"] = rules + asked[-1]["content"]
    tokens = tokenizer.chat(messages)
    if not past:
        return tokens
    if len(tokenizer.encode_continuation((), "<think>")) == 1 and "think>" not in tokenizer.decode(tokens[-8:]):
        past = "<think>" + past
    return tokens + tokenizer.encode_continuation(tokens, past)
