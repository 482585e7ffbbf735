"""`Group`: the workers of one Hogwild! run, their blocks, and the views made of them.

    combined      prompt, history, "others" heading, the others' current steps (live), "own" heading | own step
    interleaved   prompt, history                                                                   | own step
    contiguous    prompt, the others' whole text (live), split                                      | own text

A block is text with a KV segment of its own; finishing a step moves its block into the history by naming it in every
view, and nothing is copied or encoded again. The token that ended the step is not part of it: it is the first of the
next block, computed together with the prefix that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ...engine import SamplingParams, Tokenizer
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...trace.writer import TracedBlock
from .policy import Layout
from .text import OWN, PIVOT, SEPARATOR, SPLIT


@dataclass(slots=True, kw_only=True)
class Worker:
    """One of the lines that write side by side."""

    name: str
    branch: TracedBranch
    text: list[int] = field(default_factory=list)
    """Tokens of the current step, those that wait in `pending` included."""
    pending: list[int] = field(default_factory=list)
    """Tokens for the next forward pass."""
    forced: list[int] = field(default_factory=list)
    """What it is to sample first, from a recording."""
    step: int = 1
    num_given: int = 0
    """Tokens of `text` that the worker did not sample."""
    last_said: list[int] = field(default_factory=list)
    """What it sampled in the step before."""
    live: TracedBlock | None = None
    place: int = -1
    """Where in `text` the tokens `banned` must not stand."""
    banned: set[int] = field(default_factory=set)

    @property
    def said(self) -> list[int]:
        """What the worker has sampled in this step."""
        return self.text[self.num_given :]

    def begin(self, tokens: Sequence[int], before: Sequence[int] = ()) -> None:
        """Begin a step with `tokens`; `before` goes in front of them, as the end of the step before."""
        self.pending = [*before, *tokens]
        self.text = list(tokens)
        self.num_given = len(tokens)

    def overhang(self, tokenizer: Tokenizer, keep: int, least: int = 1) -> int:
        """Sampled tokens at the end of the text that reach beyond its first `keep` characters; `least` of them always
        stay."""
        drop = 0
        while drop < len(self.said) - least and len(tokenizer.decode(self.text[: len(self.text) - drop])) > keep:
            drop += 1
        return drop


@dataclass(slots=True, kw_only=True)
class Step:
    """A finished step, or what a worker left."""

    text: list[int]
    blocks: list[TracedBlock]


class Group:
    """Blocks of one run; `close` lets go of all of them."""

    def __init__(self, ctx: Context, layout: Layout, *, others: str, with_headers: bool) -> None:
        """`others`: the heading in front of the others' unfinished steps."""
        self._ctx = ctx
        self._heading_of_others = others
        self.layout = layout
        self.with_headers = with_headers
        self.workers: list[Worker] = []
        """Those at work, in the order in which they were named."""
        self.history: list[Step] = []
        self.forgotten: list[list[int]] = []
        """Texts of steps that were dropped from the history to make room."""
        self.num_prompt = 0
        """Positions that the prompt takes."""
        self._is_arranged = False
        self._prompt: list[TracedBlock] = []
        self._others: list[TracedBlock] = []
        self._own: list[TracedBlock] = []

    async def start(self, prompt: TracedBranch) -> None:
        """Encode the prompt, in chunks that leave room for others, and the headings, each on its own."""
        self.num_prompt = prompt.position
        self._prompt = [await self._encode(prompt)]
        if self.layout == "combined" and self.with_headers:
            self._others = [await self._encode(self._heading(self._heading_of_others))]
            self._own = [await self._encode(self._heading(OWN))]
        if self.layout == "contiguous" and self.with_headers:
            self._own = [await self._encode(self._heading(SPLIT))]

    def _heading(self, text: str) -> TracedBranch:
        return self._ctx.open(self._ctx.tokenizer.encode_continuation((), text), label="heading")

    async def _encode(self, branch: TracedBranch) -> TracedBlock:
        await branch.generate(SamplingParams(max_tokens=0))
        return self._sealed(branch)

    def _sealed(self, branch: TracedBranch) -> TracedBlock:
        block = branch.seal()
        branch.close()
        return block

    # -- views -------------------------------------------------------------------------------------------------

    def add(self, worker: Worker, order: Sequence[str]) -> None:
        """Let a worker join; `order` has the names of all."""
        self.workers.append(worker)
        self.workers.sort(key=lambda w: order.index(w.name))
        self._is_arranged = False

    def arrange(self) -> None:
        """Bring every worker's view up to date. What a worker is writing stays."""
        if self._is_arranged:
            return
        self._is_arranged = True
        for worker in self.workers:
            if worker.live is None:
                worker.live = worker.branch.block()
        past = [block for step in self.history for block in step.blocks]
        for worker in self.workers:
            others = [w.live for w in self.workers if w is not worker and w.live is not None]
            if self.layout == "interleaved":
                others = []
            worker.branch.arrange([*self._prompt, *past, *self._others, *others, *self._own])

    # -- steps -------------------------------------------------------------------------------------------------

    def finish_step(self, worker: Worker, tokens: Sequence[int], *, drop: int = 0, closing: Sequence[int] = ()) -> None:
        """Move what the worker wrote into the history and let it begin a step with `tokens`.

        `drop`: sampled tokens at its end that are forgotten; `closing`: tokens put in to end it. The last token that
        stays is computed with the next block.
        """
        branch = worker.branch
        if drop:
            del worker.text[-drop:]
        last = worker.text[-1:]
        branch.rewind(branch.length - drop - 1)
        self.history.append(Step(text=[*worker.text, *closing], blocks=[branch.seal()]))
        self._let_go(worker)
        worker.last_said, worker.step = worker.said, worker.step + 1
        worker.begin(tokens, before=[*last, *closing])
        self._is_arranged = False

    def take_back(self, worker: Worker, drop: int) -> None:
        """Forget the last `drop` tokens a worker sampled; the first of them must not come again in their place."""
        place = len(worker.text) - drop
        if worker.place != place:
            worker.place, worker.banned = place, set()
        worker.banned.add(worker.text[place])
        del worker.text[place:]
        # The token that stays last is computed again, for what it leads to.
        worker.branch.rewind(worker.branch.length - drop - 1)
        worker.pending = worker.text[-1:]

    def leave(self, worker: Worker) -> None:
        """Take a worker out; what it wrote stays in sight, marked as broken off."""
        pivot = self._ctx.tokenizer.encode_continuation((), PIVOT + SEPARATOR)
        branch = worker.branch
        blocks = []
        last = worker.pending or worker.text[-1:]
        if not branch.is_closed:
            if not worker.pending and worker.text:
                branch.rewind(branch.length - 1)  # sampled last and never computed: its place is in front of the pivot
            blocks.append(branch.seal())
        blocks.append(self._sealed(self._ctx.open([*last, *pivot], label="pivot")))
        self.history.append(Step(text=worker.text + pivot, blocks=blocks))
        self._let_go(worker)
        self.workers.remove(worker)
        branch.close()
        self._is_arranged = False

    def forget_oldest(self) -> bool:
        """Drop the oldest step from every view; False if there is none."""
        if not self.history:
            return False
        step = self.history.pop(0)
        self.forgotten.append(step.text)
        for block in step.blocks:
            block.close()
        self._is_arranged = False
        return True

    @property
    def num_tokens(self) -> int:
        """Positions that the prompt and all that is in sight take, pending tokens included."""
        written = [*(step.text for step in self.history), *(worker.text for worker in self.workers)]
        return self.num_prompt + sum(map(len, written))

    def whole(self) -> list[int]:
        """All that was written, as one sequence: finished steps, then unfinished ones, each closed by the pivot."""
        encode = partial(self._ctx.tokenizer.encode_continuation, ())
        finished = [*self.forgotten, *(step.text for step in self.history)]
        tokens = [token for text in finished for token in text]
        if self.layout == "combined" and self.with_headers and self.workers:
            tokens += encode(self._heading_of_others)
        for worker in self.workers:
            tokens += [*worker.text, *encode(PIVOT + SEPARATOR)]
        return tokens

    def close(self) -> None:
        """Let go of every block; idempotent."""
        for worker in self.workers:
            self._let_go(worker)
        for block in [*self._prompt, *self._others, *self._own, *(b for step in self.history for b in step.blocks)]:
            block.close()

    def _let_go(self, worker: Worker) -> None:
        if worker.live is not None:
            worker.live.close()
            worker.live = None
