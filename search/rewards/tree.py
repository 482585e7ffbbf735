"""`TreeScorer`: judges steps on an engine that keeps the same tree as the policy.

Each step is a fork of its parent's branch there, so scoring it prefills what it adds to the text and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from ...runtime.engine import Branch, Completion, Engine, FinishReason, Generation, SamplingParams
from ...runtime.errors import OutOfBlocks, PromptTooLong
from ...runtime.jobs.context import Context
from ..node import Node
from .frames import Frame, shared


class Reader(Protocol):
    """Reads a score off what the engine says at the end of a step."""

    @property
    def params(self) -> SamplingParams:
        """What to ask of it."""
        ...

    def score(self, completion: Completion) -> float:
        """NaN: no score could be had."""
        ...


class TreeScorer:
    """See `base.Scorer`."""

    def __init__(
        self,
        engine: Engine,
        frame: Frame,
        reader: Reader,
        question: str,
        *,
        job: str,
        priority: int,
        deadline: float | None = None,
        is_policy: bool = False,
    ) -> None:
        """`is_policy`: the engine is that of the policy, which judges itself. Raises `PromptTooLong` and `OutOfBlocks`,
        naming who has no room, and `InvalidInput` if the frame is a chat that cannot be rendered."""
        self._engine = engine
        self._frame = frame
        self._reader = reader
        self._question = question
        self._job = job
        head = frame.head(engine.tokenizer, question)
        try:
            self._root = engine.open(head, job=job, priority=priority, deadline=deadline)
        except (PromptTooLong, OutOfBlocks) as error:  # the policy's own would be told in the same words
            if is_policy:
                raise type(error)(f"the policy has no room to judge itself: {error}") from None
            raise type(error)(
                f"the reward model {engine.name} has no room for the question: {error} (in its `options`; its context "
                f"limit is {engine.context_limit} tokens now, and no more than the model was made for)"
            ) from None
        self._branches: dict[Node, Branch] = {}
        self.prefilled_tokens = 0
        """What the engine computed."""
        self.stateless_tokens = 0
        """What a scorer that sees every trajectory for the first time would have."""
        self.peak_blocks = 0
        self.scored = 0
        self.too_long: set[Node] = set()
        """Steps without a score because the model's context does not hold them, however often they were asked for."""
        self.out_of_memory: set[Node] = set()
        """And because its KV store does not."""

    @classmethod
    def of(cls, ctx: Context, engine: Engine, frame: Frame, reader: Reader, question: str) -> TreeScorer:
        """For a job, beside its own branches and as urgent as they are."""
        state = ctx.state
        return cls(
            engine,
            frame,
            reader,
            question,
            job=f"{state.job} reward",
            priority=state.priority,
            deadline=state.deadline,
            is_policy=engine is ctx.engine,
        )

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        running = [self._start(node) for node in nodes]  # all of them, before the first is awaited
        scores = []
        try:
            for node, generation in zip(nodes, running, strict=True):
                if generation is None:
                    scores.append(math.nan)
                    continue
                completion = await generation
                if completion.finish_reason is FinishReason.MEMORY:
                    self.out_of_memory.add(node)
                else:
                    self.out_of_memory.discard(node)
                scores.append(self._reader.score(completion))
                self.prefilled_tokens += completion.prefilled_tokens
        finally:
            for generation in running:
                if generation is not None:
                    await generation.aclose()
        self.scored += len(nodes)
        self.peak_blocks = max(self.peak_blocks, self._engine.block_usage(self._job).used)
        return scores

    def _start(self, node: Node) -> Generation | None:
        """Put the step into a branch; None: it is too long for the model, or for its KV store."""
        above = node.parent
        # What was released is read again: a stop string may take off the end of steps above.
        while above is not None and above not in self._branches:
            above = above.parent
        depth = 0 if above is None else above.depth
        branch = self._branches[node] = (self._root if above is None else self._branches[above]).fork(1)[0]
        tokens, steps = branch.tokens, [step.text for step in node.path]
        for end in range(depth + 1, node.depth + 1):
            is_complete = end == node.depth and node.is_complete
            tokens = self._frame.tokens(self._engine.tokenizer, tokens, self._question, steps[:end], is_complete)
        common = shared(branch.tokens, tokens)
        branch.rewind(common)
        try:
            branch.extend(tokens[common:])
            generation = branch.generate(self._reader.params)
        except PromptTooLong:
            self.too_long.add(node)
            return None
        except OutOfBlocks:
            self.out_of_memory.add(node)
            return None
        self.stateless_tokens += branch.length
        return generation

    def release(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node in self._branches:
                self._branches.pop(node).close()

    def close(self) -> None:
        self.release(list(self._branches))
        self._root.close()

    @property
    def statistics(self) -> dict[str, float | int]:
        return {
            "scored": self.scored,
            "prefilled_tokens": self.prefilled_tokens,
            "stateless_tokens": self.stateless_tokens,
            "peak_kv_blocks": self.peak_blocks,
            "too_long": len(self.too_long),
            "out_of_memory": len(self.out_of_memory),
        }
