"""Outlines: what a plan says its paths are to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .dialects import MULTIVERSE, Dialect
from .grammar import INDEX, TAG, Element, elements, may_hold_blocks

_MAX_INDEX = 32
"""Characters; a longer run of digits is text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    index: str
    """As the model wrote it, or by order where it wrote none."""
    text: str
    is_numbered: bool


def outlines(text: str, dialect: Dialect = MULTIVERSE, parent: str = "", count: int = 2) -> list[Outline]:
    """The outlines of the plan that the tag at the very end of `text` closes; empty if there is none to fork.

    The plan must be the first thing in a block that stands in no other element than the thinking or, where blocks nest,
    a path. `parent`: index of the path around it. `count`: paths of a block in a dialect without plans, where the tag
    at the end opens the block.
    """
    if not text.endswith(dialect.trigger):
        return []
    if not dialect.plan:
        opened = elements(text, dialect)[1]
        is_block = bool(opened) and opened[-1].name == dialect.block and may_hold_blocks(opened[-1].parent, dialect)
        return [Outline(index=str(i), text="", is_numbered=True) for i in range(1, count + 1)] if is_block else []
    plan = _open_plan(text[: -len(dialect.trigger)], dialect)
    if plan is None:
        return []
    found: list[Outline] = []
    for match in dialect.outline.finditer(text, plan.inner, len(text) - len(dialect.trigger)):
        index = INDEX.match(match[1])
        numbered = index is not None and len(index[1]) <= _MAX_INDEX
        content = (match[1][index.end() :] if index and numbered else match[1]).strip()
        if numbered or content:
            place = len(found) + 1
            own = index[1] if index and numbered else f"{parent}.{place}" if parent else str(place)
            found.append(Outline(index=own, text=content, is_numbered=numbered))
    return found


def _open_plan(text: str, dialect: Dialect) -> Element | None:
    """The plan that is open at the end of a text and may be forked."""
    stack = elements(text, dialect)[1]
    while stack and stack[-1].name == dialect.item:
        stack.pop()
    if not stack or stack[-1].name != dialect.plan:
        return None
    plan, around = stack[-1], stack[-1].parent
    if dialect.block:
        if around is None or around.name != dialect.block or around.children != [plan]:
            return None
        around = around.parent
    return plan if may_hold_blocks(around, dialect) else None


def is_in_order(outlines: Sequence[Outline]) -> bool:
    """Are the indices different, and each above the one before?"""
    keys = [[int(part) for part in outline.index.split(".")] for outline in outlines]
    return all(a < b for a, b in zip(keys, keys[1:], strict=False))


def numbered_lines(text: str) -> list[str]:
    """The points of a plan as any model may write one: lines that begin with a number, else bullets; tags ignored."""
    lines = [line.strip() for line in TAG.sub("\n", text).splitlines()]
    for mark in (r"(?:step|part|path|task)?\s*[0-9]{1,3}(?:\.[0-9]{1,3})*\s*[.):]\s*", r"[-*\u2022]\s+"):
        pattern = re.compile(rf"[*#\s]*{mark}(.*\w.*)", re.IGNORECASE)
        points = [match[1].strip(" *") for line in lines if (match := pattern.fullmatch(line))]
        if points:
            return points
    return []


def goal_text(points: Sequence[str]) -> str:
    """A goal in the exact format, up to `</Goal>`."""
    outlines = "".join(f"<Outline>\n{i}: {point}\n</Outline>\n" for i, point in enumerate(points, 1))
    return f"<Goal>\n{outlines}</Goal>"
