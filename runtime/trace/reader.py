"""Reading a trace file back, with every reference checked."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InvalidInput
from ..mistakes import check_types
from ..plain import check_plain
from .record import (
    FORMAT,
    BranchRecord,
    GroupRecord,
    JoinRecord,
    Piece,
    Records,
    SegmentRecord,
    SpanRecord,
    StateRecord,
    ToolRecord,
)
from .types import End, Header, checked

R = TypeVar("R", ToolRecord, StateRecord)

GZIP = b"\x1f\x8b"
"""What a compressed file begins with."""
MAX_BYTES = 1 << 30
"""Of a file, unpacked: a few kilobytes can hold gigabytes of nothing."""

_ODD = re.compile(r"[0-9]{20}|\\u[dD][89a-fA-F]")
"""Lines without have no number of more than 64 bits, and no half character."""


def read(path: Path) -> Records:
    """The records in the file; raises `InvalidInput` with the path and line of the first mistake."""
    try:
        with path.open("rb") as plain:
            # Not by going back to the beginning: a pipe has no way back.
            is_packed = plain.peek(2)[:2] == GZIP
            with gzip.GzipFile(fileobj=plain) if is_packed else plain as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # the last for what can be no path
        raise InvalidInput(f"{path}: not a readable trace file: {error}") from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{path}: more than {MAX_BYTES >> 20} MiB of text, which is no trace that could be shown")
    return parse(data, path)


def parse(data: bytes, path: Path | str) -> Records:
    """The records in what such a file holds, not compressed; `path` is what messages call it. Raises `InvalidInput`."""
    try:
        # At line feeds alone: texts may hold what else Unicode calls a line's end.
        lines = data.decode().removesuffix("\n").split("\n") if data else []
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not a readable trace file: {error}") from None
    if not lines:
        raise InvalidInput(f"{path}: empty; a trace starts with a header line")
    records: Records | None = None
    places: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if _ODD.search(line):
                check_plain(record, finite=False)
            kind = record.pop("type")
            if records is None:
                records = _header(kind, record)
            elif records.end is not None:
                raise InvalidInput(f"a {kind} record behind the end")
            else:
                _READERS[kind](records, record)
                if kind == "segment":
                    places.append(number)
        except InvalidInput as error:
            raise InvalidInput(f"{path}:{number}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise InvalidInput(f"{path}:{number}: not a trace record: {error!r}") from None
    assert records is not None
    # Only now: a segment that others watched from its birth is recorded before what it came to see itself.
    for number, segment in zip(places, records.segments, strict=True):
        for view in (segment.view, *(view for _, view in segment.views)):
            for span in view:
                if not _is_sound(records, span):
                    raise InvalidInput(f"{path}:{number}: a span of {span.length} tokens over segment {span.segment}")
    return records


def _header(kind: str, data: dict[str, Any]) -> Records:
    if kind != "header":
        raise InvalidInput(f"the first line must be the header, not {kind!r}")
    if data.get("format") not in range(1, FORMAT + 1):
        raise InvalidInput(f"trace format {data.get('format')!r}; this version reads formats 1 to {FORMAT}")
    check_types(Header, data)
    return Records(header={**data, "format": FORMAT})


def _branch(records: Records, data: dict[str, Any]) -> None:
    branch = checked(BranchRecord(**data))
    if branch.id in records.branches:
        raise InvalidInput(f"branch {branch.id} is there already")
    if branch.parent is not None and branch.parent not in records.branches:
        raise InvalidInput(f"branch {branch.id} names an unknown parent {branch.parent!r}")
    records.branches[branch.id] = branch


def _segment(records: Records, data: dict[str, Any]) -> None:
    if data["id"] != len(records.segments):
        raise InvalidInput(f"segment {data['id']} where segment {len(records.segments)} belongs")
    if data["branch"] not in records.branches:
        raise InvalidInput(f"segment of an unknown branch {data['branch']!r}")
    view = tuple(_span(span) for span in data.pop("view"))
    pieces = [_piece(piece) for piece in data.pop("pieces")]
    seen = {int(key): list(value) for key, value in data.pop("seen").items()}
    views = [(int(first), tuple(_span(span) for span in later)) for first, later in data.pop("views", [])]
    segment = checked(SegmentRecord(view=view, pieces=pieces, views=views, seen=seen, **data))
    records.segments.append(segment)


def _span(data: dict[str, Any]) -> SpanRecord:
    group = data.pop("group")
    if group is not None:
        group = GroupRecord(*group) if len(group) > 2 else GroupRecord(0, *group)
        check_types(GroupRecord, group._asdict())
    return checked(SpanRecord(group=group, **data))


def _is_sound(records: Records, span: SpanRecord) -> bool:
    if not 0 <= span.segment < len(records.segments):
        return False
    return span.length is None or 0 <= span.length <= len(records.segments[span.segment])


def _piece(data: dict[str, Any]) -> Piece:
    piece = checked(Piece(**data))
    if piece.kind not in ("prompt", "injected", "sampled"):
        raise InvalidInput(f"unknown kind of text {piece.kind!r}")
    if piece.logprobs is not None and len(piece.logprobs) != len(piece.token_ids):
        raise InvalidInput(f"{len(piece.logprobs)} logprobs for {len(piece.token_ids)} tokens")
    if piece.chars is not None and (len(piece.chars), sum(piece.chars)) != (len(piece.token_ids), len(piece.text)):
        raise InvalidInput(f"characters of {len(piece.chars)} tokens, {sum(piece.chars)} in all, do not fit the piece")
    return piece


def _join(records: Records, data: dict[str, Any]) -> None:
    join = checked(
        JoinRecord(
            branch=data["branch"],
            children=tuple(data["children"]),
            found=tuple(data["found"]),
            segment=data["segment"],
            step=data.get("step"),
            time=data.get("time"),
        )
    )
    unknown = [name for name in (join.branch, *join.children, *join.found) if name not in records.branches]
    if unknown:
        raise InvalidInput(f"join names an unknown branch {unknown[0]!r}")
    records.joins.append(join)


def _tool(records: Records, data: dict[str, Any]) -> None:
    records.tools.append(_of_branch(records, ToolRecord(**data)))


def _state(records: Records, data: dict[str, Any]) -> None:
    records.states.append(_of_branch(records, StateRecord(**data)))


def _of_branch(records: Records, record: R) -> R:
    if record.branch not in records.branches:
        raise InvalidInput(f"it names an unknown branch {record.branch!r}")
    return checked(record)


def _end(records: Records, data: dict[str, Any]) -> None:
    check_types(End, data)
    records.end = data


_READERS: dict[str, Callable[[Records, dict[str, Any]], None]] = {
    "branch": _branch,
    "segment": _segment,
    "join": _join,
    "tool": _tool,
    "state": _state,
    "end": _end,
}
