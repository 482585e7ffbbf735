"""`APR`: threads that spawn child threads and join their results (arXiv 2504.15466).

A thread decodes until it ends or reaches the end of a spawn section. Then a child thread runs for every message of the
section, each in a context of its own that holds the message alone; when all are done, the thread is rewound to where
the section began, the join text with the children's results is put there, and it decodes on. What a spawn section and a
join look like is the dialect's matter.

Nothing a model writes is an error: a message that cannot be read, a child that runs out of tokens or fails twice, gives
the "no solution" line; `Usage.counts` tells how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from ...engine import Engine, Tokenizer
from ...errors import EngineClosed, InvalidInput, PromptTooLong
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...result import Finish, Generated, Outcome
from ..base import Decoding
from ..nesting import Inner, go_on, reading
from ..prompt import context_text, cut, prompt_tokens
from .dialect import Child, Dialect, Joined, Spawn, find_dialect
from .sequences import Sequences

MAX_EMPTY_ROUNDS = 2
"""After so many spawn sections in a row without a child, a thread may spawn no more."""

MIN_CHILD_TOKENS = 16
"""With less than this of the budget for each child, none is started."""


def _known_dialect(name: str) -> str:
    find_dialect(name)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """What a finished thread leaves."""

    branch: str
    prompt: str
    """What it was opened with."""
    text: str
    """Prompt and all."""
    result: str | None
    finish: Finish
    rounds: int


class APR(Decoding):
    """Spawn and join. `max_tokens` and `context_limit` hold for each thread's calls, whatever the number of threads."""

    method: Literal["apr"] = "apr"
    """The method's name."""
    dialect: Annotated[str, AfterValidator(_known_dialect)] = "paper"
    """`paper`, `compact` or a registered name."""
    depth: int = Field(default=1, ge=0)
    """Levels of children; 1: children do not spawn (the paper); 0: spawn sections are plain text."""
    max_rounds: int | None = Field(default=8, ge=0)
    """Spawn sections a thread may have; later ones are plain text. None: as many as its context holds (the paper)."""
    max_children: int | None = Field(default=None, ge=0)
    """Children of one section that are run; the rest get "no solution". None: all."""
    sub_call_budget: int | None = Field(default=None, ge=0)
    """Puts `Sub Call Budget: N ` in front of a text prompt: the paper's way to tell the model how many to spawn. Only
    the root is told; the paper draws its curves with 0 to 10."""
    reserve: int = Field(default=256, ge=0)
    """Budget tokens kept back from the children for the join and what follows; at most half of what is left."""
    retries: int = Field(default=1, ge=0)
    """Fresh starts of a child whose generation raised an error."""
    verify_join: bool = False
    """Replay what a child hands back, and join "no solution" if it is wrong."""
    cancel_siblings: bool = False
    """Cancel the other children after the first verified success. Which had finished by then depends on timing."""

    generator: Inner | None = None
    """A method that does the children's work instead of threads of this one: what a child is told takes the place of
    its prompt, and its answer is what the child hands back."""

    unconstrained: ClassVar[str | None] = "its threads write the sections that spawn children, and what they hand back"

    def check(self, engine: Engine) -> None:
        if self.sub_call_budget is not None and not isinstance(self.prompt, str):
            raise InvalidInput("sub_call_budget goes in front of a text prompt; this prompt is not text")
        super().check(engine)
        if self.generator is not None:
            reading(self.generator, self.tokens(engine.tokenizer), self.context_limit).check(engine)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        if self.sub_call_budget is None:
            return super().tokens(tokenizer)
        prompt = f"Sub Call Budget: {self.sub_call_budget} {self.prompt}"
        return prompt_tokens(prompt, tokenizer, chat=self.chat, system=self.system)

    async def run(self, ctx: Context) -> Outcome:
        run = _Run(self, find_dialect(self.dialect))
        thread = await run.thread(ctx, self.tokens(ctx.tokenizer), level=0, label="root")
        text = thread.text.removeprefix(thread.prompt)
        details = {"rounds": thread.rounds, "threads": run.threads, "sequences": run.sequences.summary()}
        return Outcome(text=text, answer=thread.result, finish=thread.finish, details=details)


class _Run:
    """One run of the method."""

    def __init__(self, method: APR, dialect: Dialect) -> None:
        self.method = method
        self.dialect = dialect
        self.threads = 0
        self.sequences = Sequences()

    async def thread(self, ctx: Context, prompt: Sequence[int], *, level: int, label: str) -> Thread:
        """Run one thread to its end."""
        method = self.method
        self.threads += 1
        branch = method.open(ctx, prompt, label=label)
        opened = context_text(branch.tokens, ctx.tokenizer)
        rounds = empty = 0
        while True:
            may_spawn = (
                level < method.depth
                and ctx.may_go_deeper
                and (method.max_rounds is None or rounds < method.max_rounds)
                and empty < MAX_EMPTY_ROUNDS
            )
            call = await self.call(ctx, branch, may_spawn)
            if call.finish is Finish.LENGTH:
                method.note_bound(ctx)
            text, finish = context_text(branch.tokens, ctx.tokenizer), call.finish
            if not may_spawn or call.stop != self.dialect.spawn_end:
                break
            rounds += 1
            spawn = self.dialect.spawn(text, level)
            if spawn is None:
                ctx.count("malformed_spawn")
                continue
            empty = 0 if spawn.children else empty + 1
            with ctx.phase("children"):
                threads = await self.children(ctx, branch, spawn, level)
            overflow = self.join(ctx, branch, text[: spawn.keep], spawn, threads, level)
            if overflow is not None:
                text, finish = context_text(branch.tokens, ctx.tokenizer), overflow
                break
        self.sequences.end(len(branch.tokens))
        return Thread(
            branch=branch.id, prompt=opened, text=text, result=self.dialect.result(text), finish=finish, rounds=rounds
        )

    async def call(self, ctx: Context, branch: TracedBranch, may_spawn: bool) -> Generated:
        """Decode up to the end of a spawn section or of the thread; text only the runtime may write is replaced."""
        replaced = {**self.dialect.reserved, **dict.fromkeys(self.method.stop, "")}
        stops = (*replaced, self.dialect.spawn_end) if may_spawn else tuple(replaced)
        left = self.method.limit
        while True:
            params = self.method.sampling(ctx, max_tokens=left, stop=stops, include_stop=True)
            call = await branch.generate(params)
            if not isinstance(call.stop, str) or call.stop not in replaced:
                return call
            text = context_text(branch.tokens, ctx.tokenizer)
            kept, tokens = cut(branch.tokens, text[: text.rfind(call.stop)], replaced[call.stop], ctx.tokenizer)
            overflow = self.overflow(ctx, branch, kept, tokens)
            if overflow is not None:
                return replace(call, finish=overflow, stop=None)
            branch.rewind(kept)
            branch.extend(tokens)
            if call.stop in self.method.stop:
                return call
            ctx.count("reserved_text")
            if may_spawn and replaced[call.stop].endswith(self.dialect.spawn_end):
                return replace(call, stop=self.dialect.spawn_end)
            left -= len(call.token_ids)
            if left <= 0:
                return replace(call, finish=Finish.LENGTH, stop=None)

    async def children(self, ctx: Context, branch: TracedBranch, spawn: Spawn, level: int) -> dict[str, Thread | None]:
        """Run the section's children; by prompt, so that duplicates run once. None: failed or cancelled."""
        method = self.method
        taken = spawn.children[: method.max_children]
        ctx.count("children_over_cap", len(spawn.children) - len(taken))
        ctx.count("malformed_children", sum(child.prompt is None for child in taken))
        unique = list({child.prompt: child for child in reversed(taken) if child.prompt is not None}.values())[::-1]
        if not unique:
            return {}
        left = min((n for n in (ctx.ledger.left, ctx.critical_left) if n is not None), default=None)
        reserve = 0 if left is None else min(method.reserve, left // 2)
        share = ctx.share(len(unique), reserve)
        if ctx.is_late or (share is not None and share < MIN_CHILD_TOKENS):
            ctx.count("refused_spawns")
            return {}

        async def work(part: Context, child: Child) -> Thread | None:
            return await self.child(part, child, level + 1)

        def is_success(thread: Thread | None) -> bool:
            return thread is not None and thread.result is not None

        threads = await ctx.parallel(
            work,
            unique,
            parent=branch,
            reserve=reserve,
            nested=True,
            until=is_success if method.cancel_siblings else None,
        )
        return {child.prompt: thread for child, thread in zip(unique, threads, strict=True) if child.prompt}

    async def child(self, part: Context, child: Child, level: int) -> Thread | None:
        """Run a child, again if the engine fails it; None when it failed for good."""
        assert child.prompt is not None
        prompt = part.tokenizer.encode(child.prompt)
        for _ in range(1 + self.method.retries):
            try:
                thread = await self.work(part, prompt, level=level, label=child.label)
            except PromptTooLong:
                part.count("children_too_long")
                return None
            except (AssertionError, EngineClosed):
                raise
            except Exception:
                # Whatever the engine raised; the trace has it. It must not take the siblings down.
                part.count("child_errors")
                continue
            part.count("truncated_children", thread.finish.is_truncated)
            return self.checked(part, child, thread)
        return None

    async def work(self, part: Context, prompt: Sequence[int], *, level: int, label: str) -> Thread:
        """A child's thread, or what the generator makes of what the child is told."""
        generator = self.method.generator
        if generator is None:
            return await self.thread(part, prompt, level=level, label=label)
        self.threads += 1
        branch = part.open(prompt, label=label, context_limit=self.method.context_limit)
        opened = context_text(branch.tokens, part.tokenizer)
        try:
            outcome = await go_on(part, generator, branch)
        finally:
            branch.close()
        return Thread(
            branch=branch.id,
            prompt=opened,
            text=opened + outcome.text,
            result=outcome.answer,
            finish=outcome.finish,
            rounds=0,
        )

    def checked(self, part: Context, child: Child, thread: Thread) -> Thread:
        """The thread without its result if that had to be verified and is wrong."""
        if thread.result is None or not (self.method.verify_join or self.method.cancel_siblings):
            return thread
        if self.dialect.verify(child, thread.result):
            return thread
        part.count("unverified_results")
        return replace(thread, result=None)

    def join(
        self,
        ctx: Context,
        branch: TracedBranch,
        keep: str,
        spawn: Spawn,
        threads: dict[str, Thread | None],
        level: int,
    ) -> Finish | None:
        """Put the join text in the place of the spawn section; what there was no room in, if there was none."""
        by_child = [threads.get(child.prompt) if child.prompt else None for child in spawn.children]
        joined = [
            Joined(child=child, result=thread.result if thread else None)
            for child, thread in zip(spawn.children, by_child, strict=True)
        ]
        overflow = None
        for write in (self.dialect.join, self.dialect.join_short):
            kept, tokens = cut(branch.tokens, keep, write(joined, level), ctx.tokenizer)
            overflow = self.overflow(ctx, branch, kept, tokens)
            if overflow is None:
                self.sequences.end(len(branch.tokens), shared=kept)
                branch.rewind(kept)
                branch.join(tokens, {thread.branch: thread.result is not None for thread in by_child if thread})
                return None
            ctx.count("join_overflows")
        return overflow

    def overflow(self, ctx: Context, branch: TracedBranch, kept: int, tokens: Sequence[int]) -> Finish | None:
        """What leaves no room for `tokens` and one more after `kept`; None: there is room."""
        limits = (
            (branch.context_limit - kept, Finish.CONTEXT),
            (ctx.ledger.left, Finish.TOTAL_TOKENS),
            (ctx.critical_left, Finish.CRITICAL_TOKENS),
        )
        for left, finish in limits:
            if left is not None and len(tokens) >= left:
                return finish
        return None
