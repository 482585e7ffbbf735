"""What a model's answer holds: one of several tags, and a script in it."""

from __future__ import annotations

import re

from .definitions import parse, problem
from .edits.base import EditError
from .edits.fences import fences
from .edits.tags import extract

_DONE = re.compile(r"<done\s*/?>(?:\s*</done>)?")
_END = "</test>"
_ENDS = re.compile(r"\b(?:exit|SystemExit)\(")
"""What makes a script one that gives a verdict."""


def one_of(text: str, *tags: str, is_cut: bool = False) -> tuple[str, str]:
    """The one tag of these that the answer has, and what is in it. `<done>` may be left open. Where `test` is asked for
    and no tag begins a line, a fenced script that ends with an exit code stands for one, as models write that forget
    the tag or only mention it. Raises `EditError`."""
    text = _DONE.sub("<done></done>", text)
    if "test" in tags and not re.search(rf"(?m)^[ \t]*<(?:{'|'.join((*tags, 'edit'))})>", text):
        blocks = ["\n".join(block.lines) for block in fences(text) if block.is_closed]
        scripts = [block for block in blocks if _ENDS.search(block)] or blocks
        if len(scripts) == 1:
            return "test", scripts[0]
    ((tag, content),) = extract(text, *tags, is_cut=is_cut).items()
    return tag, content


def script(content: str) -> str:
    """A script as it stands in its tag, in a fenced block or not, with a final newline. Raises `EditError` for what is
    no Python: running it would say no more."""
    blocks = fences(content)
    text = "\n".join(blocks[0].lines) if len(blocks) == 1 else content
    text = text.replace("\r\n", "\n").strip("\n")
    if not text.strip():
        raise EditError("the test is empty")
    # The tag may have been closed twice; a script may also write one itself.
    parts = text.split(_END)
    for count in range(1, len(parts) + 1):
        if parse(part := _END.join(parts[:count]).strip("\n") + "\n") is not None and part.strip():
            return part
    raise EditError(f"the test is no valid Python: {problem(text)}")
