"""Tools that a model may call: how they are described, how calls are read from its text, and how it is made to call."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ..plain import MAX_WHOLE, check_plain
from ..spec import Spec
from .constraints import GrammarConstraint

CHOICES = ("auto", "none", "required")
"""Values of `tool_choice` that are no names."""
MAX_INSIDE = 16
"""Marks of an end that the arguments of a call may hold: at each the call is read anew."""


def _not_a_choice(name: str) -> str:
    if name in CHOICES:
        raise ValueError(f"no tool can be called {name}: that is a value of tool_choice")
    return name


def _takes_objects(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise ValueError("the arguments of a tool are an object: give the schema the type object")
    return schema


_NO_PARAMETERS = {"type": "object", "properties": {}}
"""As it is known to models. Read as a schema it would allow any."""


class Tool(Spec):
    """A function that the model may ask for; who called the model runs it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), AfterValidator(_not_a_choice)]
    """Letters, digits, `_`, `.` and `-`."""
    description: str | None = None
    """What it is for."""
    parameters: Annotated[dict[str, Any], AfterValidator(_takes_objects)] = _NO_PARAMETERS
    """JSON schema of its arguments, which are an object; as it is by default, there are none."""

    def described(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"type": "function", "function": self.model_dump(exclude_none=True)}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wrote."""

    name: str
    arguments: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CallReader:
    """Reads the calls out of a growing text. What is no well-formed call of a known tool is text, marks and all; the
    white space around calls is nothing."""

    def __init__(self, marks: tuple[str, str], names: Collection[str]) -> None:
        """`marks`: as `Tokenizer.tool_marks`."""
        self._begin, self._end = marks
        self._names = names
        self._text = ""
        """What is not given out yet."""
        self._searched = 0
        """Where in it the end of a call may still begin, if it holds the beginning of one."""
        self._is_behind_call = False

    def push(self, text: str) -> list[str | ToolCall]:
        """Texts and calls that are certain now."""
        self._text += text
        found: list[str | ToolCall] = []
        while (at := self._text.find(self._begin)) >= 0:
            body = at + len(self._begin)
            end = self._text.find(self._end, max(body, self._searched))
            if end < 0:
                certain = len(self._text[:at].rstrip())
                self._give(certain, found)
                self._searched = max(max(body, self._searched) - certain, len(self._text) - len(self._end) + 1)
                return found
            written, behind = self._text[body:end], end + len(self._end)
            call = read_call(written, self._names)
            if call is None and _is_cut(written) and self._text.count(self._end, body, behind) <= MAX_INSIDE:
                self._searched = behind  # The mark stands in a text of the call's.
                continue
            if call is None:
                self._give_up(body, found)
            else:
                rest = self._text[behind:]
                self._give(len(self._text[:at].rstrip()), found)
                self._text, self._is_behind_call = rest, True
                found.append(call)
            self._searched = 0
        self._give(self._certain(), found)
        return found

    def finish(self) -> list[str | ToolCall]:
        """What is left at the end of the text."""
        found: list[str | ToolCall] = []
        self._give(len(self._text), found)
        return found

    def _certain(self) -> int:
        """Characters that no call can begin in, nor reach back to."""
        held = max((n for n in range(1, len(self._begin)) if self._text.endswith(self._begin[:n])), default=0)
        return len(self._text[: len(self._text) - held].rstrip())

    def _give_up(self, body: int, found: list[str | ToolCall]) -> None:
        """No call begins in front of `body`; one may at the last beginning there is up to the first end."""
        end = self._text.find(self._end, body)
        again = self._text.rfind(self._begin, body, end)
        self._give(end + len(self._end) if again < 0 else len(self._text[:again].rstrip()), found)

    def _give(self, count: int, found: list[str | ToolCall]) -> None:
        given, self._text = self._text[:count], self._text[count:]
        given = given.lstrip() if self._is_behind_call else given
        if given:
            self._is_behind_call = False
            found.append(given)


def read_calls(
    text: str, marks: tuple[str, str], names: Collection[str], *, parallel: bool = True
) -> tuple[str, list[ToolCall]]:
    """The text around the calls, and the calls. Not `parallel`: what comes behind the first call is left out."""
    reader, said, calls = CallReader(marks, names), "", list[ToolCall]()
    for part in [*reader.push(text), *reader.finish()]:
        if calls and not parallel:
            break
        if isinstance(part, str):
            said += part
        else:
            calls.append(part)
    return said, calls


def read_call(text: str, names: Collection[str]) -> ToolCall | None:
    """`{"name": "...", "arguments": {...}}`; None for anything else, and for a tool that there is not."""
    try:
        found = parse_strictly(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.keys() != {"name", "arguments"}:
        return None
    name, arguments = found["name"], found["arguments"]
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return ToolCall(name, arguments)


def parse_strictly(text: str) -> Any:
    """The value of JSON that whoever it is passed on to takes. Raises `ValueError`, also for what `check_plain` does
    not let through, and `RecursionError`. Whole numbers of more than 64 bits are doubles, and numbers beyond those the
    largest double, or the least."""
    value = json.loads(text, parse_float=_double, parse_int=_whole_number)
    check_plain(value)
    return value


def _is_cut(text: str) -> bool:
    """Does it end within a text of its JSON?"""
    try:
        parse_strictly(text)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        pass
    return False


def written(call: ToolCall, marks: tuple[str, str]) -> str:
    """The call as models write it."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return f'{marks[0]}\n{{"name": "{call.name}", "arguments": {arguments}}}\n{marks[1]}'


def forcing(tools: Sequence[Tool], marks: tuple[str, str], *, parallel: bool) -> GrammarConstraint:
    """A text of nothing but calls of these tools: one, or several if `parallel`."""
    begin, end = marks
    several = ' ("\\n" call)*' if parallel else ""
    rules = [f"start: call{several}", "call: " + " | ".join(f"call{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        before, behind = f'{begin}\n{{"name": "{tool.name}", "arguments": ', "}\n" + end
        rules.append(f"call{i}: {json.dumps(before)} arguments{i} {json.dumps(behind)}")
        # Whatever else the schema allows, a call's arguments are an object.
        schema = {**tool.parameters, "type": "object"}
        if schema == _NO_PARAMETERS:
            schema["additionalProperties"] = False
        rules.append(f"arguments{i}: %json {json.dumps(schema)}")
    return GrammarConstraint(grammar="\n".join(rules))


def _double(text: str) -> float:
    """JSON has numbers of any size, readers have limits (RFC 8259, section 6)."""
    return max(-sys.float_info.max, min(float(text), sys.float_info.max))


def _whole_number(text: str) -> float:
    return _double(text) if len(text) > 21 or abs(int(text)) > MAX_WHOLE else int(text)
