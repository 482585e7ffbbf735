"""`Run`: one run of `Multiverse`: decoding lines, forking them at a goal, joining their paths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...errors import EngineClosed
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...result import Finish, Generated
from .dialects import Dialect
from .fields import MultiverseFields
from .grammar import closers, elements
from .joins import read_on, reopen
from .line import Line
from .outlines import Outline, is_in_order, outlines

MIN_PATH_TOKENS = 8
"""A path gets at least so many for its own text, or there is no fork."""

SLACK = 4
"""Tokens left over for what has to be encoded anew where a token reaches over a cut."""


class Run:
    """One run of the method. `can_merge`: can the engine merge KV? If not, joined text is encoded anew."""

    def __init__(self, method: MultiverseFields, dialect: Dialect, *, can_merge: bool) -> None:
        placing = dialect.places[method.positions or dialect.positions]
        self.method = method
        self.dialect = dialect
        self.can_merge = can_merge
        self.has_merge = can_merge and placing != "reread"
        self.is_overlapping = self.has_merge and placing == "overlap"
        open_fields = {name for name in dialect.path_sampling if getattr(method, name) is None}
        self.path_sampling = {name: dialect.path_sampling[name] for name in open_fields}
        self.max_paths = dialect.max_paths if method.max_paths is None else method.max_paths
        self.reserve = dialect.reserve if method.reserve is None else method.reserve
        self.other_stops = method.stop
        """Strings that end a line and are cut off."""
        self.blocks = 0
        """That were forked."""
        self.deepest = 0
        """Most levels of blocks."""

    async def decode(self, ctx: Context, line: Line, tail: int) -> Generated:
        """Decode a line to its end, blocks included; `tail` tokens are left for what has to close it."""
        method, dialect = self.method, self.dialect
        while True:
            stops = self.other_stops
            if self.may_fork(ctx, line):
                stops = (*stops, dialect.trigger)
            if line.index:
                stops = (*stops, dialect.path_end)
            limit = line.room - tail
            if limit <= 0:
                return Generated(text="", token_ids=[], finish=line.shortage)
            shape = self.path_sampling if line.index else {}
            params = method.sampling(ctx, max_tokens=limit, stop=stops, include_stop=True, **shape)
            call = await line.branch.generate(params)
            line.used += len(call.token_ids)
            if call.finish is Finish.LENGTH:
                return Generated(text=call.text, token_ids=call.token_ids, finish=line.shortage)
            if not isinstance(call.stop, str):
                line.drop_stop(call)
                if call.finish is Finish.EOS and self.resume(ctx, line, tail):
                    continue
                return call
            text = line.text
            end = text.rfind(call.stop) + len(call.stop)
            if call.stop in self.other_stops:
                line.keep(end - len(call.stop))
                return call
            if end < len(text) and not line.keep(end):
                return Generated(text=call.text, token_ids=call.token_ids, finish=line.shortage)
            if call.stop == dialect.path_end:
                if not elements(text[:end], dialect)[1]:
                    return call
                continue  # it closed a path that the model wrote inside this one
            planned = outlines(text[:end], dialect, line.index, method.num_paths)
            if not planned:
                ctx.count("malformed_goal")
            else:
                await self.block(ctx, line, text[:end], planned, tail)

    def may_fork(self, ctx: Context, line: Line) -> bool:
        most = self.dialect.max_blocks
        return (
            line.may_fork
            and line.level < self.method.depth
            and ctx.may_go_deeper
            and (most is None or self.blocks < most)
        )

    def resume(self, ctx: Context, line: Line, tail: int) -> bool:
        """Close the conclusion that an end of sequence stands in, where the dialect goes on behind it."""
        opened = elements(line.text, self.dialect)[1]
        if not self.dialect.resumes or line.index or not opened or opened[-1].name != self.dialect.merge:
            return False
        ending = closers(opened, self.dialect)
        if line.size(ending) + tail >= line.room:
            return False
        ctx.count("unclosed_conclusions")
        line.write(ending)
        return True

    # -- one block ---------------------------------------------------------------------------------------------

    async def block(self, ctx: Context, line: Line, text: str, outlines: Sequence[Outline], tail: int) -> bool:
        """Fork, run the paths, merge; False: the budget or the limits do not allow it, or every path failed.

        `text`: the line's own, which ends in the tag that forks.
        """
        dialect = self.dialect
        if dialect.is_unique:
            ctx.count("irregular_indices", len({outline.index for outline in outlines}) < len(outlines))
            outlines = list({outline.index: outline for outline in reversed(outlines)}.values())[::-1]
        count = len(outlines)
        reserve = max(min(self.reserve, line.room // 2), line.size(dialect.tail + dialect.join) + tail)
        limit = self.path_limit(ctx, line, count, reserve)
        least = max(self.least(line, outline) for outline in outlines)
        if count > min(self.max_paths, line.paths) or limit < least or ctx.is_late:
            ctx.count("refused_forks")
            return False
        ctx.count("outlines_without_index", sum(not outline.is_numbered for outline in outlines))
        ctx.count("irregular_indices", not is_in_order(outlines))
        self.blocks += 1
        self.deepest = max(self.deepest, line.level + 1)
        around = elements(text.removesuffix(f"</{dialect.plan}>"), dialect)[1]
        beginning = max(element.start for element in around if element.name == dialect.opener)
        begin = line.branch.position
        line.write(dialect.gap)
        paths = self.open_paths(line, outlines, begin if self.is_overlapping else line.branch.position, limit)
        with ctx.phase("paths"):
            alive = await self.run_paths(ctx, line, paths, reserve)
        if not any(alive):
            ctx.count("failed_blocks")
            line.may_fork = False
            line.keep(beginning)
            return False
        self.join(ctx, line, paths, alive)
        return True

    def opening(self, outline: Outline) -> str:
        """What a path begins with. A model that was never trained on numbered paths is told all of its outline."""
        head = self.dialect.open_path(outline.index)
        return f"{head} {outline.text}\n" if self.method.mode == "guided" else head

    def least(self, line: Line, outline: Outline) -> int:
        """Tokens below which a path is not worth a fork."""
        failed = line.size(self.dialect.placeholder(outline.index) + self.dialect.tail)
        return max(line.size(self.opening(outline)), failed) + failed + SLACK + MIN_PATH_TOKENS

    def path_limit(self, ctx: Context, line: Line, count: int, reserve: int) -> int:
        """Tokens for each path."""
        gap = line.size(self.dialect.gap)
        left = line.room - gap - reserve
        share = ctx.share(count, reserve + gap)
        # Read again, the paths stand one behind another in the line's context.
        limit = min(left if self.has_merge else left // count, left if share is None else share)
        return min(limit, self.dialect.path_tokens or limit)

    def open_paths(self, line: Line, outlines: Sequence[Outline], position: int, limit: int) -> list[Line]:
        """A line per outline; a single one goes on in the branch itself."""
        count, parent = len(outlines), line.branch
        line.paths -= count
        allowance = line.paths // (count + 1)
        line.paths -= allowance * count
        branches = [parent] if count == 1 else parent.fork(count, [outline.index for outline in outlines])
        return [
            Line(
                branch=branch,
                start=parent.length,
                index=outline.index,
                opening=self.opening(outline),
                level=line.level + 1,
                limit=limit,
                paths=allowance,
                position=position,
            )
            for branch, outline in zip(branches, outlines, strict=True)
        ]

    async def run_paths(self, ctx: Context, line: Line, paths: Sequence[Line], reserve: int) -> list[bool]:
        """Run all; which of them did not fail."""
        if len(paths) == 1:
            return [await self.path(ctx, paths[0])]
        by_branch = {path.branch.id: path for path in paths}
        turns = asyncio.Semaphore(self.method.width or len(paths))

        async def work(part: Context, branch: TracedBranch) -> bool:
            async with turns:
                return await self.path(part, by_branch[branch.id])

        branches = [path.branch for path in paths]
        alive = await ctx.parallel(work, branches, parent=line.branch, reserve=reserve, nested=True)
        if not self.can_merge:
            for branch in branches:
                branch.close()
        return [bool(ok) for ok in alive]

    async def path(self, ctx: Context, path: Line) -> bool:
        """Run one path, again if the engine fails it; False: it failed for good, and a placeholder stands for it."""
        origin, dialect = path.branch, self.dialect
        failed = dialect.placeholder(path.index)
        tail = path.size(failed + dialect.tail) + SLACK
        for attempt in range(1 + self.method.retries):
            if attempt and path.room < 2 * tail + MIN_PATH_TOKENS:
                break
            path.seek(path.position)
            path.write(path.opening)
            try:
                self.close(ctx, path, await self.decode(ctx, path, tail))
            except (AssertionError, EngineClosed):
                raise
            except Exception:
                # Whatever the engine raised; the trace has it. It must not take the siblings down.
                ctx.count("path_errors")
                path.branch = origin
                path.restart()
                continue
            path.tokens = path.own
            return True
        ctx.count("failed_paths")
        path.seek(path.position)
        path.write(failed)
        path.end_position = path.branch.position
        path.write(dialect.tail)
        path.tokens = path.own
        return False

    def close(self, ctx: Context, path: Line, call: Generated) -> None:
        """Make a finished path end in its closing tag and its tail, whatever the model left open."""
        dialect = self.dialect
        ended_by_tag = call.stop == dialect.path_end
        text = path.text.removesuffix(dialect.path_end) if ended_by_tag else path.text
        inside = elements(text, dialect)[1][1:]
        if inside:
            ctx.count("unclosed_blocks")
        ctx.count("unclosed_paths", not ended_by_tag)
        ctx.count("truncated_paths", call.finish.is_truncated)
        if inside or not ended_by_tag:
            closing = dialect.close(dialect.path)
            ending = closers(inside, dialect) + closing
            if text.endswith("\n") and not inside:
                ending = ending.removeprefix("\n")
            if inside and path.size(ending + dialect.tail) + SLACK > path.room:
                # Not all of it can be closed: cut it off instead.
                text, ending = text[: inside[0].start], closing
            path.keep(len(text))
            path.write(ending)
        path.end_position = path.branch.position
        path.write(dialect.tail)

    def join(self, ctx: Context, line: Line, paths: Sequence[Line], alive: Sequence[bool]) -> None:
        """Bring the paths into the line's view and go on behind them."""
        # Read again, the paths stand one behind another.
        line.used += (max if self.has_merge else sum)(path.used for path in paths)
        line.paths += sum(path.paths for path in paths)
        if len(paths) == 1:
            line.branch = paths[0].branch
        elif self.has_merge:
            line.branch.merge([path.branch for path in paths])
        elif self.can_merge:
            read_on(ctx, line, paths, alive)
        else:
            reopen(ctx, line, paths, alive)
        for path in paths:
            if path.branch is not line.branch:
                path.branch.close()
        if self.is_overlapping:
            line.seek(max(path.end_position for path in paths))
        line.write(self.dialect.join)
