"""OpenTelemetry, where it is wanted: FastAPI makes a span of every request, here come what it is about and the engine.

Where spans go is said by the variables that OpenTelemetry has for that (OTEL_EXPORTER_OTLP_ENDPOINT and others).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace

Observe = Callable[[str, float, dict[str, float] | None], object]
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
OFF: dict[str, Any] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def telemetry(*, traces: bool) -> Any:
    """What FastAPI is told: its spans are wanted or not; its metrics and logs are not, the service has its own."""
    if not traces:
        return OFF
    return {**OFF, "tracing": True, "auto_configure": True, "operation_spans": False, "exclude": _untraced}


def _untraced(scope: Mapping[str, Any]) -> bool:
    return scope.get("path") in UNTRACED


def about(fields: Mapping[str, Any]) -> None:
    """Say in the present request's span what it is about."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({f"suffice.{name}": value for name, value in fields.items()})


def traced(observe: Observe) -> Observe:
    """Have a span made of every job of the engine, beside ``observe``."""
    tracer = trace.get_tracer("suffice")

    def observed(kind: str, seconds: float, parts: dict[str, float] | None) -> None:
        end = time.time_ns()
        span = tracer.start_span(f"engine {kind}", start_time=end - int(1e9 * seconds))
        span.set_attributes({f"suffice.{name}_seconds": value for name, value in (parts or {}).items()})
        span.end(end)
        observe(kind, seconds, parts)

    return observed
