"""What the service counts, for Prometheus: `GET /metrics`. docs/operations.md says what to watch.

Requests, asks and tells are counted as they happen; what the database and the engine know is read when Prometheus asks.
No label comes from a user: routes, methods, states and reasons are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that nobody asks for


class Metrics:
    """A registry of its own: two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"suffice_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"suffice_{name}", text, labels, buckets=SECONDS, registry=self.registry)

        self._requests = counter("requests", "requests that were answered", "method", "route", "status")
        self._seconds = histogram("request_seconds", "until answered", "route")
        self._asks = counter("asks", "trials that were handed out, by where they come from", "source")
        self._stops = counter("stops", "asks that were answered with stop", "reason")
        self._tells = counter("tells", "results that were news", "state")
        self._jobs = histogram("engine_job_seconds", "of the engine for a job", "kind")
        self._fits = histogram("engine_fit_seconds", "of it for fitting models, per refresh")
        self._searches = histogram("engine_acquisition_seconds", "of it for choosing suggestions, per refresh")
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = method if method in METHODS else "other", route, status
        found = self._answered.get(key)
        if found is None:  # looking the labels up costs more than counting
            found = self._requests.labels(key[0], route, str(status)), self._seconds.labels(route)
            self._answered[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def asked(self, sources: Iterable[str]) -> None:
        """Trials were handed out."""
        for source in sources:
            self._asks.labels(source).inc()

    def stopped(self, reason: str) -> None:
        self._stops.labels(reason).inc()

    def told(self, state: str) -> None:
        self._tells.labels(state).inc()

    def computed(self, kind: str, seconds: float, parts: dict[str, float] | None = None) -> None:
        """The engine has done a job; ``parts`` of a refresh: seconds for ``fit`` and ``acquisition``."""
        self._jobs.labels(kind).observe(seconds)
        if parts is not None:
            self._fits.observe(parts["fit"])
            self._searches.observe(parts["acquisition"])

    def watch(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Ask ``read`` whenever Prometheus asks."""
        self.registry.register(_Reader(read))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Reader(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()


def gauge(name: str, text: str, value: Any) -> Metric:
    """A reading."""
    return GaugeMetricFamily(f"suffice_{name}", text, value=float(value))


def total(name: str, text: str, value: Any) -> Metric:
    """A reading of what only rises."""
    return CounterMetricFamily(f"suffice_{name}", text, value=float(value))
