"""What a model's answer holds: one of several tags, and a script in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .definitions import parse, problem
from .edits.base import EditError
from .edits.fences import fences
from .edits.reader import EDIT
from .edits.tags import extract, which

_DONE = re.compile(r"<done\s*/?>(?:\s*</done>)?")
_DONE_WHOLE = re.compile(r"<done\s*/>|<done>\s*</done>")
_END = "</test>"
_ENDS = re.compile(r"\b(?:exit|SystemExit)\(")
"""What makes a script one that gives a verdict."""


def one_of(text: str, *tags: str, is_cut: bool = False) -> tuple[str, str]:
    """The one tag of these that the answer has, and what is in it; of `edit` the whole answer, since `read_edit` takes
    several of them, too, and one that is left open. `<done>` may be left open. Where `test` is asked for and no tag is
    written, a fenced script that ends with an exit code stands for one, as models write that forget the tag or only
    mention it. Raises `EditError`."""
    is_written = _is_written(text, tags)
    whole, text = text, _DONE.sub("<done></done>", text)
    if "test" in tags and not is_written:
        blocks = ["\n".join(block.lines) for block in fences(text) if block.is_closed]
        scripts = [block for block in blocks if _ENDS.search(block)] or blocks
        if len(scripts) == 1:
            return "test", scripts[0]
    if "edit" in tags and which(text, *tags, is_cut=is_cut) == "edit":
        others = [tag for tag in tags if tag != "edit"]
        if len(EDIT.findall(text)) > 1 and _is_written(EDIT.sub("", text), others):
            raise EditError("something else stands between two <edit>: write exactly one of these tags")
        return "edit", whole
    ((tag, content),) = extract(text, *tags, is_cut=is_cut).items()
    return tag, content


def _is_written(text: str, tags: Sequence[str]) -> bool:
    """Whether a tag begins a line, or is whole somewhere outside fenced code. What is mentioned inside a sentence is
    not: `<done>` without its end, `between <test> and </test>`."""
    if re.search(rf"(?m)^[ \t]*<(?:{'|'.join((*tags, 'edit'))})>", text):
        return True
    prose = _without_code(text)
    if "done" in tags and _DONE_WHOLE.search(prose):
        return True
    pairs = [(tag, pair) for tag in tags for pair in re.findall(rf"<{tag}>(.*?)</{tag}>", prose, re.DOTALL)]
    return any("\n" in pair if tag in ("test", "edit") else pair.strip() for tag, pair in pairs)


def _without_code(text: str) -> str:
    lines = text.replace("\r\n", "\n").split("\n")
    for block in fences(text):
        for number in range(block.line - 1, block.line - 1 + len(block.lines)):
            lines[number] = ""
    return "\n".join(lines)


def script(content: str) -> str:
    """A script as it stands in its tag, in a fenced block or not, with a final newline. Raises `EditError` for what is
    no Python: running it would say no more."""
    texts = [content.replace("\r\n", "\n").strip("\n")]
    # Fences may be code, in a docstring: they count only where the text is none as it stands.
    if len(blocks := fences(content)) == 1:
        texts.append("\n".join(blocks[0].lines).strip("\n"))
    for text in texts:
        # The tag may have been closed twice; a script may also write one itself.
        parts = text.split(_END)
        for count in range(1, len(parts) + 1):
            part = _END.join(parts[:count]).strip("\n") + "\n"
            if part.strip() and parse(part) is not None:
                return part
    if not texts[-1].strip():
        raise EditError("the test is empty")
    raise EditError(f"the test is no valid Python: {problem(texts[-1])}")
