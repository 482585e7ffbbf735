"""How far a text is from the exact format of Multiverse's training data."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .grammar import TAG, Element, elements, may_hold_blocks

_NUMBER = re.compile(r"\n([0-9]+(?:\.[0-9]+)*): ")


def problems(text: str) -> list[str]:
    """Where an assistant's text differs from the exact format it is trained in; empty: nowhere."""
    roots, _ = elements(text)
    if not text.startswith("<Think>\n"):
        return ["the text does not begin with <Think> on a line of its own"]
    found = [f"a {root.name} outside <Think>" for root in roots[1:]]
    think = roots[0]
    if not think.is_whole or think.end is None:
        return ["<Think> is not closed"]
    if text[think.end :].strip() and not text.startswith("\n\n", think.end):
        found.append("the answer does not follow </Think> after an empty line")
    written = sum(1 for _ in TAG.finditer(text))
    elements_found = 0
    waiting = list(roots)
    while waiting:
        element = waiting.pop()
        waiting += element.children
        elements_found += 1
        found += _element_problems(text, element)
    if written != 2 * elements_found:
        found.append("closing tags without an element")
    return found


def well_formed(text: str) -> tuple[int, int]:
    """(blocks of a text that are in the exact format, with all that is in them; blocks that it opens)."""
    opened = good = 0
    waiting = elements(text)[0]
    while waiting:
        element = waiting.pop()
        waiting += element.children
        if element.name == "Parallel":
            opened += 1
            good += not any(_all_problems(text, element))
    return good, opened


def _all_problems(text: str, element: Element) -> Iterator[str]:
    yield from _element_problems(text, element)
    for child in element.children:
        yield from _all_problems(text, child)


def _element_problems(text: str, element: Element) -> Iterator[str]:
    """What is wrong with one element, apart from what is inside its children."""
    where = f"{element.name} at {element.start}"
    if not element.is_whole or element.end is None or element.close is None:
        yield f"{where} is not closed"
        return
    for at in (element.inner, element.end):
        if at < len(text) and text[at] != "\n":
            yield f"{where}: no newline behind its tag"
    for at in (element.start, element.close):
        if at and text[at - 1] != "\n":
            yield f"{where}: its tag is not on its own line"
    names = [child.name for child in element.children]
    if element.name == "Parallel":
        if not may_hold_blocks(element.parent):
            yield f"{where} is not inside <Think> or a path"
        if len(names) < 3 or names != ["Goal", *["Path"] * (len(names) - 2), "Conclusion"]:
            yield f"{where} is not a goal, paths and a conclusion"
            return
        at = element.inner + 1
        for child in element.children:
            if child.start != at:
                yield f"{where}: text before its {child.name} at {child.start}"
            at = (child.end or 0) + 1
        planned = [_number(text, outline) for outline in element.children[0].children]
        if planned != [_number(text, path) for path in element.children[1:-1]]:
            yield f"{where}: outlines and paths differ"
        return
    allowed = {"Think": "Parallel", "Path": "Parallel", "Goal": "Outline"}.get(element.name)
    yield from (f"{where} holds a {name}" for name in names if name != allowed)
    if element.name in ("Outline", "Path") and not _number(text, element):
        yield f"{where} has no index"
    if element.name == "Goal" and not names:
        yield f"{where} has no outline"


def _number(text: str, element: Element) -> str:
    """The index an outline or a path begins with."""
    match = _NUMBER.match(text, element.inner)
    return match[1] if match else ""
