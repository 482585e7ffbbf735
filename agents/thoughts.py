"""What a model of the reasoning kind thinks before its answer, told from an answer that is about thinking."""

from __future__ import annotations

import re

BEGIN, END = "<think>", "</think>"
_LONG = re.compile(r"(?m)^[ \t]*<(edit|test)>|<(edit|test)>[ \t\r]*$")
"""Opens what may hold any text."""
_TAG = re.compile(r"(?m)^[ \t]*<(?:edit|test|done|chosen_candidate_fix_id)\b")


def is_thinking(prompt: str) -> bool:
    """Whether a prompt, or the end of one, leaves the model in its thoughts, as some chat templates do."""
    return prompt.rstrip().endswith(BEGIN)


def without_thoughts(text: str, *, has_begun: bool) -> str:
    """The answer behind the thoughts; all of the text where they do not end. `has_begun`: it begins within them.

    Where nothing says that there are thoughts, the end of some counts unless it is text of an edit or a test, or stands
    behind all of them.
    """
    if has_begun or text.lstrip().startswith(BEGIN):
        _, end, answer = text.partition(END)
        return answer if end else text
    at = next((match.start() for match in re.finditer(END, text) if not _is_within(text, match.start())), None)
    if at is None:
        return text
    answer = text[at + len(END) :]
    return text if _LONG.search(text, 0, at) and not _TAG.search(answer) else answer


def _is_within(text: str, at: int) -> bool:
    """Whether a place is in an edit or a test. One that begins anew before it ends was only spoken of before."""
    opened = [match for match in _LONG.finditer(text) if match.start() < at]
    if not opened:
        return False
    end = f"</{opened[-1][1] or opened[-1][2]}>"
    return end not in text[opened[-1].end() : at] and not _LONG.search(text[at:].partition(end)[0])
