"""The record of a job: every branch, what it wrote and what it could see.

A branch's text is kept as *segments*, exactly as the engine's algebra has it: a segment is an append-only run of tokens
at consecutive positions, all written under one view. A branch starts a new segment whenever its view changes (rewind,
merge, watch, attach; its birth) or others take over what it wrote (fork; being merged or attached). So the record says
of every token, the forgotten ones included, at which position it stood and which other tokens it attended to: its
segment's view, then the segment itself, causally. Attention masks and training rows are derived from that, never
stored.

On disk a trace is one JSON Lines file, plain or compressed by gzip: a header, one line per branch, segment, join, use
of a tool and state, and an end line; see `save`.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..disk import replace_file
from ..engine import Tokenizer
from ..engines.text_stream import piecewise
from ..errors import InvalidInput
from ..plain import kept, whole
from .reader import parse, read
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

logger = logging.getLogger(__name__)


def writable(file: str | Path | None) -> Path | None:
    """Where a trace is to be written; None or empty: nowhere. Makes the folder, and leaves what is there as it is.
    Raises `InvalidInput` if it cannot be written there."""
    if not file:
        return None
    try:
        path = Path(file)
    except TypeError:
        raise InvalidInput(f"the file of a trace is a path, not {type(file).__name__}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = _is_there(path)
        path.open("ab").close()
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    return path


def _is_there(path: Path) -> bool:
    """Is there a file? Raises `OSError` for what is none: a device would be replaced, a pipe be waited for."""
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    return path.exists()


def _unwritable(path: Path, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or error
    return InvalidInput(f"cannot write the trace {str(path)[:200]!r}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One sequence to train on: the context a segment was written in, and the segment.

    Every sampled token is in the mask of exactly one row.
    """

    branch: str
    segment: int
    token_ids: list[int]
    mask: list[bool]
    """True: sampled by the model in this segment. Prompts, injected text and the context before are False."""
    logprobs: list[float | None]
    positions: list[int]
    spans: tuple[SpanRecord, ...]
    """Where the context's tokens come from, in order."""
    is_causal: bool
    """Is plain causal attention over the row what the model saw? If not (merges, live views), the mask follows from the
    views of the trace's segments, and may need tokens that are no longer in the context: forward the whole trace."""


class Trace:
    """All records of one job; grows while it runs."""

    def __init__(self, header: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> None:
        """`tokenizer`: of the job's engine; a trace that was loaded has none and needs none."""
        self.tokenizer = tokenizer
        self.tokenizers: dict[str, Tokenizer] = {}
        """Those of other models that branches ran on, by name."""
        self.header: dict[str, Any] = {
            "format": FORMAT,
            "plait": version("plait"),
            "model": None,
            "method": None,
            "seed": 0,
            "settings": {},
            **(header or {}),
        }
        self.branches: dict[str, BranchRecord] = {}
        self.segments: list[SegmentRecord] = []
        self.joins: list[JoinRecord] = []
        self.tools: list[ToolRecord] = []
        self.states: list[StateRecord] = []
        self.end: dict[str, Any] | None = None
        """Finish, answer and usage; None while the job runs."""
        self.began: float | None = None
        """Seconds since 1970 at which the job started; None: not yet, or not known, as files do not say."""
        self._num_groups = 0

    def __getstate__(self) -> dict[str, Any]:
        """What pickles and copies hold: what a file does. Tokenizers stay where the engine is."""
        self.spell()
        return {**self.__dict__, "tokenizer": None, "tokenizers": {}}

    def spell(self) -> None:
        """Fill in `Piece.chars`. Done when a trace is saved or drawn: few are looked at token by token."""
        if self.tokenizer is None:
            return
        for segment in self.segments:
            model = self.model_of(segment.branch)
            tokenizer = self.tokenizer if model is None else self.tokenizers[model]
            prefix = tuple(tokenizer.prefix_ids)
            before = sum(span.length or 0 for span in segment.view if span.is_text)
            for piece in segment.pieces:
                if piece.kind == "sampled" and piece.chars is None:
                    # As `is_behind` has it; few segments need be put together to tell.
                    behind = before > len(prefix) or tuple(self._row(segment).token_ids[:before]) not in ((), prefix)
                    piece.chars = piecewise(tokenizer, piece.token_ids, piece.text, behind=behind)
                before += len(piece.token_ids)

    def new_segment(
        self, branch: str, position: int, view: tuple[SpanRecord, ...], *, is_packed: bool = False
    ) -> SegmentRecord:
        segment = SegmentRecord(id=len(self.segments), branch=branch, position=position, view=view, is_packed=is_packed)
        self.segments.append(segment)
        return segment

    def add_prompt(self, branch: str, position: int, view: tuple[SpanRecord, ...], prompt: Piece) -> int:
        """A segment of given text; its id."""
        segment = self.new_segment(branch, position, view)
        segment.pieces.append(prompt)
        return segment.id

    def new_group(self, temperature: float, scale: float, bias: float = 0.0) -> GroupRecord:
        self._num_groups += 1
        return GroupRecord(self._num_groups - 1, temperature, scale, bias)

    def model_of(self, branch: str) -> str | None:
        """The model that the branch ran on; None: the job's own, as for branches without a record."""
        record = self.branches.get(branch)
        return None if record is None else record.model

    def segments_of(self, branch: str) -> list[SegmentRecord]:
        return [segment for segment in self.segments if segment.branch == branch]

    def children_of(self, branch: str | None) -> list[BranchRecord]:
        return [record for record in self.branches.values() if record.parent == branch]

    def text_of(self, branch: str) -> str:
        """Everything the branch wrote or was given itself, forgotten parts included."""
        return "".join(piece.text for segment in self.segments_of(branch) for piece in segment.pieces)

    def for_training(self) -> list[TrainingRow]:
        """One row per segment in which the job's own model sampled something. What a branch writes on behind a fork is
        a segment of its own, and so a row more."""
        own = (segment for segment in self.segments if self.model_of(segment.branch) is None)
        return [self._row(segment) for segment in own if any(piece.kind == "sampled" for piece in segment.pieces)]

    def _row(self, segment: SegmentRecord) -> TrainingRow:
        tokens: list[int] = []
        positions: list[int] = []
        for span in segment.view:
            if span.is_text:
                seen = self.segments[span.segment]
                tokens += seen.token_ids[: span.length]
                first = seen.position + span.shift
                positions += range(first, first + (span.length or 0))
        context = len(tokens)
        mask = [False] * context
        logprobs: list[float | None] = [None] * context
        for piece in segment.pieces:
            tokens += piece.token_ids
            mask += [piece.kind == "sampled"] * len(piece.token_ids)
            known = piece.logprobs or [math.nan] * len(piece.token_ids)
            logprobs += [None if math.isnan(value) else value for value in known]
        positions += range(segment.position, segment.position + len(segment))
        # Plain causal attention is right if every segment seen was itself written seeing just the spans before it.
        spans = segment.view
        is_causal = all(span.is_text for span in spans) and positions == list(range(len(positions)))
        is_causal = is_causal and not segment.is_packed
        for i, span in enumerate(spans):
            is_causal = is_causal and self.segments[span.segment].view == spans[:i]
        return TrainingRow(
            branch=segment.branch,
            segment=segment.id,
            token_ids=tokens,
            mask=mask,
            logprobs=logprobs,
            positions=positions,
            spans=spans,
            is_causal=is_causal,
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        """The file's lines as JSON values, which can be read back whatever a model, method or tool said."""
        self.spell()
        yield kept({"type": "header", **self.header})
        for branch in self.branches.values():
            yield kept({"type": "branch", **asdict(branch)})
        for segment in self.segments:
            line = asdict(segment)
            for piece in line["pieces"]:  # else there are numbers alone, many of them
                piece["text"] = whole(piece["text"])
            yield {"type": "segment", **line}
        for join in self.joins:
            yield {"type": "join", **asdict(join)}
        for tool in self.tools:
            yield kept({"type": "tool", **asdict(tool)})
        for state in self.states:
            yield kept({"type": "state", **asdict(state)})
        if self.end is not None:
            yield kept({"type": "end", **self.end})

    def save(self, path: str | Path) -> None:
        """Write the file, compressed if its name ends in `.gz`; an unfinished trace is a valid file without an end
        line."""
        path = Path(path)
        try:
            data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.lines()).encode()
            # Without a time stamp: equal traces are equal files.
            data = gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data
            path.parent.mkdir(parents=True, exist_ok=True)
            _is_there(path)
            replace_file(path, data)
        except (OSError, ValueError, TypeError, RecursionError) as error:  # or something in it is no JSON
            raise _unwritable(path, error) from None

    def save_or_warn(self, path: str | Path) -> None:
        """As `save`; a trace that cannot be written is no reason to lose what it is of."""
        try:
            self.save(path)
        except InvalidInput as error:
            logger.warning("%s", error)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read and check a file, compressed or not. Raises `InvalidInput` naming the line that is wrong."""
        return cls._of(read(Path(path)))

    @classmethod
    def parse(cls, data: bytes, name: str = "trace") -> Trace:
        """As `load`, of what an uncompressed file holds; `name` is what messages call it. Raises `InvalidInput`."""
        return cls._of(parse(data, name))

    @classmethod
    def _of(cls, found: Records) -> Trace:
        trace = cls(found.header)
        trace.branches, trace.segments, trace.joins = found.branches, found.segments, found.joins
        trace.tools, trace.states, trace.end = found.tools, found.states, found.end
        return trace
