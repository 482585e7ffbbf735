"""What a trace is made of: branches, the segments they wrote, the spans they saw, joins; see `trace.Trace`.

Times are seconds since the job started; a *step* is the number of tokens spent on the critical path before something
happened. Both are None where they are not known, as in files of format 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

FORMAT = 4
"""Version of the file format. `Trace.load` also reads format 3, which knows no tools, states and other models, format
2, whose groups have no ids, and format 1, which has neither times nor steps nor `Piece.chars`; it refuses others."""

Kind = Literal["prompt", "injected", "sampled"]


class GroupRecord(NamedTuple):
    """Contexts that were attached at once: what is seen of them is weighed as one (APE)."""

    id: int
    """Two groups in a row may be alike in all but this."""
    temperature: float
    scale: float
    bias: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """How a view sees one segment: its first `length` tokens."""

    segment: int
    length: int | None
    """None: live, as much as was written at each step."""
    shift: int = 0
    """Added to the segment's positions."""
    group: GroupRecord | None = None
    """None: ordinary attention."""

    @property
    def is_text(self) -> bool:
        """Does the span count among the branch's own tokens?"""
        return self.length is not None and self.group is None


def with_own_numbers(view: Sequence[SpanRecord]) -> tuple[SpanRecord, ...]:
    """The view with its groups numbered from 0: two that see the same are equal then."""
    numbers: dict[GroupRecord, int] = {}
    return tuple(
        span
        if span.group is None
        else replace(span, group=span.group._replace(id=numbers.setdefault(span.group, len(numbers))))
        for span in view
    )


@dataclass(slots=True, kw_only=True)
class Piece:
    """Consecutive tokens of a segment that came into it in one go."""

    kind: Kind
    token_ids: list[int]
    text: str
    logprobs: list[float] | None = None
    """Natural log-probabilities of sampled tokens under the model itself; None: not known; NaN: not of this token."""
    finish: str | None = None
    """Why the generation ended (`Finish`); None for given text."""
    chars: list[int] | None = None
    """Of a sampled piece: how many characters of `text` each token completed; None: see `Trace.spell`."""
    step: int | None = None
    began: float | None = None
    """Seconds at which its generation was asked for, or the text was given."""
    ended: float | None = None


@dataclass(slots=True, kw_only=True)
class SegmentRecord:
    id: int
    branch: str
    position: int
    """Of the first token; the others follow on."""
    view: tuple[SpanRecord, ...]
    pieces: list[Piece] = field(default_factory=list)
    is_packed: bool = False
    """Are the spans read one behind another, ending where this segment begins, wherever they were written
    (`Branch.arrange`)? Then `position` counts within the branch's own text, and shifts do not matter."""
    views: list[tuple[int, tuple[SpanRecord, ...]]] = field(default_factory=list)
    """Views that took the place of `view` while the segment was being written: (first own token that saw it, view)."""
    seen: dict[int, list[int]] = field(default_factory=dict)
    """For live spans: segment -> tokens of it that each own token saw. Own tokens at the end that are missing were
    never computed; of a context attached behind live text it is not noted (`attach_contexts`). `sights.sights` puts
    views and this together."""

    def __len__(self) -> int:
        return sum(len(piece.token_ids) for piece in self.pieces)

    @property
    def token_ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.token_ids]


@dataclass(slots=True, kw_only=True)
class BranchRecord:
    id: str
    """The path in the job's tree, as `0.1.2`; with the seed it determines sampling."""
    parent: str | None
    origin: Literal["open", "fork"]
    """`open`: a context of its own, `parent` spawned it. `fork`: it shares the parent's view."""
    label: str
    level: int
    """Depth of the scope it was opened in; the root method's is 0."""
    finish: str | None = None
    """Of its last generation."""
    error: str | None = None
    scores: list[float] = field(default_factory=list)
    pruned: str | None = None
    """Why it was given up."""
    step: int | None = None
    """At its opening."""
    opened: float | None = None
    closed: float | None = None
    model: str | None = None
    """Name of the engine it ran on, if that is not the job's own; its token ids are of that one's vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRecord:
    """Results of other branches came into `branch`."""

    branch: str
    children: tuple[str, ...]
    found: tuple[str, ...]
    """Those of the children that handed back a result."""
    segment: int | None
    """The segment that holds the joined text; None: a merge, whose spans are in the next segment's view."""
    step: int | None = None
    time: float | None = None


@dataclass(slots=True, kw_only=True)
class ToolRecord:
    """A tool that was used on behalf of a branch."""

    branch: str
    tool: str
    arguments: dict[str, Any]
    """JSON values."""
    began: float
    ended: float | None = None
    """None: it was interrupted."""
    ok: bool = False
    output: str = ""
    step: int | None = None

    @property
    def outcome(self) -> Literal["ok", "failed", "interrupted"]:
        if self.ended is None:
            return "interrupted"
        return "ok" if self.ok else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """What a branch belongs to went over into another state."""

    branch: str
    state: str
    time: float
    step: int | None = None


@dataclass(slots=True, kw_only=True)
class Records:
    """All of one job, in the order in which they came."""

    header: dict[str, Any]
    branches: dict[str, BranchRecord] = field(default_factory=dict)
    segments: list[SegmentRecord] = field(default_factory=list)
    joins: list[JoinRecord] = field(default_factory=list)
    tools: list[ToolRecord] = field(default_factory=list)
    states: list[StateRecord] = field(default_factory=list)
    end: dict[str, Any] | None = None
    """Finish, answer and usage; None while the job runs."""
