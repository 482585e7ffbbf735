"""What a model of the reasoning kind thinks before its answer, told from an answer that is about thinking."""

from __future__ import annotations

import re

BEGIN, END = "<think>", "</think>"
_BLOCK = re.compile(r"<(edit|test)>(?:(?!<\1>).)*?</\1>", re.DOTALL)
"""May hold any text. One that begins anew before it ends was only spoken of before."""
_TAG = re.compile(r"<(?:edit|test|done|chosen_candidate_fix_id)\b")


def is_thinking(prompt: str) -> bool:
    """Whether a prompt, or the end of one, leaves the model in its thoughts, as some chat templates do."""
    return prompt.rstrip().endswith(BEGIN)


def without_thoughts(text: str, *, has_begun: bool) -> str:
    """The answer behind the thoughts; all of the text where they do not end. `has_begun`: it begins within them.

    What is opened ends at the first end, and may begin again behind it. Where nothing says that there are thoughts, the
    last end counts that is no text of an edit or a test, and has an answer behind it rather than before.
    """
    is_opened = has_begun or text.lstrip().startswith(BEGIN)
    if not is_opened:
        return text[_unopened(text) :]
    while is_opened and END in text:
        text = text.partition(END)[2]
        is_opened = text.lstrip().startswith(BEGIN)
    return text


def _unopened(text: str) -> int:
    """Where the answer begins behind thoughts that nothing opens; 0: there are none."""
    blocks = [block.span() for block in _BLOCK.finditer(text)]
    tags = [tag.start() for tag in _TAG.finditer(text)]
    # Before the first whole block, or before what is another part of the answer.
    limit = max(blocks[0][0] if blocks else len(text), tags[-1] if tags else 0)
    found = 0
    for match in re.finditer(END, text):
        while blocks and blocks[0][1] <= match.start():
            del blocks[0]
        is_text = bool(blocks) and blocks[0][0] < match.start()
        if match.start() < limit and not is_text:
            found = match.end()
    return found
