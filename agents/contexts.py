"""The context stages: the relevance of every file, their ranking, and what the trajectories see (section 3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..runtime.errors import InvalidInput
from ..runtime.jobs.context import Context
from .edits.base import Excerpt
from .fields import CONTEXT_SHARE, Fields
from .lexical import rank_files, rank_functions
from .machines.ranking import SYSTEM as RANKING_SYSTEM
from .machines.ranking import RankingMachine, merge
from .machines.relevance import SYSTEM as RELEVANCE_SYSTEM
from .machines.relevance import RelevanceMachine
from .machines.wording import quoted
from .selecting import Chosen, block
from .work import Work

RANKINGS = 3
"""A model's order of many files differs from sample to sample, so several are merged."""
READERS = 32
"""Files that are read at a time, at most (the paper's number of workers)."""

LEAST_PART = 32
"""Tokens that a part of the context has, with its frame."""


def check_shows(fields: Fields, ctx: Context) -> None:
    """Raise `InvalidInput` where no part of the repository can be shown, so that all edits would be guesses. Blocks."""
    texts = fields.source.files()
    named = fields.files or [path for path in texts if fields.may_show(path)]
    # What is empty shows nothing of others, but may be all that is to be filled.
    paths = [path for path in named if texts[path].strip()] or fields.files
    if not paths:
        raise InvalidInput(
            f"there is nothing to show of {fields.project_name}: no text file but tests and empty ones ends in "
            f"{' or '.join(fields.suffixes)}; say which may be shown by `suffixes`, or name them by `files`"
        )
    length, tokens = _length(ctx), _room(fields, ctx)
    # Where a model says which files are relevant, it may be any of them alone.
    orders = [paths] if fields.files or fields.scan == 0 else [[path] for path in paths]
    if not any(pack(_parts(fields, order, tokens, length), length, tokens, most=1) for order in orders):
        raise InvalidInput(
            f"there is nothing to show of {fields.project_name}: no part of its files fits into the {tokens} tokens of "
            f"context; see `context_tokens`, and `context`, which may be functions"
        )


def _length(ctx: Context) -> Callable[[Excerpt], int]:
    """Tokens of a part."""
    return lambda part: len(ctx.tokenizer.encode(block(part)))


def _room(fields: Fields, ctx: Context) -> int:
    """Tokens that all parts may have."""
    return min(fields.context_tokens, int(fields.limit(ctx.context_limit) * CONTEXT_SHARE))


async def choose(work: Work, ctx: Context) -> Chosen:
    """The context of a job; where no file is relevant, what a search for the issue's words finds."""
    fields = work.fields
    report: dict[str, Any] = {"chosen_by": "user"}
    order = list(fields.files)
    if not order:
        found = await asyncio.to_thread(_by_words, fields)
        summaries = await _relevant(work, ctx, found if fields.scan is None else found[: fields.scan])
        order = await _ranked(work, ctx, summaries) or found
        report = {"chosen_by": "relevance" if summaries else "search", "files": len(found), "relevant": len(summaries)}

    length, tokens = _length(ctx), _room(fields, ctx)
    chosen = await asyncio.to_thread(
        lambda: pack(_parts(fields, order, tokens, length), length, tokens, most=fields.most_parts)
    )
    names = [f"{part.path}::{part.name}" if part.name else part.path for part in chosen]
    return Chosen(excerpts=chosen, report={**report, "parts": names, "tokens": sum(map(length, chosen))})


def _parts(fields: Fields, order: Sequence[str], tokens: int, length: Callable[[Excerpt], int]) -> Iterator[Excerpt]:
    """What may be shown of these files, the likeliest first and empty ones last, so that they take no room of others.
    Files without functions are shown whole. Blocks."""
    texts = fields.source.files()
    order = sorted(order, key=lambda path: not texts[path].strip())
    whole = (Excerpt(path=path, text=texts[path]) for path in order)
    if fields.context == "files":
        yield from whole
    elif fields.context == "mixed":
        for part in whole:
            if length(part) <= tokens:
                yield part
            else:
                yield from rank_functions(fields.issue, texts, [part.path])[: fields.functions]
    else:
        yield from rank_functions(fields.issue, texts, order) or whole


def pack(
    parts: Iterable[Excerpt], length: Callable[[Excerpt], int], tokens: int, *, most: int | None = None
) -> list[Excerpt]:
    """The parts from the first on that fit, `most` at most. One that does not fit is passed over, so that a long file
    costs no others; with less than `LEAST_PART` left, none is looked for any more."""
    chosen: list[Excerpt] = []
    for part in parts:
        if len(chosen) == most or tokens < LEAST_PART:
            break
        if (needed := length(part)) <= tokens:
            chosen.append(part)
            tokens -= needed
    return chosen


def _by_words(fields: Fields) -> list[str]:
    """All files that may be context, the likeliest by the issue's words first. Blocks."""
    texts = fields.source.files()
    return rank_files(fields.issue, {path: texts[path] for path in texts if fields.may_show(path)})


async def _relevant(work: Work, ctx: Context, paths: Sequence[str]) -> dict[str, str]:
    """Relevant file -> what it is for."""
    if not paths:
        return {}
    fields, texts = work.fields, work.fields.source.files()
    async with work.stage("relevance", ctx) as (part, cost):
        limit = min(fields.file_tokens, fields.limit(part.context_limit) // 2)
        lengths = {path: len(part.tokenizer.encode(texts[path])) for path in paths}
        read = [path for path in paths if lengths[path] <= limit]
        system = RELEVANCE_SYSTEM.format(project=fields.project_name, issue=quoted(fields.issue))
        chat = work.open(part, "relevance", system, cost, label="relevance")
        names = [f"relevance {number}" for number in range(len(read))]
        machines = [
            RelevanceMachine(name, one, work.folder, work.executions, path=path, content=texts[path])
            for name, path, one in zip(names, read, await work.fork(chat, read, names), strict=True)
        ]
        longest = max(map(lengths.__getitem__, read), default=0) + fields.max_tokens
        found = await work.run(part, machines, at_once=_at_once(part, longest))
    return {path: data.summary for path, data in zip(read, found, strict=True) if data.is_relevant is not False}


def _at_once(part: Context, tokens: int) -> int:
    """How many conversations of so many tokens run at a time: few enough for half of the engine's KV store, where it
    shows its size."""
    usage = part.engine.block_usage()
    room = usage.total * usage.block_size // 2
    return max(1, min(READERS, room // tokens)) if room else READERS


async def _ranked(work: Work, ctx: Context, summaries: Mapping[str, str]) -> list[str]:
    """The relevant files, the most important first; in the order in which they come if no ranking could be read."""
    if len(summaries) < 2:
        return list(summaries)
    fields, texts = work.fields, work.fields.source.files()
    async with work.stage("ranking", ctx) as (part, cost):
        chat = work.open(part, "ranking", RANKING_SYSTEM, cost, label="ranking")
        labels = [f"ranking {number}" for number in range(RANKINGS)]
        machines = [
            RankingMachine(
                label,
                one,
                work.folder,
                work.executions,
                issue=fields.issue,
                project=fields.project_name,
                summaries=summaries,
                lengths={path: len(part.tokenizer.encode(texts[path])) for path in summaries},
                tokens=fields.context_tokens,
            )
            for label, one in zip(labels, await work.fork(chat, labels), strict=True)
        ]
        found = await work.run(part, machines)
    orders = [data.order for data in found if data.order]
    return merge(orders, list(summaries)) if orders else list(summaries)
