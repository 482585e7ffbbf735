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

The other dialects have other tags (`dialects`); without one, functions read this. Every function takes any text and
never raises: what models write is read leniently; how far a text is from the exact format says `check.problems`. A
closing tag closes the nearest open element of its name and what is open inside it; inside a path it reaches no further
out than the path, so that a path cannot end what is around it. Other closing tags are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from .dialects import MULTIVERSE, Dialect

TAGS = MULTIVERSE.tags
"""The twelve tags, in the order in which the authors add them to a tokenizer."""

MAX_DEPTH = 32
"""Blocks nested deeper are text."""

TAG = MULTIVERSE.tag
INDEX = re.compile(r"\s*([0-9]+(?:\.[0-9]+)*)\s*:")
"""What a numbered outline or path begins with."""


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
class Path:
    """One path of a block; offsets into the text."""

    index: str
    start: int
    body: int
    """Behind what the runtime opens it with (`<Path>\\n{index}:`)."""
    end: int
    """Behind its closing tag."""
    stop: int
    """Where the next path or the join begins: what follows the closing tag up to there belongs to the path."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A goal that is closed and has paths behind it; offsets into the text."""

    start: int
    goal_end: int
    """Behind the tag that forks (`</Goal>`)."""
    paths: tuple[Path, ...]

    @property
    def join(self) -> int:
        """Where the text that sees all paths begins."""
        return self.paths[-1].stop


def elements(text: str, dialect: Dialect = MULTIVERSE) -> tuple[list[Element], list[Element]]:
    """The top-level elements of a text, and those still open at its end, outermost first."""
    roots: list[Element] = []
    stack: list[Element] = []
    for match in dialect.tag.finditer(text):
        name = match[2]
        if not match[1]:
            element = Element(name, match.start(), match.end(), stack[-1] if stack else None)
            (stack[-1].children if stack else roots).append(element)
            stack.append(element)
            continue
        at = _closed_by(name, stack, dialect)
        if at is None:
            continue
        for element in stack[at:]:
            element.close, element.end = match.start(), match.start()
        stack[at].end, stack[at].is_whole = match.end(), True
        del stack[at:]
    return roots, stack


def _closed_by(name: str, stack: Sequence[Element], dialect: Dialect) -> int | None:
    for at in range(len(stack) - 1, -1, -1):
        if stack[at].name == name:
            return at
        if stack[at].name == dialect.path:
            return None
    return None


def closers(opened: Sequence[Element], dialect: Dialect = MULTIVERSE) -> str:
    """Closing tags for open elements; empty for none."""
    return "".join(dialect.close(element.name) for element in reversed(opened))


def blocks(text: str, dialect: Dialect = MULTIVERSE) -> tuple[Block, ...]:
    """The parallel blocks of a text in order, nested ones inside their paths."""
    return _blocks(text, elements(text, dialect)[0], 0, dialect)


def _blocks(text: str, among: Sequence[Element], depth: int, dialect: Dialect) -> tuple[Block, ...]:
    if depth >= MAX_DEPTH:
        return ()
    found = []
    for at, element in enumerate(among):
        if element.name == dialect.opener:
            behind = element.children if dialect.block else among[at:]
            block = _block(text, element, behind, depth, dialect)
            found += [block] if block else []
        elif element.name == dialect.thinking:
            found += _blocks(text, element.children, depth + 1, dialect)
    return tuple(found)


def _block(text: str, opener: Element, inside: Sequence[Element], depth: int, dialect: Dialect) -> Block | None:
    """The block that begins with an element, if there is one; `inside`: its plan, paths and what follows."""
    forked: int | None = opener.inner
    if dialect.plan:
        plan, inside = (inside[0] if inside else None), inside[1:]
        if plan is None or plan.name != dialect.plan or not plan.is_whole:
            return None
        forked = plan.end
    members = list(takewhile(lambda element: element.name == dialect.path, inside))
    if not members or forked is None:
        return None
    after = inside[len(members)] if len(members) < len(inside) else None
    last = members[-1].end
    if last is None:
        last = len(text)
    elif after is not None and after.name == dialect.merge:
        last = after.start
    elif opener.close is not None and dialect.join.startswith(f"</{dialect.block}>"):
        last = opener.close
    else:  # no conclusion: what follows the last path sees all of them
        last += len(dialect.tail) if text.startswith(dialect.tail, last) else 0
    stops = [*(path.start for path in members[1:]), last]
    paths = []
    for path, stop in zip(members, stops, strict=True):
        index = INDEX.match(text, path.inner, stop) if dialect.item else None
        paths.append(
            Path(
                index=index[1] if index else "",
                start=path.start,
                body=index.end() if index else path.inner,
                end=stop if path.end is None else path.end,
                stop=stop,
                blocks=_blocks(text, path.children, depth + 1, dialect) if dialect.nests else (),
            )
        )
    return Block(start=opener.start, goal_end=forked, paths=tuple(paths))


def may_hold_blocks(element: Element | None, dialect: Dialect = MULTIVERSE) -> bool:
    """May a block stand in this element? None: in no other."""
    return element is None or element.name == dialect.thinking or (dialect.nests and element.name == dialect.path)
