"""The server's spans, in the tracing of its clients."""

from __future__ import annotations

import asyncio

import pytest

from .test_guard import ASK, LONG

sdk = pytest.importorskip("opentelemetry.sdk.trace")


async def test_each_job_is_a_span_in_that_of_its_request(served, monkeypatch):
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    async with served.http() as http:
        assert (await http.post("/v1/completions", json=ASK, headers=parent)).status_code == 200
        malformed = {"traceparent": "nonsense"}
        id = (await http.post("/v1/jobs", json=LONG, headers=malformed)).json()["id"]
        await asyncio.sleep(0.1)
        await http.delete(f"/v1/jobs/{id}")
    first, second = (span for span in exporter.get_finished_spans() if span.name == "invoke_agent sequential")
    assert first.parent.span_id == int("cd" * 8, 16)
    assert second.parent is None
    assert second.attributes["plait.job"] == id
    assert second.attributes["plait.finish"] == "cancelled"
    provider.shutdown()


async def test_a_provider_that_fails_harms_nobody(served, monkeypatch):
    from opentelemetry import trace

    class Broken(sdk.TracerProvider):
        def get_tracer(self, *args, **kwargs):
            raise RuntimeError("no tracer")

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Broken())
    async with served.http() as http:
        assert (await http.post("/v1/completions", json=ASK)).status_code == 200
    assert served.used == 0
