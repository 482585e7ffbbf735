"""`PRM`: a process reward model on an engine of its own, which keeps the same tree as the policy.

Each step is a fork of its parent's branch there, so scoring it prefills the step's own tokens and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...runtime.engine import Branch, Engine, Generation, SamplingParams, Tokenizer
from ...runtime.engines.registry import find_model
from ...runtime.errors import PromptTooLong, UnsupportedByEngine
from ...runtime.methods.prompt import context_text
from ..node import Node
from .base import Reward, Scorer

if TYPE_CHECKING:
    from ...runtime.jobs.context import Context
    from .head import Head

_PROBE = SamplingParams(max_tokens=0, hidden_state=True)


class PRM(Reward):
    """A Hugging Face process reward model: a causal language model that tells good steps from bad by two words, or a
    token or sequence classifier. See `head.load_head`."""

    shorthand = "model"

    reward: Literal["prm"] = "prm"
    """The kind's name."""
    model: str = Field(min_length=1)
    """As for `Runtime`: a shipped model, a folder, a GGUF file or a model of the hub."""
    good: str = "+"
    """What a language model would write behind a good step; one token."""
    bad: str = "-"
    """What a language model would write behind a bad step; one token."""
    tag: str = ""
    """Text put behind every step; the score is read at its last token. Empty: at the step's own last token, which is
    EOS for a step that the policy ended with it."""

    def check(self) -> None:
        from ...runtime.engines.native.gguf_tokenizer import load_tokenizer
        from .head import load_head

        path = find_model(self.model).path
        load_head(path, load_tokenizer(path), self.good, self.bad)

    async def open(self, ctx: Context, prompt: Sequence[int], tokenizer: Tokenizer) -> Scorer:
        from .head import is_classifier, load_head

        path = find_model(self.model).path
        options: dict[str, Any] = {"headless": True} if is_classifier(path) else {}
        engine = await ctx.companion(self.model, **options)
        if not engine.capabilities.hidden_states:
            raise UnsupportedByEngine(f"{engine.name} gives no hidden states to score steps by; the native engine does")
        head = load_head(path, engine.tokenizer, self.good, self.bad)
        text = context_text(prompt, tokenizer)
        return PRMScorer(engine, head, self.tag, text, job=f"{ctx.state.job} reward", priority=ctx.state.priority)


class PRMScorer:
    """See `base.Scorer`."""

    def __init__(self, engine: Engine, head: Head, tag: str, prompt: str, *, job: str, priority: int) -> None:
        """Raises `PromptTooLong`."""
        self._engine = engine
        self._head = head
        self._tag = engine.tokenizer.encode_continuation((), tag)
        self._job = job
        self._root = engine.open(engine.tokenizer.encode(prompt), job=job, priority=priority)
        self._branches: dict[Node, Branch] = {}
        self.prefilled_tokens = 0
        """What the engine computed."""
        self.stateless_tokens = 0
        """What a scorer that sees every trajectory for the first time would have."""
        self.peak_blocks = 0
        self.scored = 0

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        running = [self._start(node) for node in nodes]  # all of them, before the first is awaited
        scores = []
        for generation in running:
            completion = None if generation is None else await generation
            if completion is None or completion.hidden_state is None:
                scores.append(math.nan)
                continue
            scores.append(self._head.score(completion.hidden_state))
            self.prefilled_tokens += completion.prefilled_tokens
        self.scored += len(nodes)
        self.peak_blocks = max(self.peak_blocks, self._engine.block_usage(self._job).used)
        return scores

    def _start(self, node: Node) -> Generation | None:
        """Put the step into a branch; None: it is too long for the model."""
        assert node.parent is not None
        parent = self._root if node.parent.parent is None else self._branches[node.parent]
        branch = self._branches[node] = parent.fork(1)[0]
        tokens = self._engine.tokenizer.encode_continuation(branch.tokens, node.text) + self._tag
        if node.is_complete and not self._tag:
            tokens += self._engine.tokenizer.eos_ids[:1]
        try:
            branch.extend(tokens)
        except PromptTooLong:
            return None
        self.stateless_tokens += branch.length
        return branch.generate(_PROBE)

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
        }
