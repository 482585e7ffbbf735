"""`Multiverse`: text that forks into parallel paths and merges them again (arXiv 2506.09991).

Map: the model writes a goal with outlines; at `</Goal>` the line forks into one path per outline. Process: the paths
decode side by side, each seeing what was before the fork and itself. Reduce: the paths' segments are appended to the
line's view as they are, nothing is encoded again, and the model goes on with a conclusion that sees all of them. Paths
fork in turn. What the runtime writes itself is `\\n`, `<Path>\\n1:`, the `\\n` behind `</Path>` and `<Conclusion>\\n`.

Positions by the `train` rule: with g that of `</Goal>`, every path begins at g + 1 and `<Conclusion>` stands right
behind the furthest `</Path>`, so that both overlap the newline before them; by the `engine` rule they follow it. The
newline behind `</Path>` belongs to the path, in training as well (`rl/masks.py`): no other path sees it.

Nothing a model writes is an error; `Usage.counts` tells what there was to put up with.
"""

from __future__ import annotations

from ...engine import Tokenizer
from ...jobs.context import Context
from ...result import Finish, Generated, Outcome
from ..answers import extract
from .fields import MultiverseFields
from .grammar import closers, elements
from .guided import guided, guided_tokens
from .line import Line
from .run import Run


class Multiverse(MultiverseFields):
    """Map, process, reduce.

    `max_tokens` limits the critical path: of a block's paths only the longest counts (on engines that cannot merge,
    where they stand one behind another, all do).
    """

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        # What the runtime puts around a guided question counts.
        return guided_tokens(self, tokenizer) if self.mode == "guided" else super().tokens(tokenizer)

    async def run(self, ctx: Context) -> Outcome:
        branch = self.open(ctx, self.tokens(ctx.tokenizer))
        line = Line(branch=branch, start=branch.length, limit=self.limit, paths=self.max_branches)
        tail = line.size("\n</Conclusion>\n</Parallel>\n</Think>\n\n")
        if self.conclusion is not None:
            tail += line.size(self.conclusion) + self.conclusion_tokens
        tail = min(tail, line.room // 2)
        run = Run(self, has_merge=ctx.capabilities.kv_merge)
        call = await (guided(run, ctx, line, tail) if self.mode == "guided" else run.decode(ctx, line, tail))
        return await self.finish(ctx, run, line, call)

    async def finish(self, ctx: Context, run: Run, line: Line, call: Generated) -> Outcome:
        """Close what is open, force an answer where one is asked for, and say what there is."""
        finish = call.finish
        if finish is line.shortage is Finish.LENGTH:
            self.note_bound(ctx)
        opened = elements(line.text)[1]
        if opened:
            ctx.count("unclosed_structure")
            ending = closers(opened) + "\n\n"
            if line.size(ending) <= line.room:
                line.write(ending)
        answer = self.answer_in(line.text)
        forced = self.conclusion
        if answer is None and forced is not None and not ctx.is_late and line.room > line.size(forced):
            line.write(forced)
            limit = min(self.conclusion_tokens, line.room)
            call = await line.branch.generate(self.sampling(ctx, max_tokens=limit))
            line.drop_stop(call)
            ctx.count("concluded")
            finish, answer = call.finish, self.answer_in(line.text)
        details = {"join": "kv" if run.has_merge else "text", "blocks": run.blocks, "depth": run.deepest}
        return Outcome(text=line.text, answer=answer, finish=finish, details=details)

    def answer_in(self, text: str) -> str | None:
        """What follows the thinking is asked first."""
        _, tag, behind = text.rpartition("</Think>")
        found = extract(self.answer, behind)
        return found if found is not None or not tag else extract(self.answer, text)
