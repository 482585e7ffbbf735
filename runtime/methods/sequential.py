"""`Sequential`: one prompt, one line of decoding."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..engine import Engine, SamplingParams, Tokenizer
from ..errors import InvalidInput
from ..events import ToolCalled
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..result import Finish, Outcome
from ..spec import Several
from .answers import check_rule, extract
from .base import Decoding
from .constraints import AnyConstraint
from .prompt import prompt_tokens
from .tools import CHOICES, Tool, ToolCall, forcing, read_calls

AnswerRule = Annotated[str, AfterValidator(check_rule)]
"""See `answers`."""


class Answering(Decoding):
    """Fields of methods whose answer is taken out of a text."""

    answer: AnswerRule = "text"
    """`text`, `boxed`, `countdown`, `equations`, `path` or `regex:PATTERN`; see `answers`."""
    conclusion: str | None = None
    """Text put in when a generation ends without an answer, to make the model give one (`\\nFinal answer: \\boxed{`).
    None: leave it. With a constraint it is put in always: the constraint then holds for what the model writes behind
    it, which alone is asked for the answer, and the text before it is free."""
    conclusion_tokens: int = Field(default=64, ge=1)
    """New tokens after `conclusion` at most; kept back from the budget and the context for it."""

    @property
    def constrains_conclusion(self) -> bool:
        return self.constraint is not None and self.conclusion is not None

    def sampling(self, ctx: Context, **changes: Any) -> SamplingParams:
        """Of all that is not behind the conclusion."""
        free = {"constraint": None} if self.constrains_conclusion else {}
        return super().sampling(ctx, **{**free, **changes})

    def concluding(self, ctx: Context, *, max_tokens: int) -> SamplingParams:
        """Of what is behind the conclusion."""
        return super().sampling(ctx, max_tokens=max_tokens)

    async def decode(self, ctx: Context, branch: TracedBranch) -> Outcome:
        """Decode, and conclude if need be."""
        encode = ctx.tokenizer.encode_continuation
        room = branch.room - len(encode(branch.tokens, self.conclusion or "")) - self.conclusion_tokens
        concludes = self.conclusion is not None and room > 0
        tokens = min(room, self.limit) if concludes else self.limit
        result = await branch.generate(self.sampling(ctx, max_tokens=tokens))
        if result.finish is Finish.LENGTH and tokens == self.limit:
            self.note_bound(ctx)
        text, answer = result.text, extract(self.answer, result.text)
        if self.constrains_conclusion:
            answer = None
        if self.conclusion is None or not concludes:
            return Outcome(text=text, answer=answer, finish=result.finish)
        forced = encode(branch.tokens, self.conclusion)
        if answer is None and not ctx.is_late and branch.room > len(forced):
            branch.extend(forced)
            result = await branch.generate(self.concluding(ctx, max_tokens=self.conclusion_tokens))
            text += self.conclusion + result.text
            answer = extract(self.answer, result.text if self.constrains_conclusion else text)
            ctx.count("concluded")
        return Outcome(text=text, answer=answer, finish=result.finish)


class Sequential(Answering):
    """Decode one answer; the baseline every other method is measured against.

    With `tools` the model may ask for some: `details["tool_calls"]` has the name and arguments of each call, as
    `ToolCalled` events have, and the text is what stands around them. What is no well-formed call is text.
    """

    method: Literal["sequential"] = "sequential"
    """The method's name."""
    tools: Several[Tool] = ()
    """What the model may call, for chats with models whose template has tools."""
    tool_choice: str = "auto"
    """`auto`: the model decides; `none`: it is not told of them; `required`: it calls some, by a constraint; a tool's
    name: it calls that one, likewise."""
    parallel_tool_calls: bool = True
    """Several calls in one text; false: what comes behind the first one is left out."""

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if self.tool_choice not in (*CHOICES, *names):
            raise ValueError(f"tool_choice is {self.tool_choice[:80]!r}: {', '.join(CHOICES)} or a tool's name")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, and there are no tools")
        if self.has_tools and (self.constraint is not None or self.contexts or self.conclusion is not None):
            raise ValueError("tools go with none of constraint, contexts and conclusion")
        return self

    @property
    def has_tools(self) -> bool:
        """May the model call any?"""
        return bool(self.tools) and self.tool_choice != "none"

    def most_tokens(self, engine: Engine) -> int | None:
        return min(self.limit, engine.context_limit) if self.conclusion is None else None

    def check(self, engine: Engine) -> None:
        super().check(engine)
        if (forced := self._forced(engine.tokenizer)) is not None:
            engine.check_constraint(forced.plain())

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        if not self.has_tools:
            return super().tokens(tokenizer)
        self._marks(tokenizer)
        tools = [tool.described() for tool in self.tools]
        return prompt_tokens(self.prompt, tokenizer, chat=self.chat, system=self.system, tools=tools)

    def sampling(self, ctx: Context, **changes: Any) -> SamplingParams:
        if (forced := self._forced(ctx.tokenizer)) is not None:
            changes = {"constraint": forced.plain(), **changes}
        return super().sampling(ctx, **changes)

    def read_calls(self, text: str, branch: TracedBranch) -> tuple[str, list[ToolCall]]:
        """The text without the calls of tools in it, which are announced, and these."""
        if not self.has_tools:
            return text, []
        names = {tool.name for tool in self.tools}
        marks = self._marks(branch.scope.tokenizer)
        said, calls = read_calls(text, marks, names, parallel=self.parallel_tool_calls)
        for call in calls:
            branch.scope.emit(ToolCalled, branch=branch.id, tool=call.name, arguments=call.arguments)
        return said, calls

    async def run(self, ctx: Context) -> Outcome:
        branch = self.open(ctx, self.tokens(ctx.tokenizer))
        outcome = await self.decode(ctx, branch)
        if not self.has_tools:
            return outcome
        text, calls = self.read_calls(outcome.text, branch)
        details = {"tool_calls": [call.to_json() for call in calls]}
        return Outcome(text=text, answer=extract(self.answer, text), finish=outcome.finish, details=details)

    def _forced(self, tokenizer: Tokenizer) -> AnyConstraint | None:
        """What makes the model call what it has to."""
        if self.tool_choice in ("auto", "none"):
            return None
        tools = [tool for tool in self.tools if self.tool_choice in ("required", tool.name)]
        several = self.parallel_tool_calls and self.tool_choice == "required"
        return forcing(tools, self._marks(tokenizer), parallel=several)

    @staticmethod
    def _marks(tokenizer: Tokenizer) -> tuple[str, str]:
        if tokenizer.tool_marks is None:
            raise InvalidInput("the model's chat template has no tools (calls as <tool_call>...): leave them out")
        return tokenizer.tool_marks
