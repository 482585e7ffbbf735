"""Chats of training data: their messages and tools, and what of a turn it is that the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from ..runtime.engines.native.tokenizer import HFTokenizer
from ..runtime.errors import InvalidInput
from ..runtime.methods.tools import parse_strictly

Message = dict[str, Any]
"""With `role` and `content`, and what else a chat template takes (`tool_calls`, as OpenAI's API has them)."""


def read_messages(value: object) -> list[Message] | None:
    """Messages as templates take them: no nulls, and the arguments of calls are objects; None: it is no list of
    messages. Raises `InvalidInput` for calls that are none."""
    found = [_message(one) for one in value] if isinstance(value, list) else [None]
    messages = [one for one in found if one is not None]
    return messages if len(messages) == len(found) else None


def _message(value: object) -> Message | None:
    if not isinstance(value, dict):
        return None
    message = {name: given for name, given in value.items() if given is not None}
    if calls := message.pop("tool_calls", None):
        if message.get("role") != "assistant":
            raise InvalidInput("`tool_calls` are the assistant's")
        if not isinstance(calls, list):
            raise InvalidInput("`tool_calls` is no list of objects with a `function`")
        message |= {"content": message.get("content", ""), "tool_calls": [_call(call) for call in calls]}
    return message if all(isinstance(message.get(name), str) for name in ("role", "content")) else None


def _call(value: object) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidInput("`tool_calls` is no list of objects with a `function`")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # templates would quote it as one more text
        try:
            arguments = parse_strictly(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the arguments of a call of {function['name']} are no JSON object: {error}") from None
    if not isinstance(arguments, dict):
        raise InvalidInput(f"the arguments of a call of {function['name']} are no JSON object")
    return {**value, "function": {**function, "arguments": arguments}}


def read_tools(value: object) -> list[dict[str, Any]]:
    """Of a row, as OpenAI's API describes them. Raises `InvalidInput`."""
    tools = [] if value is None else value
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidInput("`tools` is no list of objects")
    return tools


def check_tools(tokenizer: HFTokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InvalidInput` for tools that the chat template would not tell the model of."""
    if tools and tokenizer.chat_text(messages, tools) == tokenizer.chat_text(messages):
        raise InvalidInput("`tools`: the model's chat template has none")


def said(
    tokenizer: HFTokenizer, before: Sequence[Message], turn: Message, tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """What the model writes as the assistant's `turn` behind `before`: its content, with calls and whatever else the
    template writes there as the template spells it. Raises `InvalidInput` where that cannot be told, or calls are left
    out."""
    content: str = turn["content"]
    plain = {"role": turn["role"], "content": content}
    if turn == plain:
        return content
    whole = tokenizer.chat_text([*before, turn], tools)
    names = [call["function"]["name"] for call in turn.get("tool_calls", ())]
    if whole == tokenizer.chat_text([*before, plain], tools):
        if names:
            raise InvalidInput("`tool_calls`: the model's chat template does not write them")
        return content
    # Around the words is what two turns that differ in these alone have in common.
    turns = [tokenizer.chat_text([*before, {**plain, "content": text}], tools) for text in ("a", "B")]
    behind = commonprefix([text[::-1] for text in turns])[::-1]
    fronts = [front for front in (commonprefix(turns), tokenizer.chat_text(before, tools)) if whole.startswith(front)]
    front = max(fronts, key=len, default=whole)
    text = whole[len(front) : len(whole) - len(behind)]
    if not text or not whole.endswith(behind):
        raise InvalidInput(f"{', '.join(turn)}: what of it the model writes cannot be told from the chat template")
    if content.strip() not in text or any(text.count(name) < names.count(name) for name in names):
        raise InvalidInput("the model's chat template leaves out what is said beside a call, or calls beside others")
    return text
