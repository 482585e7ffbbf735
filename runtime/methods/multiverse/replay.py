"""Teacher forcing: a given text in Multiverse form, decoded with the forks and merges of the run that would write it.

`layout` takes the text apart into what a run samples and what the runtime writes; `replay` walks that through an
engine. For benchmarks, and for scores of a given text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from ...engine import Branch
from .dialects import MULTIVERSE, Dialect
from .dialects import Positions as Positions
from .grammar import Block, blocks

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one line."""

    tokens: list[int]
    is_given: bool
    """Written by the runtime, not sampled."""


@dataclass(frozen=True, slots=True)
class PathItems:
    items: list[Item]
    """Up to its closing tag."""
    tail: list[int]
    """The newline behind that, where there is one; part of the path."""


@dataclass(frozen=True, slots=True)
class Fork:
    gap: list[int]
    """The newline behind the plan, which every path sees."""
    paths: list[PathItems]


Item = Run | Fork


def layout(text: str, encode: Encode, dialect: Dialect = MULTIVERSE) -> list[Item]:
    """The text in the pieces in which a run encodes it: tokens never reach over what the runtime writes."""
    return list(_items(text, 0, len(text), blocks(text, dialect), encode, dialect.join))


def _items(text: str, at: int, end: int, inside: Sequence[Block], encode: Encode, join: str) -> Iterator[Item]:
    is_joined = False
    for block in inside:
        yield from _sampled(encode(text[at : block.goal_end]), is_joined)
        paths = []
        for path in block.paths:
            head = Run(encode(text[path.start : path.body]), True)
            body = _items(text, path.body, path.end, path.blocks, encode, join)
            paths.append(PathItems([head, *body], encode(text[path.end : path.stop])))
        yield Fork(encode(text[block.goal_end : block.paths[0].start]), paths)
        at, is_joined = block.join, True
        if text.startswith(join, at):
            yield Run(encode(join), True)
            at, is_joined = at + len(join), False
    yield from _sampled(encode(text[at:end]), is_joined)


def _sampled(tokens: list[int], is_joined: bool) -> Iterator[Run]:
    """Behind a merge without a conclusion there is nothing to sample the first token from."""
    first = 1 if is_joined else 0
    for part, is_given in ((tokens[:first], True), (tokens[first:], False)):
        if part:
            yield Run(part, is_given)


def count(items: Sequence[Item]) -> tuple[int, int]:
    """(tokens, tokens on the critical path) of a layout."""
    total = critical = 0
    for item in items:
        if isinstance(item, Run):
            total, critical = total + len(item.tokens), critical + len(item.tokens)
            continue
        sizes = [count(path.items) for path in item.paths]
        total += len(item.gap) + sum(n + len(path.tail) for (n, _), path in zip(sizes, item.paths, strict=True))
        critical += len(item.gap) + max(n + len(path.tail) for (_, n), path in zip(sizes, item.paths, strict=True))
    return total, critical


def written(items: Sequence[Item]) -> list[int]:
    """All tokens of a layout, paths one behind another."""
    tokens: list[int] = []
    for item in items:
        if isinstance(item, Run):
            tokens += item.tokens
            continue
        tokens += item.gap
        for path in item.paths:
            tokens += [*written(path.items), *path.tail]
    return tokens


async def replay(
    branch: Branch,
    items: Sequence[Item],
    write: Callable[[Branch, Run], Awaitable[None]],
    positions: Positions = "train",
) -> None:
    """Walk a layout on `branch`; `write` puts tokens into a branch, by `extend` or by `generate` with `forced`."""
    for item in items:
        if isinstance(item, Run):
            await write(branch, item)
            continue
        start = branch.position
        await write(branch, Run(item.gap, True))
        children = branch.fork(len(item.paths))
        if positions == "train":
            for child in children:
                child.seek(start)
        pairs = zip(children, item.paths, strict=True)
        ends = await asyncio.gather(*(_path(child, path, write, positions) for child, path in pairs))
        branch.merge(children)
        for child in children:
            child.close()
        if positions == "train":
            branch.seek(max(ends))


async def _path(
    branch: Branch, path: PathItems, write: Callable[[Branch, Run], Awaitable[None]], positions: Positions
) -> int:
    await replay(branch, path.items, write, positions)
    end = branch.position
    await write(branch, Run(path.tail, True))
    return end
