"""Whatever is sent, the service answers with success or a problem that names a field, never an error of its own."""

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import BRANIN, Service, serving

TRIAL = {"parameters": {"x1": 1.0, "x2": 2.0}, "measurements": [{"metric": "loss", "value": 1.0}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/studies": {
        **BRANIN,
        "name": "new",
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
    "/v1/studies/fuzzed/ask": {"count": 1, "worker": "w", "max_wait_s": 0.01, "idempotency_key": "k"},
    "/v1/studies/fuzzed/trials": {"trials": [TRIAL, {"parameters": {"x1": 1.0, "x2": 2.0}, "state": "WAITING"}]},
    "/v1/studies/fuzzed/trials/0/tell": {
        "lease_token": "t",
        "measurements": [{"metric": "loss", "value": 1.0, "stderr": 0.1, "step": 1, "gradient": {"x1": 1.0}}],
        "state": "COMPLETED",
        "reason": "r",
    },
    "/v1/studies/fuzzed/trials/0/report": {"measurements": [{"metric": "loss", "value": 1.0, "step": 1}]},
    "/v1/studies/fuzzed/trials/0/heartbeat": {"lease_token": "t"},
    "/v1/studies/fuzzed/trials/0/fail": {"lease_token": "t", "reason": "r", "retry": True},
    "/v1/studies/fuzzed/trials/0/cancel": {"reason": "r"},
    "/v1/studies/fuzzed/predict": {"configurations": [{"x1": 1.0, "x2": 2.0}], "max_wait_s": 0.01},
}
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**70), 10**400, -1, 0]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "x" * 5000, "NaN", "x1 <= ", "((((", "not", "COMPLETED", "1e999"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(body: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be replaced."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [at, *(place for key, value in items for place in places(value, (*at, key)))]


def replaced(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[place[0]] = replaced(copy[place[0]], place[1:], value)
    return copy


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A path and a body that is right but for one or two values."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = BODIES[path]
    for _ in range(draw(st.integers(1, 2))):
        body = replaced(body, draw(st.sampled_from(places(body))), draw(STRANGE))
    if path.endswith(("/ask", "/predict")) and isinstance(body, dict) and _long(body.get("max_wait_s", 30)):
        body["max_wait_s"] = 0.01  # there is no engine: it would wait in vain
    return path, body


def _long(seconds: Any) -> bool:
    return isinstance(seconds, int | float | str | None) and seconds not in (0, "")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        service.study("fuzzed")
        service.call("POST", "/v1/studies/fuzzed/trials", {"trials": [TRIAL]})
        yield service


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
