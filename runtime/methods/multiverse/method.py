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

from typing import Literal

from pydantic import Field

from ...engine import Engine, Tokenizer
from ...jobs.context import Context
from ...result import Generated, Outcome
from ..answers import extract
from ..prompt import prompt_tokens
from ..sequential import Answering
from .grammar import closers, elements
from .guided import guided, guided_tokens
from .line import Line
from .run import Run


class Multiverse(Answering):
    """Map, process, reduce.

    `max_tokens` limits the critical path: of a block's paths only the longest counts (on engines that cannot merge,
    where they stand one behind another, all do).
    """

    method: Literal["multiverse"] = "multiverse"
    mode: Literal["trained", "guided"] = "trained"
    """`trained`: the model writes the tags itself. `guided`: for any instruct model, the runtime asks for the outlines,
    forks once and asks for the conclusion."""
    positions: Literal["train", "engine"] = "train"
    """The rule of the released training code, or that of the released engine; see the module's text."""
    depth: int = Field(default=6, ge=0)
    """Levels of nested blocks; 0: tags are plain text."""
    width: int | None = Field(default=None, ge=1)
    """Paths of one block that run at the same time, the others wait; None: all. It does not change the output."""
    max_paths: int = Field(default=32, ge=1)
    """A block with more outlines is not forked."""
    max_branches: int = Field(default=256, ge=0)
    """Paths of the whole job; each line hands on equal shares of what it may open."""
    reserve: int = Field(default=256, ge=0)
    """Tokens kept back from the paths for conclusion and answer; at most half of what is left."""
    retries: int = Field(default=1, ge=0)
    """Fresh starts of a path whose generation raised an error."""
    outline_tokens: int = Field(default=512, ge=1)
    """Guided: new tokens for the outlines at most."""

    def check(self, engine: Engine) -> None:
        # What the runtime puts around a guided question counts.
        self.check_prompt(self.tokens(engine.tokenizer), engine)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """What the root is opened with."""
        return (guided_tokens if self.mode == "guided" else prompt_tokens)(self.prompt, tokenizer)

    async def run(self, ctx: Context) -> Outcome:
        branch = self.open(ctx, self.tokens(ctx.tokenizer))
        line = Line(branch=branch, start=branch.length, limit=self.max_tokens, paths=self.max_branches)
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
