"""`Chat`: a conversation with a model on one branch. What was said before is never encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

from ..runtime.engine import SamplingParams, Tokenizer
from ..runtime.engines.text_stream import decode_behind, is_behind
from ..runtime.errors import OutOfBudget, PromptTooLong
from ..runtime.jobs.branch import TracedBranch
from ..runtime.jobs.context import Context
from ..runtime.methods.base import Method
from ..runtime.methods.nesting import go_on
from ..runtime.result import Finish, Generated
from .costs import StageCost
from .thoughts import is_thinking, without_thoughts

Message = dict[str, str]
"""`role` and `content`."""

LEAST_ANSWER = 128
"""Tokens of room without which asking makes no sense."""
TAIL = 16
"""Tokens at the end of a prompt in which a template opens the model's thoughts, if it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said."""

    text: str
    """Without what a model of the reasoning kind thinks before it."""
    finish: Finish
    """`CONTEXT`, a budget's or the deadline with an empty text: it could not be asked any more."""

    @property
    def is_cut(self) -> bool:
        """Did it end before the model had finished?"""
        return self.finish.is_truncated


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def shared_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens that every chat begins with which begins with these messages and goes on with a user's: whatever the
    template makes of them. Raises `InvalidInput` without a chat template."""
    first, second = (tokenizer.chat([*messages, {"role": "user", "content": text}]) for text in ("A", "Z"))
    return first[: common_prefix(first, second)]


class Chat:
    """One conversation; it only grows."""

    def __init__(
        self,
        branch: TracedBranch,
        messages: Sequence[Message],
        sampling: SamplingParams,
        cost: StageCost,
        generator: Method | None = None,
    ) -> None:
        """`branch`: has read some beginning of the conversation, shared with others or empty. `messages`: what was said
        so far, the last of them by the model, or only the system's. `generator`: what answers instead of plain
        decoding."""
        self.branch = branch
        self.messages = list(messages)
        self.sampling = sampling
        self.cost = cost
        self.generator = generator
        self._read = 0
        """Tokens of the branch that the model has read, here or before a fork."""

    def fork(self, n: int, labels: Sequence[str]) -> list[Chat]:
        """n conversations that go on from here."""
        branches = self.branch.fork(n, labels)
        chats = [Chat(branch, self.messages, self.sampling, self.cost, self.generator) for branch in branches]
        for chat in chats:
            chat._read = self._read
        return chats

    def read(self, text: str) -> None:
        """Let the conversation hold what it will be asked first, so that forks share it. Where the budget has no room
        for that, it is left to `ask` to say so. Raises `PromptTooLong`."""
        tokens = self.branch.scope.tokenizer.chat([*self.messages, {"role": "user", "content": text}])
        known = self._known(tokens)
        self.branch.rewind(known)
        with suppress(OutOfBudget):
            self.branch.extend(tokens[known:])

    async def prefill(self) -> None:
        """Let the model read what is there, so that forks find it read."""
        await self.branch.generate(SamplingParams(max_tokens=0))
        self.cost.input += self.branch.position - self._read
        self._read = self.branch.length

    async def ask(self, text: str) -> Answer:
        """Say something and hear the model's answer. Running out of context, budget or time is an answer too, and then
        nothing was said."""
        branch, tokenizer = self.branch, self.branch.scope.tokenizer
        said = [*self.messages, {"role": "user", "content": text}]
        tokens = tokenizer.chat(said)
        known = self._known(tokens)
        needed = len(tokens) - known + min(self.sampling.max_tokens or LEAST_ANSWER, LEAST_ANSWER)
        if branch.position - (branch.length - known) + needed > branch.context_limit:
            return Answer(text="", finish=Finish.CONTEXT)
        try:
            branch.rewind(known)
            branch.extend(tokens[known:])
        except PromptTooLong:
            return Answer(text="", finish=Finish.CONTEXT)
        except OutOfBudget:
            critical = branch.scope.critical_left
            short = critical is not None and critical < len(tokens) - known
            return Answer(text="", finish=Finish.CRITICAL_TOKENS if short else Finish.TOTAL_TOKENS)
        found = await self._answer()
        self.cost.calls += 1
        cached = min(known, self._read)
        self._read = branch.length
        self.cost.cached += cached
        self.cost.input += len(tokens) - cached
        self.cost.output += len(found.token_ids)
        if found.finish.is_budget and not found.text:
            return Answer(text="", finish=found.finish)
        self.messages = [*said, {"role": "assistant", "content": found.text}]
        has_begun = is_thinking(tokenizer.decode(tokens[-TAIL:]))
        return Answer(text=without_thoughts(found.text, has_begun=has_begun), finish=found.finish)

    async def _answer(self) -> Generated:
        """What is said behind what the branch holds; it holds it then."""
        branch = self.branch
        if self.generator is None:
            return await branch.generate(self.sampling)
        scope = branch.scope
        assert isinstance(scope, Context)
        outcome = await go_on(scope, self.generator, branch)
        tokens = scope.tokenizer.encode_continuation(branch.tokens, outcome.text)
        finish = outcome.finish if len(tokens) <= branch.room else Finish.CONTEXT
        tokens = tokens[: branch.room]
        behind = is_behind(scope.tokenizer, branch)
        branch.extend(tokens)
        return Generated(text=decode_behind(scope.tokenizer, tokens, behind=behind), token_ids=tokens, finish=finish)

    def _known(self, tokens: Sequence[int]) -> int:
        """How many of these tokens stand in the branch. Where the template has another way to write what the model
        wrote, it is read anew from there on."""
        return common_prefix(self.branch.tokens, tokens)
