"""The text format of Multiverse (arXiv 2506.09991, section 3 and its released data), as text only.

    <Parallel>
    <Goal>
    <Outline>
    1: what the first path is to do
    </Outline>
    <Outline>
    2: what the second path is to do
    </Outline>
    </Goal>
    <Path>
    1: text, and blocks inside
    </Path>
    <Path>
    2: text
    </Path>
    <Conclusion>
    text
    </Conclusion>
    </Parallel>

Every function takes any text and never raises: what models write is read leniently; how far a text is from the exact
format says `check.problems`. A closing tag closes the nearest open element of its name and what is open
inside it; inside a path it reaches no further out than the path, so that a path cannot end what is around it. Other
closing tags are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

NAMES = ("Think", "Parallel", "Goal", "Outline", "Path", "Conclusion")
TAGS = tuple(tag for name in NAMES for tag in (f"<{name}>", f"</{name}>"))
"""The twelve tags, in the order in which the authors add them to a tokenizer."""

GOAL_END, PATH_END = "</Goal>", "</Path>"
JOIN = "<Conclusion>\n"
"""What the runtime writes behind the last path."""

MAX_DEPTH = 32
"""Blocks nested deeper are text."""

TAG = re.compile(f"<(/?)({'|'.join(NAMES)})>")
_INDEX = re.compile(r"\s*([0-9]+(?:\.[0-9]+)*)\s*:")
_OUTLINE = re.compile(r"<Outline>(.*?)(?=</Outline>|<Outline>|\Z)", re.DOTALL)
_MAX_INDEX = 32
"""Characters; a longer run of digits is text."""


@dataclass(slots=True)
class Element:
    """A tag with what it encloses; offsets into the text."""

    name: str
    start: int
    inner: int
    """Behind the opening tag."""
    parent: Element | None
    children: list[Element] = field(default_factory=list)
    close: int | None = None
    """Where its content ends; None: still open at the end of the text."""
    end: int | None = None
    """Behind the closing tag, or where it was closed from outside."""
    is_whole: bool = False
    """Closed by its own tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    index: str
    """As the model wrote it, or by order where it wrote none."""
    text: str
    is_numbered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One path of a block; offsets into the text."""

    index: str
    start: int
    body: int
    """Behind `<Path>\\n{index}:`, which the runtime writes."""
    end: int
    """Behind `</Path>`."""
    stop: int
    """Where the next path or the join begins: what follows `</Path>` up to there belongs to the path."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A `<Parallel>` element whose goal is closed and that has paths; offsets into the text."""

    start: int
    goal_end: int
    """Behind `</Goal>`."""
    paths: tuple[Path, ...]

    @property
    def join(self) -> int:
        """Where the text that sees all paths begins."""
        return self.paths[-1].stop


def path_head(index: str) -> str:
    """What opens a path; the model goes on behind the colon."""
    return f"<Path>\n{index}:"


def elements(text: str) -> tuple[list[Element], list[Element]]:
    """The top-level elements of a text, and those still open at its end, outermost first."""
    roots: list[Element] = []
    stack: list[Element] = []
    for match in TAG.finditer(text):
        name = match[2]
        if not match[1]:
            element = Element(name, match.start(), match.end(), stack[-1] if stack else None)
            (stack[-1].children if stack else roots).append(element)
            stack.append(element)
            continue
        at = _closed_by(name, stack)
        if at is None:
            continue
        for element in stack[at:]:
            element.close, element.end = match.start(), match.start()
        stack[at].end, stack[at].is_whole = match.end(), True
        del stack[at:]
    return roots, stack


def _closed_by(name: str, stack: Sequence[Element]) -> int | None:
    for at in range(len(stack) - 1, -1, -1):
        if stack[at].name == name:
            return at
        if stack[at].name == "Path":
            return None
    return None


def closers(opened: Sequence[Element]) -> str:
    """Closing tags for open elements, each on its own line; empty for none."""
    return "".join(f"\n</{element.name}>" for element in reversed(opened))


def goal_outlines(text: str, parent: str = "") -> list[Outline]:
    """The outlines of the goal that the closing tag at the very end of `text` closes; empty if there is none to fork.

    The goal must be the first thing in a `<Parallel>` that stands in no other element than `<Think>` or a path.
    `parent`: index of the path around it.
    """
    if not text.endswith(GOAL_END):
        return []
    _, stack = elements(text[: -len(GOAL_END)])
    while stack and stack[-1].name == "Outline":
        stack.pop()
    if len(stack) < 2 or (stack[-1].name, stack[-2].name) != ("Goal", "Parallel"):
        return []
    goal, block = stack[-1], stack[-2]
    if block.children != [goal] or not may_hold_blocks(block.parent):
        return []
    found: list[Outline] = []
    for match in _OUTLINE.finditer(text, goal.inner, len(text) - len(GOAL_END)):
        index = _INDEX.match(match[1])
        numbered = index is not None and len(index[1]) <= _MAX_INDEX
        content = (match[1][index.end() :] if index and numbered else match[1]).strip()
        if numbered or content:
            place = len(found) + 1
            own = index[1] if index and numbered else f"{parent}.{place}" if parent else str(place)
            found.append(Outline(index=own, text=content, is_numbered=numbered))
    return found


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
    return f"<Goal>\n{outlines}{GOAL_END}"


def blocks(text: str) -> tuple[Block, ...]:
    """The parallel blocks of a text in order, nested ones inside their paths."""
    return _blocks(text, elements(text)[0], 0)


def _blocks(text: str, among: Sequence[Element], depth: int) -> tuple[Block, ...]:
    if depth >= MAX_DEPTH:
        return ()
    found = []
    for element in among:
        if element.name == "Parallel":
            block = _block(text, element, depth)
            found += [block] if block else []
        elif element.name == "Think":
            found += _blocks(text, element.children, depth + 1)
    return tuple(found)


def _block(text: str, element: Element, depth: int) -> Block | None:
    """The block that a `<Parallel>` element is, if it is one."""
    goal = element.children[0] if element.children else None
    if goal is None or goal.name != "Goal" or not goal.is_whole or goal.end is None:
        return None
    last = len(text) if element.close is None else element.close
    inside: list[Element] = []
    for child in element.children[1:]:
        if child.name == "Conclusion":
            last = child.start
            break
        if child.name == "Path":
            inside.append(child)
    if not inside:
        return None
    final = inside[-1].end
    if last == element.close and final is not None:
        last = final + text.startswith("\n", final)  # no conclusion: what follows the last path sees all of them
    stops = [*(path.start for path in inside[1:]), last]
    paths = []
    for path, stop in zip(inside, stops, strict=True):
        index = _INDEX.match(text, path.inner, stop)
        paths.append(
            Path(
                index=index[1] if index else "",
                start=path.start,
                body=index.end() if index else path.inner,
                end=stop if path.end is None else path.end,
                stop=stop,
                blocks=_blocks(text, path.children, depth + 1),
            )
        )
    return Block(start=element.start, goal_end=goal.end, paths=tuple(paths))


def may_hold_blocks(element: Element | None) -> bool:
    """May a `<Parallel>` stand in this element? None: in no other."""
    return element is None or element.name in ("Think", "Path")
