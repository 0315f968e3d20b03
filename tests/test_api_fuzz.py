"""Whatever is sent, the service answers with success or a problem that names a field, never an error of its own."""

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import BRANIN, Service, serving
from strategies import STRANGE, places, replaced

TRIAL = {"parameters": {"x1": 1.0, "x2": 2.0}, "measurements": [{"metric": "loss", "value": 1.0}]}
STUDY: dict[str, Any] = {**BRANIN, "name": "new"}
N = [*BRANIN["parameters"], {"name": "n", "type": "int", "low": 1, "high": 9}]
NORMAL, WEIGHTS = {"normal": [5, 2]}, {"weights": [1, 2, 3, 4, 5, 4, 3, 2, 1]}
STUDIES: list[dict[str, Any]] = [
    {
        **STUDY,
        "parameters": [
            {"name": "x", "type": "float", "low": 0.1, "high": 1, "log": True},
            {"name": "n", "type": "int", "low": 1, "high": 9, "step": 2},
            {"name": "c", "type": "categorical", "choices": ["a", "b"]},
            {"name": "d", "type": "bool", "active_if": "c == 'a'"},
            {"name": "e", "type": "constant", "value": 3},
        ],
        "parameter_constraints": ["x * n <= 5"],
        "outcome_constraints": ["time <= 3"],
        "noise": "auto",
        "budget": {"trials": 3},
        "metadata": {"a": 1},
    },
    {**STUDY, "model": {"warping": True, "outliers": True, "prior": "auto"}, "acquisition": {"name": "auto"}},
    {**STUDY, "parameters": N, "fidelity": {"target": {"n": 9}, "cost": "n / 9"}, "budget": {"cost": 3}},
    {**STUDY, "parameters": N, "environment": {"x1": NORMAL, "n": WEIGHTS}, "risk": {"cvar": 0.9}},
    {**STUDY, "parameters": N, "environment": [{"n": 3}, {"n": 4}], "risk": "expectation"},
    {**STUDY, "context": ["x1"], "earlier": ["fuzzed"], "cost": {"price": 1.0, "metric": "time"}},
    {**STUDY, "conservative": {"baseline": {"x1": 1, "x2": 2}, "margin": 0.1, "probability": 0.9}},
    {**STUDY, "early_stopping": {"policy": "percentile", "percentile": 50, "warmup_steps": 1, "warmup_trials": 2}},
    {**STUDY, "early_stopping": {"policy": "gain", "steps": 9, "probability": 0.1, "price": 1}},
    {**STUDY, "engine": "ax", "global_stopping": {"name": "improvement", "min_trials": 1, "window": 1, "bar": 0.1}},
]
BODIES: list[tuple[str, Any]] = [
    *(("/v1/studies", study) for study in STUDIES),
    ("/v1/studies/fuzzed/ask", {"count": 1, "worker": "w", "max_wait_s": 0.01, "idempotency_key": "k"}),
    ("/v1/studies/there/ask", {"context": {"x1": 1.0}, "max_wait_s": 0.01}),
    ("/v1/studies/there/best", {"context": {"x1": 1.0}, "max_wait_s": 0.01}),
    ("/v1/studies/there/pareto", {"context": {"x1": 1.0}, "max_wait_s": 0.01}),
    ("/v1/studies/there/advice", {"context": {"x1": 1.0}, "max_wait_s": 0.01}),
    (
        "/v1/studies/fuzzed/trials",
        {
            "trials": [TRIAL, {"parameters": {"x1": 1.0, "x2": 2.0}, "state": "WAITING"}],
            "idempotency_key": "a",
        },
    ),
    (
        "/v1/studies/fuzzed/trials/0/tell",
        {
            "lease_token": "t",
            "measurements": [{"metric": "loss", "value": 1.0, "stderr": 0.1, "step": 1, "gradient": {"x1": 1.0}}],
            "state": "COMPLETED",
            "reason": "r",
        },
    ),
    ("/v1/studies/fuzzed/trials/0/report", {"measurements": [{"metric": "loss", "value": 1.0, "step": 1}]}),
    ("/v1/studies/fuzzed/trials/0/heartbeat", {"lease_token": "t"}),
    ("/v1/studies/fuzzed/trials/0/fail", {"lease_token": "t", "reason": "r", "retry": True}),
    ("/v1/studies/fuzzed/trials/0/cancel", {"reason": "r"}),
    ("/v1/studies/fuzzed/predict", {"configurations": [{"x1": 1.0, "x2": 2.0}], "max_wait_s": 0.01}),
]
WAITING = ("/ask", "/predict", "/best", "/pareto", "/advice")


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A path and a body that is right but for one or two values."""
    path, body = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 2))):
        body = replaced(body, draw(st.sampled_from(places(body))), draw(STRANGE))
    if path.endswith(WAITING) and isinstance(body, dict) and _long(body.get("max_wait_s", 30)):
        body["max_wait_s"] = 0.01  # there is no engine: it would wait in vain
    return path, body


def _long(seconds: Any) -> bool:
    return isinstance(seconds, int | float | str | None) and seconds not in (0, "")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        service.study("fuzzed")
        service.study("there", context=["x1"])
        service.call("POST", "/v1/studies/fuzzed/trials", {"trials": [TRIAL]})
        yield service


def test_what_is_made_strange_is_right(service: Service):
    for study in STUDIES:
        service.call("POST", "/v1/studies", study, status=201)
        service.call("DELETE", "/v1/studies/new")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_no_body_is_too_strange(service: Service, request: tuple[str, Any]):
    path, body = request
    answer = service.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code != 422 or answer.json()["errors"]
    elif path == "/v1/studies":
        created = answer.json()["name"]
        service.call("GET", f"/v1/studies/{created}")
        service.call("DELETE", f"/v1/studies/{created}")
