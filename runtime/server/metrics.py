"""What `/metrics` shows."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..engine import BlockUsage

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, kv: Callable[[], BlockUsage]) -> None:
        self.registry = CollectorRegistry()
        self.running = Gauge("plait_jobs_running", "Jobs that run", ["method"], registry=self.registry)
        self.queued = Gauge("plait_jobs_queued", "Jobs that wait for their turn", ["method"], registry=self.registry)
        self.jobs = Counter("plait_jobs", "Jobs that ended", ["method", "reason"], registry=self.registry)
        self.tokens = Counter("plait_tokens", "Tokens", ["kind", "method"], registry=self.registry)
        self.preempted = Counter(
            "plait_preemptions", "Times a generation waited for KV blocks of others", ["method"], registry=self.registry
        )
        self.first = Histogram(
            "plait_first_token_seconds", "Time to the first text", ["method"], buckets=SECONDS, registry=self.registry
        )
        self.refused = Counter("plait_requests_refused", "Requests refused", ["status"], registry=self.registry)
        blocks = Gauge("plait_kv_blocks", "KV blocks", ["state"], registry=self.registry)
        for state in ("used", "cached", "free", "total"):
            blocks.labels(state).set_function(lambda state=state: getattr(kv(), state))  # type: ignore[misc]

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
