"""Messages and tools of OpenAI's chats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from annotated_types import MaxLen

from ..errors import InvalidInput
from ..methods.tools import Tool, ToolCall, parse_strictly, written
from .bodies import Given
from .problems import Refused


class _Function(Given):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Given):
    """A tool that the client offers."""

    type: Literal["function"]
    function: _Function

    def tool(self) -> Tool:
        """Raises `InvalidJob`."""
        fields = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return Tool(**fields)


class _Name(Given):
    name: str


class NamedTool(Given):
    """The tool to be called."""

    type: Literal["function"]
    function: _Name


class _Called(Given):
    name: str
    arguments: str


class _Call(Given):
    """A call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: _Called
    index: int | None = None

    def call(self) -> ToolCall:
        """Raises `InvalidInput`."""
        try:
            arguments = parse_strictly(self.function.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the arguments of a tool call in a message are no JSON object: {error}") from None
        if not isinstance(arguments, dict):
            raise InvalidInput("the arguments of a tool call in a message are no JSON object")
        return ToolCall(self.function.name, arguments)


class Message(Given):
    """One of a chat."""

    role: str
    content: str | Annotated[list[dict[str, Any]], MaxLen(1000)] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    def given(self, marks: tuple[str, str] | None) -> dict[str, str]:
        """As chat templates take it, with its `name` and `tool_call_id` for those that show them. Raises as `text`."""
        told = {"role": self.role, "content": self.text(marks), "name": self.name, "tool_call_id": self.tool_call_id}
        return {name: value for name, value in told.items() if value is not None}

    def text(self, marks: tuple[str, str] | None) -> str:
        """What was said, calls of tools as the model writes them. Raises `InvalidInput` for content that is not text,
        or calls for a model without tools."""
        calls = [called.call() for called in self.tool_calls or ()]
        if calls and (marks is None or self.role != "assistant"):
            raise InvalidInput("tool_calls are the assistant's, with models whose chat template has tools")
        if self.content is None and not calls:
            raise InvalidInput(f"a message of {self.role[:20]!r} has no content")
        said = [text] if (text := self._content()) else []
        return "\n".join([*said, *(written(call, marks) for call in calls if marks is not None)])

    def _content(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise InvalidInput("contents of messages are text: there is a part that is not")
        return "".join(part["text"] for part in self.content)


def with_results_in_order(messages: Sequence[Message]) -> list[Message]:
    """The messages, results of tools in the order of the assistant's calls: many templates show no ids. Raises
    `InvalidInput` for a result of no call, and for a second one of the same."""
    calls: dict[str | None, int] = {}
    answered: set[str] = set()
    found: list[Message] = []
    for is_tool, run in groupby(messages, lambda message: message.role == "tool"):
        some = list(run)
        ids = [message.tool_call_id for message in some if message.tool_call_id is not None] if is_tool else []
        for id in ids:
            if id not in calls or id in answered:
                wrong = "is of no call of the assistant" if id not in calls else "is given twice"
                raise InvalidInput(f"a message of a tool has the tool_call_id {id[:40]!r}, which {wrong}")
            answered.add(id)
        if len(ids) == len(some):
            some.sort(key=lambda message: calls[message.tool_call_id])
        found += some
        if said := [message for message in some if message.role == "assistant"]:
            answered.clear()
            calls = {call.id: number for number, call in enumerate(said[-1].tool_calls or ()) if call.id is not None}
    return found


def chosen_tool(choice: str | NamedTool | None) -> str:
    """As `Sequential.tool_choice`. Raises `Refused`."""
    if isinstance(choice, NamedTool):
        if choice.function.name in ("auto", "none", "required"):
            raise Refused(400, f"there is no tool {choice.function.name!r}", param="tool_choice")
        return choice.function.name
    return choice or "auto"
