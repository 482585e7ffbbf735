"""A job's result and trace, or what it failed by, as bytes: compressed lines of JSON."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import fields
from typing import Any

from .. import errors
from ..errors import InvalidInput, JobFailed, PlaitError, message
from ..result import Finish, Result, Usage
from ..trace.trace import Trace
from .messages import Malformed

MAX_BYTES = 1 << 30
"""Of an answer, unpacked."""


def pack_result(result: Result) -> bytes:
    return _pack({"result": result.to_json()}, result.trace)


def pack_error(error: BaseException, trace: Trace | None) -> bytes:
    return _pack({"error": {"type": type(error).__name__, "message": message(error)}}, trace)


def pack_cancelled(reason: str, trace: Trace) -> bytes:
    return _pack({"cancelled": reason}, trace)


def _pack(head: dict[str, Any], trace: Trace | None) -> bytes:
    lines = [] if trace is None else list(trace.lines())
    return zlib.compress("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (head, *lines)).encode())


def unpack(data: bytes) -> tuple[dict[str, Any], Trace | None]:
    """What `_pack` made. Raises `Malformed`."""
    try:
        unpacker = zlib.decompressobj()
        head, _, rest = unpacker.decompress(data, MAX_BYTES).partition(b"\n")
        if not unpacker.eof:
            raise Malformed("an answer that is cut off, or too large")
        found = json.loads(head)
        if not isinstance(found, dict):
            raise Malformed("an answer without a head")
        return found, Trace.parse(rest, "the answer's trace") if rest else None
    except (zlib.error, ValueError, RecursionError) as error:
        raise Malformed(f"malformed answer: {str(error)[:200]}") from None


def read_result(head: dict[str, Any], trace: Trace) -> Result:
    """Raises `Malformed`."""
    try:
        data = head["result"]
        names = {field.name for field in fields(Usage)}
        usage = Usage(**{name: value for name, value in data["usage"].items() if name in names})
        usage.counts = Counter(usage.counts)
        return Result(
            text=data["text"],
            answer=data["answer"],
            finish_reason=Finish(data["finish_reason"]),
            usage=usage,
            trace=trace,
            details=data["details"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"malformed result: {error!r}") from None


def read_error(head: dict[str, Any]) -> PlaitError:
    """The error the job failed by: as the local runtime raises it if it is one of plait's."""
    found = head.get("error")
    if not isinstance(found, dict):
        return Malformed("malformed answer: neither a result nor an error")
    name, text = str(found.get("type")), str(found.get("message"))
    cls = getattr(errors, name, None)
    if isinstance(cls, type) and issubclass(cls, PlaitError):
        return cls(text)
    if name == Malformed.__name__:
        return InvalidInput(text)
    return JobFailed(f"{name}: {text}")
