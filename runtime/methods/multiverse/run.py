"""`Run`: one run of `Multiverse`: decoding lines, forking them at a goal, joining their paths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...errors import EngineClosed
from ...events import Joined
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...result import Finish, Generated
from ...trace.record import JoinRecord
from .fields import MultiverseFields
from .grammar import GOAL_END, JOIN, PATH_END, Outline, closers, elements, goal_outlines, is_in_order, path_head
from .line import Line

MIN_PATH_TOKENS = 8
"""A path gets at least so many for its own text, or there is no fork."""

SLACK = 4
"""Tokens left over for what has to be encoded anew where a token reaches over a cut."""


class Run:
    """One run of the method. `has_merge`: can the engine merge KV? If not, joined text is encoded anew."""

    def __init__(self, method: MultiverseFields, *, has_merge: bool) -> None:
        self.method = method
        self.has_merge = has_merge
        self.is_overlapping = has_merge and method.positions == "train"
        self.other_stops = method.stop
        """Strings that end a line and are cut off."""
        self.blocks = 0
        """That were forked."""
        self.deepest = 0
        """Most levels of blocks."""

    async def decode(self, ctx: Context, line: Line, tail: int) -> Generated:
        """Decode a line to its end, blocks included; `tail` tokens are left for what has to close it."""
        method = self.method
        while True:
            forks = line.may_fork and line.level < method.depth and ctx.may_go_deeper
            stops = (*self.other_stops, *([GOAL_END] if forks else []), *([PATH_END] if line.index else []))
            limit = line.room - tail
            if limit <= 0:
                return Generated(text="", token_ids=[], finish=line.shortage)
            call = await line.branch.generate(method.sampling(ctx, max_tokens=limit, stop=stops, include_stop=True))
            line.used += len(call.token_ids)
            if call.finish is Finish.LENGTH:
                return Generated(text=call.text, token_ids=call.token_ids, finish=line.shortage)
            if not isinstance(call.stop, str):
                line.drop_stop(call)
                return call
            text = line.text
            end = text.rfind(call.stop) + len(call.stop)
            if call.stop in self.other_stops:
                line.keep(end - len(call.stop))
                return call
            if end < len(text) and not line.keep(end):
                return Generated(text=call.text, token_ids=call.token_ids, finish=line.shortage)
            if call.stop == PATH_END:
                if not elements(text[:end])[1]:
                    return call
                continue  # it closed a path that the model wrote inside this one
            outlines = goal_outlines(text[:end], line.index)
            if not outlines:
                ctx.count("malformed_goal")
            else:
                await self.block(ctx, line, text[:end], outlines, tail)

    # -- one block ---------------------------------------------------------------------------------------------

    async def block(self, ctx: Context, line: Line, text: str, outlines: Sequence[Outline], tail: int) -> bool:
        """Fork, run the paths, merge; False: the budget or the limits do not allow it, or every path failed.

        `text`: the line's own, which ends in `</Goal>`.
        """
        method, count = self.method, len(outlines)
        reserve = max(min(method.reserve, line.room // 2), line.size("\n" + JOIN) + tail)
        limit = self.path_limit(ctx, line, count, reserve)
        least = max(2 * line.size(placeholder(o.index)) for o in outlines) + SLACK + MIN_PATH_TOKENS
        if count > min(method.max_paths, line.paths) or limit < least or ctx.is_late:
            ctx.count("refused_forks")
            return False
        ctx.count("outlines_without_index", sum(not outline.is_numbered for outline in outlines))
        ctx.count("irregular_indices", not is_in_order(outlines))
        self.blocks += 1
        self.deepest = max(self.deepest, line.level + 1)
        around = elements(text.removesuffix(GOAL_END))[1]
        opening = max(element.start for element in around if element.name == "Parallel")
        begin = line.branch.position
        line.write("\n")
        paths = self.open_paths(line, outlines, begin if self.is_overlapping else line.branch.position, limit)
        with ctx.phase("paths"):
            alive = await self.run_paths(ctx, line, paths, reserve)
        if not any(alive):
            ctx.count("failed_blocks")
            line.may_fork = False
            line.keep(opening)
            return False
        self.join(ctx, line, paths, alive)
        return True

    def path_limit(self, ctx: Context, line: Line, count: int, reserve: int) -> int:
        """Tokens for each path."""
        newline = line.size("\n")
        left = line.room - newline - reserve
        share = ctx.share(count, reserve + newline)
        # Without a merge the paths stand one behind another in the line's context.
        return min(left if self.has_merge else left // count, left if share is None else share)

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
        if not self.has_merge:
            for branch in branches:
                branch.close()
        return [bool(ok) for ok in alive]

    async def path(self, ctx: Context, path: Line) -> bool:
        """Run one path, again if the engine fails it; False: it failed for good, and a placeholder stands for it."""
        origin, failed = path.branch, placeholder(path.index)
        tail = path.size(failed) + SLACK
        for attempt in range(1 + self.method.retries):
            if attempt and path.room < 2 * tail + MIN_PATH_TOKENS:
                break
            path.seek(path.position)
            path.write(path_head(path.index))
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
        path.end_position = path.branch.position - path.size("\n")
        path.tokens = path.own
        return False

    def close(self, ctx: Context, path: Line, call: Generated) -> None:
        """Make a finished path end in its closing tag and a newline, whatever the model left open."""
        ended_by_tag = call.stop == PATH_END
        text = path.text.removesuffix(PATH_END) if ended_by_tag else path.text
        inside = elements(text)[1][1:]
        if inside:
            ctx.count("unclosed_blocks")
        ctx.count("unclosed_paths", not ended_by_tag)
        ctx.count("truncated_paths", call.finish.is_truncated)
        if inside or not ended_by_tag:
            ending = closers(inside) + ("" if text.endswith("\n") and not inside else "\n") + PATH_END
            if inside and path.size(ending + "\n") + SLACK > path.room:
                # Not all of it can be closed: cut it off instead.
                text, ending = text[: inside[0].start], "\n" + PATH_END
            path.keep(len(text))
            path.write(ending)
        path.end_position = path.branch.position
        path.write("\n")

    def join(self, ctx: Context, line: Line, paths: Sequence[Line], alive: Sequence[bool]) -> None:
        """Bring the paths into the line's view and open the conclusion."""
        # Without a merge the paths stand one behind another.
        line.used += (max if self.has_merge else sum)(path.used for path in paths)
        line.paths += sum(path.paths for path in paths)
        if len(paths) == 1:
            line.branch = paths[0].branch
        elif self.has_merge:
            line.branch.merge([path.branch for path in paths])
        else:
            self.reopen(ctx, line, paths, alive)
        for path in paths:
            if path.branch is not line.branch:
                path.branch.close()
        if self.is_overlapping:
            line.seek(max(path.end_position for path in paths))
        line.write(JOIN)

    def reopen(self, ctx: Context, line: Line, paths: Sequence[Line], alive: Sequence[bool]) -> None:
        """Text-level join: the line goes on in a branch that encodes everything anew, causally."""
        old = line.branch
        tokens = [*old.tokens, *(token for path in paths for token in path.tokens)]
        line.branch = new = ctx.open(tokens, label=old.record.label, context_limit=old.context_limit)
        children = tuple(path.branch.id for path in paths)
        found = tuple(child for child, ok in zip(children, alive, strict=True) if ok)
        trace = ctx.state.trace
        segment = trace.segments_of(new.id)[0].id
        trace.joins.append(JoinRecord(branch=new.id, children=children, found=found, segment=segment))
        text = ctx.tokenizer.decode(tokens[old.length :])
        ctx.emit(Joined, branch=new.id, children=children, found=found, text=text)
        if not line.index:
            old.close()  # a path's first branch is where it is tried again


def placeholder(index: str) -> str:
    """What stands for a path that the engine failed for good."""
    return f"{path_head(index)} [failed]\n{PATH_END}\n"
