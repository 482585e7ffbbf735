"""Traces as OpenTelemetry spans."""

from __future__ import annotations

import sys
import time

import pytest

import plait
from plait.runtime.trace.record import ToolRecord

sdk = pytest.importorskip("opentelemetry.sdk.trace")

PROMPT = "apr 24 : 9 8 7 2 ;"


@pytest.fixture
def exported():
    """A provider, and the spans that came out of it."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


async def solved(method, **options):
    async with plait.Runtime("countdown") as runtime:
        return await (await runtime.submit(method, **options))


async def test_spans_of_a_job(exported):
    provider, exporter = exported
    before = time.time()
    result = await solved(plait.APR(prompt=PROMPT, dialect="compact", temperature=0))
    assert plait.send_spans(result.trace, provider=provider)
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    roots = [span for span in spans if span.parent is None]
    assert [root.name for root in roots] == ["invoke_agent apr"]
    job = roots[0]
    assert job.attributes["gen_ai.request.model"] == result.trace.header["model"]
    assert job.attributes["gen_ai.usage.input_tokens"] == result.usage.prompt_tokens
    assert job.attributes["gen_ai.usage.output_tokens"] == result.usage.generated_tokens
    assert job.attributes["plait.finish"] == result.finish_reason.value
    branches = {span.attributes["plait.branch"]: span for span in spans if span.name.startswith("branch ")}
    assert set(branches) == set(result.trace.branches)
    assert len(branches) > 1
    for name, span in branches.items():
        parent = result.trace.branches[name].parent
        assert by_id[span.parent.span_id] is (job if parent is None else branches[parent])
    generations = [span for span in spans if span.name.startswith("text_completion ")]
    assert sum(span.attributes["gen_ai.usage.output_tokens"] for span in generations) == result.usage.generated_tokens
    for span in generations:
        owner = by_id[span.parent.span_id]
        assert owner.name.startswith("branch ")
        assert owner.start_time <= span.start_time <= span.end_time <= owner.end_time
    for span in spans:
        assert before * 1e9 - 1e6 <= job.start_time <= span.start_time <= span.end_time <= job.end_time
    joins = [event for span in spans for event in span.events if event.name in ("join", "merge")]
    assert len(joins) == len(result.trace.joins) > 0
    told = [str(value) for span in spans for value in span.attributes.values()]
    labels = [branch.label for branch in result.trace.branches.values() if branch.parent]
    assert labels and not any(text in value for text in (PROMPT, *labels) for value in told)


async def test_tools_errors_and_parents(exported):
    provider, exporter = exported
    result = await solved(plait.Sequential(prompt=PROMPT, max_tokens=2))
    trace = result.trace
    trace.tools += [
        ToolRecord(branch="0", tool="run", arguments={}, began=0.0, ended=0.001, ok=True),
        ToolRecord(branch="0", tool="look", arguments={}, began=0.001),
    ]
    trace.branches["0"].error = "NonFiniteLogits: nothing"
    trace.end["error"] = "JobFailed: x"
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    assert plait.send_spans(trace, began=1000.0, provider=provider, headers=parent)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    job = spans["invoke_agent sequential"]
    assert job.start_time == 1000 * 10**9
    assert (job.parent.span_id, job.context.trace_id) == (int("cd" * 8, 16), int("ab" * 16, 16))
    assert job.attributes["error.type"] == "JobFailed" and not job.status.is_ok
    assert spans["branch 0"].attributes["error.type"] == "NonFiniteLogits"
    assert spans["execute_tool run"].status.is_unset
    assert spans["execute_tool run"].attributes["gen_ai.tool.name"] == "run"
    assert spans["execute_tool look"].attributes["plait.outcome"] == "interrupted"


async def test_when_nothing_is_recorded(exported, monkeypatch, tmp_path):
    provider, exporter = exported
    result = await solved(plait.Sequential(prompt=PROMPT, max_tokens=2))
    result.trace.save(tmp_path / "trace")
    loaded = plait.Trace.load(tmp_path / "trace")
    assert not plait.send_spans(result.trace)  # no provider is configured
    with pytest.raises(plait.InvalidInput, match="began"):
        plait.send_spans(loaded, provider=provider)
    assert plait.send_spans(loaded, began=0.0, provider=provider)
    count = len(exporter.get_finished_spans())
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert not plait.send_spans(loaded, provider=provider)
    assert len(exporter.get_finished_spans()) == count
