"""What a recording of an engine holds, checked when it is read: whoever plays it back may rely on it."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from ..engine import Capabilities, Completion, Costs, FinishReason, SamplingDefaults
from ..errors import InvalidInput
from ..mistakes import check_fields, check_types
from ..plain import check_plain

FORMAT = 2


class Header(TypedDict):
    """Of the first line, what is read of it, but for what is not in all recordings."""

    format: int
    engine: str
    context_limit: int
    capabilities: dict[str, Any]
    bos_id: int | None
    prefix_ids: list[int]
    byte_ids: list[int]
    eos_ids: list[int]
    vocab_size: int


class _Call(TypedDict, total=False):
    key: str
    completion: dict[str, Any]
    error: str
    interrupted: list[int]
    costs: dict[str, Any]


class _Tokens(TypedDict):
    key: str
    value: list[int]


class _Text(TypedDict):
    key: str
    value: str


_TEXTS = {"encode": _Tokens, "continuation": _Tokens, "decode": _Text, "chat": _Tokens}


@dataclass(frozen=True, slots=True)
class Call:
    """A `generate` call: one of the three."""

    completion: Completion | None = None
    error: str | None = None
    interrupted: list[int] | None = None
    """What had been written by then."""
    costs: Costs = field(default_factory=Costs)
    """Of one without a completion."""


@dataclass(slots=True)
class Recording:
    """A file's lines."""

    header: Header
    capabilities: Capabilities
    sampling_defaults: SamplingDefaults
    tool_marks: tuple[str, str] | None
    calls: dict[str, deque[Call]] = field(default_factory=dict)
    """By the name of the call, in the order in which they were recorded."""
    texts: dict[str, Any] = field(default_factory=dict)
    """What the tokenizer gave, by the name of the call."""


def read(path: Path) -> Recording:
    """Raises `InvalidInput` with the path and line of the first mistake."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a recording of an engine: {error}") from None
    recording: Recording | None = None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            check_plain(record, finite=False, whole=False)
            kind = record.pop("type")
            if recording is None:
                recording = _started(kind, record)
            elif kind == "call":
                recording.calls.setdefault(record["key"], deque()).append(_call(record))
            else:
                check_types(_TEXTS[kind], record)
                recording.texts[record["key"]] = record["value"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = error if isinstance(error, ValueError) else repr(error)
            raise InvalidInput(f"{path}:{number}: not a recording of an engine: {what}") from None
    assert recording is not None
    return recording


def _started(kind: str, data: dict[str, Any]) -> Recording:
    if kind != "header" or data["format"] != FORMAT:
        raise InvalidInput(f"no header of format {FORMAT}")
    check_types(Header, data)
    if data["context_limit"] < 1:
        raise InvalidInput(f"context_limit: {data['context_limit']}")
    capabilities = Capabilities(**data["capabilities"])
    check_fields(capabilities)
    # Recordings from before there were any are of engines without.
    marks = data.get("tool_marks")
    if marks is not None:
        begin, end = marks
        if not isinstance(begin, str) or not isinstance(end, str):
            raise InvalidInput(f"tool_marks: {marks!r}")
        marks = (begin, end)
    return Recording(cast(Header, data), capabilities, SamplingDefaults(**data.get("sampling_defaults", {})), marks)


def _call(data: dict[str, Any]) -> Call:
    check_types(_Call, data)
    call = Call(
        completion=_completion(**data["completion"]) if "completion" in data else None,
        error=data.get("error"),
        interrupted=data.get("interrupted"),
        costs=Costs(**data.get("costs", {})),
    )
    check_fields(call.costs)
    if [call.completion, call.error, call.interrupted].count(None) != 2:
        raise InvalidInput("a call has one of: completion, error, interrupted")
    return call


def _completion(**data: Any) -> Completion:
    tops = data["top_logprobs"]
    if tops is not None:
        tops = [{int(token): value for token, value in top.items()} for top in tops]
    data = {**data, "finish_reason": FinishReason(data["finish_reason"]), "top_logprobs": tops}
    completion = Completion(**data)
    check_fields(completion)
    for name in ("logprobs", "top_logprobs"):
        values = getattr(completion, name)
        if values is not None and len(values) != len(completion.token_ids):
            raise InvalidInput(f"{len(values)} {name} for {len(completion.token_ids)} tokens")
    return completion
