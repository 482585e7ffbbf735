"""`Multiverse`: text that forks into parallel paths and merges them again (arXiv 2506.09991).

Map: the model writes a goal with outlines; at `</Goal>` the line forks into one path per outline. Process: the paths
decode side by side, each seeing what was before the fork and itself. Reduce: the paths' segments are appended to the
line's view as they are, nothing is encoded again, and the model goes on with a conclusion that sees all of them. Paths
fork in turn. What the runtime writes itself is `\\n`, `<Path>\\n1:`, the `\\n` behind `</Path>` and `<Conclusion>\\n`.

Positions by the `train` rule: with g that of `</Goal>`, every path begins at g + 1 and `<Conclusion>` stands right
behind the furthest `</Path>`, so that both overlap the newline before them; by the `engine` rule they follow it. The
newline behind `</Path>` belongs to the path, in training as well (`rl/masks.py`): no other path sees it.

Its relatives (`dialects`) have other tags and write other text. Some join by reading again (`joins`): the others are
encoded once more behind the first path, so that each sees those before it. So does every join on an engine that cannot
merge. Tags in a prompt are text.

Nothing a model writes is an error; `Usage.counts` tells what there was to put up with.
"""

from __future__ import annotations

from typing import Any, Self

from ...engine import Engine, Tokenizer
from ...jobs.context import Context
from ...result import Finish, Generated, Outcome
from ..answers import extract
from .fields import MultiverseFields
from .grammar import closers, elements
from .guided import GUIDE, guided
from .line import Line
from .prompts import QUESTION, put
from .run import Run


class Multiverse(MultiverseFields):
    """Map, process, reduce.

    `max_tokens` limits the critical path: of a block's paths only the longest counts (where they are joined by reading
    again, one behind another, all do).
    """

    def check(self, engine: Engine) -> None:
        self.check_tags(engine.tokenizer)
        MultiverseFields.check(self.asked(engine.tokenizer), engine)

    def settings(self, engine: Engine) -> dict[str, Any]:
        return {**super().settings(engine), "dialect": self.table(engine.tokenizer).name}

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        return MultiverseFields.tokens(self.asked(tokenizer), tokenizer)

    def asked(self, tokenizer: Tokenizer) -> Self:
        """The same with the question as it is put to the model."""
        if self.mode == "guided":
            return self if self._is_ids else self._put(GUIDE, tokenizer)
        return self if self.preset is None else self._put(self.table(tokenizer).prompts.of(self.preset), tokenizer)

    def plain(self, tokenizer: Tokenizer) -> Self:
        """The same with nothing around the question but the chat template, where there is one."""
        return self if self._is_ids else self._put(QUESTION, tokenizer)

    @property
    def _is_ids(self) -> bool:
        return isinstance(self.prompt, list) and not self.messages

    def _put(self, template: str, tokenizer: Tokenizer) -> Self:
        system = self.table(tokenizer).prompts.system if self.preset is not None else None
        prompt = put(self.prompt, template, tokenizer, chat=self.chat, system=self.system, preset_system=system)
        return self.model_copy(
            update={"prompt": prompt, "chat": False, "system": None, "preset": None, "mode": "trained"}
        )

    async def run(self, ctx: Context) -> Outcome:
        dialect = self.table(ctx.tokenizer)
        asked = self.asked(ctx.tokenizer)
        branch = asked.open(ctx, asked.tokens(ctx.tokenizer))
        line = Line(branch=branch, start=branch.length, limit=self.limit, paths=self.max_branches)
        tail = line.size(dialect.ending)
        if self.conclusion is not None:
            tail += line.size(self.conclusion) + self.conclusion_tokens
        tail = min(tail, line.room // 2)
        run = Run(self, dialect, can_merge=ctx.capabilities.kv_merge)
        if self.mode == "trained":
            return await self.finish(ctx, run, line, await run.decode(ctx, line, tail))
        call = await guided(run, ctx, line, tail)
        if call is None:
            line = self.restart(ctx, line)
            call = await run.decode(ctx, line, min(tail, line.room // 2))
        return await self.finish(ctx, run, line, call)

    def restart(self, ctx: Context, line: Line) -> Line:
        """A line that goes on from the plain question, on what the other left."""
        line.branch.prune("no plan")
        plain = self.plain(ctx.tokenizer)
        branch = plain.open(ctx, plain.tokens(ctx.tokenizer), label="plain")
        return Line(branch=branch, start=branch.length, limit=self.limit, used=line.used, may_fork=False)

    async def finish(self, ctx: Context, run: Run, line: Line, call: Generated) -> Outcome:
        """Close what is open, force an answer where one is asked for, and say what there is."""
        finish, dialect = call.finish, run.dialect
        if finish is line.shortage is Finish.LENGTH:
            self.note_bound(ctx)
        opened = elements(line.text, dialect)[1]
        if opened:
            ctx.count("unclosed_structure")
            ending = closers(opened, dialect) + "\n\n"
            if line.size(ending) <= line.room:
                line.write(ending)
        answer = None if self.constrains_conclusion else self.answer_in(line.text, dialect.thinking)
        forced = self.conclusion
        if answer is None and forced is not None and not ctx.is_late and line.room > line.size(forced):
            line.write(forced)
            limit = min(self.conclusion_tokens, line.room)
            call = await line.branch.generate(self.concluding(ctx, max_tokens=limit))
            line.drop_stop(call)
            ctx.count("concluded")
            is_bound = self.constrains_conclusion
            answer = extract(self.answer, call.text) if is_bound else self.answer_in(line.text, dialect.thinking)
            finish = call.finish
        details: dict[str, Any] = {
            "dialect": dialect.name,
            "join": "kv" if run.has_merge else "text",
            "blocks": run.blocks,
            "depth": run.deepest,
        }
        note = self.check_tags(ctx.tokenizer)
        return Outcome(
            text=line.text, answer=answer, finish=finish, details=details if note is None else {**details, "note": note}
        )

    def answer_in(self, text: str, thinking: str) -> str | None:
        """What follows the thinking is asked first."""
        _, tag, behind = text.rpartition(f"</{thinking}>")
        found = extract(self.answer, behind)
        return found if found is not None or not tag else extract(self.answer, text)
