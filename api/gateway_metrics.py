"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from .completions import Outcome
from .upstreams import Upstreams

ADDED = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
WHOLE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that nobody asks for


class GatewayMetrics:
    """A registry of its own: two gateways in one process do not mix."""

    def __init__(self, upstreams: Upstreams) -> None:
        self.registry = CollectorRegistry()
        self._upstreams = upstreams

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"suffice_gateway_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "requests that were answered", "policy", "status")
        self._samples = counter("samples", "draws, by what became of them", "policy", "outcome")
        self._tokens = counter("tokens", "tokens paid for, and saved against max_samples draws", "policy", "kind")
        self._stops = counter("stops", "why no more was drawn", "policy", "reason")
        self._verifier_failures = counter("verifier_failures", "decisions without their verifier", "policy")
        self._seconds = Histogram(
            "suffice_gateway_request_seconds", "until answered", ("policy",), buckets=WHOLE, registry=self.registry
        )
        self._added = Histogram(
            "suffice_gateway_added_seconds", "spent here", ("policy",), buckets=ADDED, registry=self.registry
        )
        self._active = Gauge("suffice_gateway_requests_active", "requests at work", registry=self.registry)
        self._running = Gauge("suffice_gateway_upstream_running", "at an upstream", ("url",), registry=self.registry)
        self._well = Gauge("suffice_gateway_upstream_well", "1: it answers", ("url",), registry=self.registry)

    def answered(self, policy: str, status: int, seconds: float, added: float | None = None) -> None:
        self._requests.labels(policy, str(status)).inc()
        self._seconds.labels(policy).observe(seconds)
        if added is not None:
            self._added.labels(policy).observe(added)

    def decided(self, outcome: Outcome, policy: str) -> None:
        record = outcome.record
        for kind, count in record["samples"].items():
            self._samples.labels(policy, kind).inc(count)
        for kind in ("prompt", "completion", "aborted_estimate"):
            self._tokens.labels(policy, kind).inc(record["tokens"][kind])
        self._tokens.labels(policy, "saved").inc(max(record["tokens"]["saved_vs_fixed"], 0))
        self._stops.labels(policy, record["stop_reason"]).inc()
        if record["verifier"] is not None and record["verifier"]["error"]:
            self._verifier_failures.labels(policy).inc()

    def text(self, active: int) -> bytes:
        """Everything, as Prometheus reads it."""
        self._active.set(active)
        for upstream in self._upstreams.all:
            self._running.labels(upstream.url).set(upstream.running)
            self._well.labels(upstream.url).set(upstream.well)
        return generate_latest(self.registry)
