"""What is refused, and how: every error is a problem that names the field, and nothing is changed."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import BRANIN, Service, serving

from suffice.api.deps import write_cursor


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    with serving(tmp_path_factory.mktemp("service"), workers=0) as service:
        service.study("branin", outcome_constraints=["time <= 5"])
        service.call("POST", f"{STUDY}/trials", {"trials": [{"parameters": {"x1": 0, "x2": i}} for i in range(3)]})
        yield service


STUDY = "/v1/studies/branin"
TELL = f"{STUDY}/trials/0/tell"
RESULT = [{"metric": "loss", "value": 1.0}]


def parameter(**fields: Any) -> dict[str, Any]:
    return {"name": "new", "parameters": [{"name": "x", "type": "float", "low": 0, "high": 1, **fields}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "got"),
    [
        ("POST", "/v1/studies", parameter(low=2), "parameters.x.low", 2.0),
        ("POST", "/v1/studies", parameter(low="a"), "parameters.0.low", "a"),
        ("POST", "/v1/studies", parameter(low=float("nan")), "parameters.0.low", "NaN"),
        ("POST", "/v1/studies", parameter(high=float("inf")), "parameters.0.high", "Infinity"),
        ("POST", "/v1/studies", parameter(choices=["a", "b"]), "parameters.x.choices", "['a', 'b']"),
        ("POST", "/v1/studies", parameter(type="real"), "parameters.0.type", "real"),
        ("POST", "/v1/studies", parameter(name="1x"), "parameters.1x.name", "1x"),
        ("POST", "/v1/studies", parameter(active_if="y > 1"), "parameters.x.active_if", "y"),
        ("POST", "/v1/studies", {**parameter(), "name": "no/slash"}, "name", "no/slash"),
        ("POST", "/v1/studies", {**parameter(), "parameter_constraints": ["x +"]}, "parameter_constraints.0", "x +"),
        (
            "POST",
            "/v1/studies",
            {**parameter(), "parameter_constraints": ["x >= 2"]},
            "parameter_constraints",
            ["x >= 2"],
        ),
        ("POST", "/v1/studies", {**parameter(), "outcome_constraints": ["fast"]}, "outcome_constraints.0", "fast"),
        ("POST", "/v1/studies", {**parameter(), "objectives": []}, "objectives", []),
        ("POST", "/v1/studies", {**parameter(), "acquisition": "magic"}, "acquisition", "magic"),
        ("POST", "/v1/studies", {**parameter(), "noise": -1}, "noise", -1.0),
        ("POST", "/v1/studies", {**parameter(), "budget": {"trials": 0}}, "budget.trials", 0),
        ("POST", "/v1/studies", {**parameter(), "seed": -1}, "seed", -1),
        ("POST", "/v1/studies", {**parameter(), "bugdet": 1}, "bugdet", 1),
        ("PATCH", STUDY, {"lease_seconds": 0}, "lease_seconds", 0),
        ("GET", "/v1/studies?limit=0", None, "limit", "0"),
        ("GET", "/v1/studies?cursor=nonsense", None, "cursor", "nonsense"),
        ("GET", f"{STUDY}/trials?cursor=Ingi", None, "cursor", "Ingi"),
        ("GET", f"{STUDY}/trials?state=DONE", None, "state", "DONE"),
        ("GET", f"{STUDY}/trials/first", None, "number", "first"),
        ("POST", f"{STUDY}/ask", {"count": 0}, "count", 0),
        ("POST", f"{STUDY}/ask", {"count": 1.5}, "count", 1.5),
        ("POST", TELL, {"measurements": [{"metric": "loss", "value": float("nan")}]}, "measurements.0.value", "NaN"),
        (
            "POST",
            TELL,
            {"measurements": [{"metric": "loss", "value": float("-inf")}]},
            "measurements.0.value",
            "-Infinity",
        ),
        ("POST", TELL, {"measurements": [{"metric": "loss", "value": None}]}, "measurements.0.value", None),
        ("POST", TELL, {"measurements": [{"metric": "loss", "value": 1, "stderr": -1}]}, "measurements.0.stderr", -1),
        ("POST", TELL, {"measurements": [{"metric": "gain", "value": 1}, *RESULT]}, "measurements.0.metric", "gain"),
        ("POST", TELL, {"measurements": []}, "measurements", []),
        ("POST", TELL, {"measurements": [{"metric": "time", "value": 1}]}, "measurements", "['time']"),
        (
            "POST",
            TELL,
            {"measurements": [{"metric": "loss", "value": 1, "gradient": {"x9": 1}}]},
            "measurements.0.gradient.x9",
            1.0,
        ),
        ("POST", TELL, {"measurements": RESULT, "state": "RUNNING"}, "state", "RUNNING"),
        ("POST", f"{STUDY}/trials/0/report", {"measurements": RESULT}, "measurements.0.step", None),
        ("POST", f"{STUDY}/trials/0/heartbeat", {}, "lease_token", "{}"),
        ("POST", f"{STUDY}/trials", {"trials": []}, "trials", []),
        ("POST", f"{STUDY}/trials", {"trials": [{"parameters": {"x1": 99, "x2": 1}}]}, "trials.0.parameters.x1", 99),
        ("POST", f"{STUDY}/trials", {"trials": [{"parameters": {"x1": 1}}]}, "trials.0.parameters.x2", None),
        (
            "POST",
            f"{STUDY}/trials",
            {"trials": [{"parameters": {"x1": 1, "x2": 1}}, {"parameters": {"x1": 1, "x2": 1, "x3": 1}}]},
            "trials.1.parameters.x3",
            "x3",
        ),
        (
            "POST",
            f"{STUDY}/trials",
            {"trials": [{"parameters": {"x1": 1, "x2": 1}, "state": "WAITING", "measurements": RESULT}]},
            "trials.0.measurements",
            1,
        ),
        (
            "POST",
            f"{STUDY}/trials",
            {"trials": [{"parameters": {"x1": 1, "x2": 1}, "state": "COMPLETED"}]},
            "trials.0.measurements",
            "[]",
        ),
        ("POST", f"{STUDY}/predict", {"configurations": [{"x1": float("nan"), "x2": 1}]}, "configurations.0.x1", "NaN"),
    ],
)
def test_a_wrong_field_is_named(service: Service, method: str, path: str, body: Any, field: str, got: Any):
    before = service.call("GET", STUDY)
    content = None if body is None else json.dumps(body)  # which writes NaN as NaN, as careless clients do
    answer = service.http.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (problem["status"], problem["title"]) == (422, "Unprocessable Entity")
    assert {error["field"] for error in problem["errors"]} == {field}
    found = problem["errors"][0]
    assert found["expected"]
    assert found["got"] in (got, repr(got))
    assert found["field"] in problem["detail"]
    assert service.call("GET", STUDY) == before


def test_every_wrong_field_is_named(service: Service):
    body = {"measurements": [{"metric": "loss"}, {"metric": "time", "value": "x"}], "colour": "red"}
    problem = service.call("POST", TELL, body, status=422)
    assert [e["field"] for e in problem["errors"]] == ["measurements.0.value", "measurements.1.value", "colour"]
    assert problem["errors"][0]["expected"] == "a value, because this field is required"
    many = [{"parameters": {"x1": 99, "x2": 1}}] * 500
    problem = service.call("POST", f"{STUDY}/trials", {"trials": many}, status=422)
    assert len(problem["errors"]) == 100


@pytest.mark.parametrize("content", ["{", "", '{"measurements": [}', "nonsense"])
def test_what_is_no_json_is_refused(service: Service, content: str):
    answer = service.http.post(TELL, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/v1/studies/nothing", 404, "no study named 'nothing'"),
        ("POST", "/v1/studies/nothing/ask", 404, "no study named 'nothing'"),
        ("GET", f"{STUDY}/trials/99", 404, "no trial 99"),
        ("POST", f"{STUDY}/trials/99/cancel", 404, "no trial 99"),
        ("GET", "/v2/studies", 404, "Not Found"),
        ("PUT", "/v1/studies", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there(service: Service, method: str, path: str, status: int, detail: str):
    answer = service.http.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]


def test_an_unforeseen_error_says_nothing_of_the_inside(service: Service, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(service.parts.store, "studies", broken)
    answer = httpx.get(f"{service.url}/v1/studies")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_the_same_definition_twice_is_a_conflict(service: Service):
    problem = service.call("POST", "/v1/studies", {"name": "branin", **BRANIN}, status=409)
    assert problem["title"] == "Conflict"


NUL = "a\0b"
TOLD: dict[str, Any] = {"measurements": [{"metric": "loss", "value": 1.0}]}
WITH_NUL: list[tuple[str, str, Any, str]] = [
    ("POST", "/v1/studies/one/ask", {"worker": NUL}, "worker"),
    ("POST", "/v1/studies/one/ask", {"idempotency_key": NUL}, "idempotency_key"),
    ("POST", "/v1/studies/a%00b/ask", {}, "name"),
    ("GET", "/v1/studies/a%00b", None, "name"),
    ("POST", "/v1/studies/one/trials/0/tell", {**TOLD, "reason": NUL}, "reason"),
    ("POST", "/v1/studies/one/trials/0/fail", {"reason": NUL}, "reason"),
    ("POST", "/v1/studies/one/trials/0/cancel", {"reason": NUL}, "reason"),
    (
        "POST",
        "/v1/studies/one/trials",
        {"trials": [{"parameters": {"x1": 1, "x2": 1}, "reason": NUL}]},
        "trials.0.reason",
    ),
    ("POST", "/v1/studies", {"name": NUL, **BRANIN}, "name"),
    ("GET", f"/v1/studies?cursor={write_cursor(NUL)}", None, "cursor"),
    ("POST", "/v1/samplings", {"prompts": [NUL]}, "prompts.0"),
    ("POST", "/v1/samplings", {"prompts": [{"id": "p"}], "idempotency_key": NUL}, "idempotency_key"),
    ("GET", "/v1/samplings/a%00b", None, "id"),
    ("GET", "/v1/samplings/none/answers?prompt=a%00b", None, "prompt"),
    ("GET", "/v1/calibrations/a%00b", None, "name"),
]


def test_text_that_only_one_database_could_hold_is_refused_by_both(tmp_path: Path, database: str):
    with serving(tmp_path, workers=0, database=database) as service:
        study = service.study("one", metadata={"kept": NUL})
        service.call("POST", f"{study}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 2}}]})
        for method, path, body, field in WITH_NUL:
            problem = service.call(method, path, body, status=422)
            assert problem["errors"][0]["field"] == field, path
        assert service.call("GET", study)["metadata"] == {"kept": NUL}
