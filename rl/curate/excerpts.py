"""Short samples from long texts: every block by itself, with the lines before it as the question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...runtime.methods.multiverse.check import problems
from ...runtime.methods.multiverse.grammar import TAG, Element, elements
from .plain import HINT, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    prompt: str
    """The reasoning before the block."""
    text: str
    """`<Think>`, the block, and its conclusion as the answer; well formed."""
    sequential: str
    """The same without blocks."""
    outermost: int
    """Place of the block that holds this one and is in no other; its own where that is this one."""


def excerpts(text: str, *, max_prompt: int = 600) -> list[Excerpt]:
    """Of every block that is well formed, nested ones too; `max_prompt`: characters of the lines before it, at least
    one line."""
    found: list[Excerpt] = []
    for element, outermost in _parallels(elements(text)[0]):
        prompt = _before(text, element, max_prompt)
        conclusion = element.children[-1] if element.children else None
        if not prompt or conclusion is None or conclusion.name != "Conclusion" or element.end is None:
            continue
        parent = element.parent
        prefix = _index(text, parent) if parent is not None and parent.name == "Path" else ""
        block = text[element.start : element.end]
        if prefix:
            block = re.sub(rf"^{re.escape(prefix)}\.(?=\d)", "", block, flags=re.MULTILINE)
        answer = text[conclusion.inner : conclusion.close].strip()
        whole = f"<Think>\n{HINT}\n{block}\n</Think>\n\nAnswer: {answer}"
        if not problems(whole):
            found.append(Excerpt(prompt=prompt, text=whole, sequential=plain(whole), outermost=outermost.start))
    return found


def _parallels(among: list[Element], outermost: Element | None = None) -> Iterator[tuple[Element, Element]]:
    """(block, the outermost one around it)."""
    for element in among:
        is_block = element.name == "Parallel"
        around = outermost or (element if is_block else None)
        if is_block and around is not None:
            yield element, around
        yield from _parallels(element.children, around)


def _before(text: str, element: Element, most: int) -> str:
    """The lines in front, of the same path and without tags."""
    before = text[: element.start]
    tags = list(TAG.finditer(before))
    lines = before[tags[-1].end() if tags else 0 :].replace(HINT, "").strip().splitlines()
    if lines and (index := re.match(r"[0-9.]+: ", lines[0])):
        lines[0] = lines[0][index.end() :]
    kept: list[str] = []
    for line in reversed(lines):
        if kept and sum(map(len, kept)) + len(line) > most:
            break
        kept.append(line)
    return "\n".join(reversed(kept))


def _index(text: str, path: Element) -> str:
    match = re.match(r"\s*([0-9]+(?:\.[0-9]+)*):", text[path.inner :])
    return match[1] if match else ""
