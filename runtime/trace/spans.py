"""A trace as OpenTelemetry spans: one of the job, in it those of its branches, in these what they generated and the
tools they used.

Names and attributes are those of OpenTelemetry's semantic conventions for generative AI, and `plait.` ones beside them.
No text of prompts or answers is sent. Needs `opentelemetry-api` (`plait[otel]`), and does nothing without: where spans
go is up to the tracer provider that the program, or `opentelemetry-instrument`, configures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from .record import BranchRecord, Piece
from .timeline import Timeline
from .trace import Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

PROVIDER = "plait"
"""`gen_ai.provider.name`."""


def send_spans(
    trace: Trace,
    *,
    began: float | None = None,
    provider: TracerProvider | None = None,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Send the spans of a job that has ended; False: nobody records any.

    `began`: seconds since 1970 at which it started; None: as the trace of a job of this process knows. `provider`:
    None: the program's own. `headers`: of the request that asked for the job, whose `traceparent` names the span this
    belongs to; None: the current one. Raises `InvalidInput` where nothing says when the job started.
    """
    try:
        from opentelemetry import propagate
        from opentelemetry import trace as api
    except ImportError:
        return False
    start = trace.began if began is None else began
    if start is None:
        raise InvalidInput("a trace that was loaded does not say when its job started: give `began`")
    parent = None if headers is None else propagate.extract(headers)
    tracer = api.get_tracer(PROVIDER, trace.header["plait"], provider)
    return _Sender(tracer, trace, start).send(parent)


class _Sender:
    def __init__(self, tracer: Tracer, trace: Trace, began: float) -> None:
        from opentelemetry.trace import StatusCode, set_span_in_context

        self.tracer = tracer
        self.trace = trace
        self.began = began
        self.inside = set_span_in_context
        self.failure = StatusCode.ERROR
        self.contexts: dict[str, Context] = {}
        """Branch -> what its children's spans are in."""

    @cached_property
    def timeline(self) -> Timeline:
        return Timeline(self.trace)

    def send(self, parent: Context | None) -> bool:
        trace, header = self.trace, self.trace.header
        end = trace.end or {}
        usage = end.get("usage") or {}
        method = (header["method"] or {}).get("method")
        job = self._open(
            f"invoke_agent {method}",
            parent,
            0.0,
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": method,
                "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
                "gen_ai.usage.output_tokens": usage.get("generated_tokens"),
                "gen_ai.request.seed": header["seed"] if abs(header["seed"]) < 1 << 63 else None,
                "plait.job": header["settings"].get("job"),
                "plait.finish": end.get("finish"),
                **{f"plait.usage.{name}": value for name, value in usage.items() if isinstance(value, int | float)},
            },
            header["model"],
        )
        if not job.is_recording():
            return False
        if (error := end.get("error")) is not None:
            self._fail(job, error)
        inside = self.inside(job)
        # A branch stands behind its parent in the trace.
        for branch in trace.branches.values():
            self._send_branch(branch, self.contexts.get(branch.parent or "", inside))
        closed = [record.closed for record in trace.branches.values() if record.closed is not None]
        job.end(self._at(max([float(usage.get("seconds", 0.0)), *closed])))
        return True

    def _send_branch(self, branch: BranchRecord, parent: Context) -> None:
        opened = branch.opened or 0.0
        span = self._open(
            f"branch {branch.id}",
            parent,
            opened,
            {
                "plait.branch": branch.id,
                "plait.branch.origin": branch.origin,
                "plait.branch.scores": branch.scores or None,
                "plait.branch.pruned": branch.pruned,
                "plait.finish": branch.finish,
            },
            branch.model or self.trace.header["model"],
        )
        if branch.error is not None:
            self._fail(span, branch.error)
        context = self.contexts[branch.id] = self.inside(span)
        ends = [opened]
        for segment in self.timeline.segments[branch.id]:
            for piece in segment.pieces:
                if piece.kind == "sampled" and piece.began is not None and piece.ended is not None:
                    self._send_generation(piece, branch, context)
                    ends.append(piece.ended)
        for tool in (tool for tool in self.trace.tools if tool.branch == branch.id):
            told = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool.tool,
                "plait.outcome": tool.outcome,
            }
            used = self._open(f"execute_tool {tool.tool}", context, tool.began, told, None)
            if tool.outcome != "ok":
                self._fail(used, tool.outcome)
            ends.append(self.timeline.tool_end(tool))
            used.end(self._at(ends[-1]))
        for join in self.trace.joins:
            if join.branch == branch.id and join.time is not None:
                name = "merge" if join.segment is None else "join"
                span.add_event(name, {"plait.children": join.children, "plait.found": join.found}, self._at(join.time))
        for state in self.trace.states:
            if state.branch == branch.id:
                span.add_event("state", {"plait.state": state.state}, self._at(state.time))
        span.end(self._at(branch.closed if branch.closed is not None else max(ends)))

    def _send_generation(self, piece: Piece, branch: BranchRecord, parent: Context) -> None:
        model = branch.model or self.trace.header["model"]
        told = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.usage.output_tokens": len(piece.token_ids),
            "gen_ai.response.finish_reasons": None if piece.finish is None else [piece.finish],
        }
        span = self._open(f"text_completion {model}", parent, piece.began or 0.0, told, model)
        span.end(self._at(piece.ended or 0.0))

    def _open(self, name: str, parent: Context | None, seconds: float, told: dict[str, Any], model: str | None) -> Span:
        common = {"gen_ai.provider.name": PROVIDER, "gen_ai.request.model": model}
        known = {key: value for key, value in (common | told).items() if value is not None}
        return self.tracer.start_span(name, parent, attributes=known, start_time=self._at(seconds))

    def _fail(self, span: Span, error: str) -> None:
        span.set_attribute("error.type", error.partition(":")[0])
        span.set_status(self.failure, error)

    def _at(self, seconds: float) -> int:
        """Nanoseconds since 1970."""
        return round((self.began + seconds) * 1e9)
